"""Tracking: the MLflow run and its spool, figures, the model card, logs and the metrics file."""
