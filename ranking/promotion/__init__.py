"""Promotion: the gate between challenger and champion, the MLflow registry, and the audit trail of its decisions."""
