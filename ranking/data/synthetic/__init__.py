"""Data made here, whose law is known."""
