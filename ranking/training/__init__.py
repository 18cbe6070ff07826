"""The loop: steps, evaluations and checkpoints."""
