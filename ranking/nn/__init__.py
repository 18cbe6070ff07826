"""Building blocks of the architectures: single-device code, plain torch."""
