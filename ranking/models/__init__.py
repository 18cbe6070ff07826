"""Architectures of the MMoE, PLE and ESMM literature."""
