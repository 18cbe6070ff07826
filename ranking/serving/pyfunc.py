"""The model's code: MLflow copies this file into the model and runs it wherever the model is loaded."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from ranking.serving.ranker import Ranker


class RankingPyfunc(PythonModel):
    """A `Ranker` behind MLflow's interface."""

    ranker: Ranker

    def load_context(self, context: PythonModelContext) -> None:
        """Open the artefact."""
        self.ranker = Ranker.load(context.artifacts["ranker"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Every task's prediction and the score of N raw rows."""
        return self.ranker.predict(model_input)


set_model(RankingPyfunc())
