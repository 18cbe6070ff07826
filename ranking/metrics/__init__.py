"""Metrics over a whole evaluation set: exact, order-free, and "undefined" (None) rather than a guess."""

from ranking.metrics.auc import midranks, roc_auc
from ranking.metrics.calibration import (
    ReliabilityCurve,
    calibration_ratio,
    ece,
    log_loss,
    normalised_entropy,
    reliability_curve,
)
from ranking.metrics.grouped import GroupedAuc, gauc
from ranking.metrics.regression import mae, mse, r2, r2_interval, rmse
from ranking.metrics.report import EvaluationReport, Kind, Predictions, SpaceReport, TaskReport, evaluate_predictions
from ranking.metrics.significance import (
    Difference,
    Interval,
    delong,
    paired_bootstrap,
    paired_delong,
    paired_difference,
    paired_r2,
)
from ranking.metrics.table import auc_table

__all__ = [
    "Difference",
    "EvaluationReport",
    "GroupedAuc",
    "Interval",
    "Kind",
    "Predictions",
    "ReliabilityCurve",
    "SpaceReport",
    "TaskReport",
    "auc_table",
    "calibration_ratio",
    "delong",
    "ece",
    "evaluate_predictions",
    "gauc",
    "log_loss",
    "mae",
    "midranks",
    "mse",
    "normalised_entropy",
    "paired_bootstrap",
    "paired_delong",
    "paired_difference",
    "paired_r2",
    "r2",
    "r2_interval",
    "reliability_curve",
    "rmse",
    "roc_auc",
]
