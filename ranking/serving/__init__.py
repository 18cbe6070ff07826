"""Serving: the artefact, the score, and the MLflow model around them. Plain torch only."""
