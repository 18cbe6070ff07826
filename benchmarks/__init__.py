"""Measurements against peers and bare loops; every figure is a ratio of two sides that took turns in one run."""
