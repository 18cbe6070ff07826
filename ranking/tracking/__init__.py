"""Tracking: the MLflow run and its spool, figures, the model card, the registry."""
