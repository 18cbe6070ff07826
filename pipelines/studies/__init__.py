"""Published figures of the literature, measured again: one package a study."""
