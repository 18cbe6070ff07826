"""The Census-Income study of MMoE, section 4.3: seven architectures, tuned, then run from many random weights."""
