"""Synthetic data whose ground truth is known."""
