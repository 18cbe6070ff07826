"""The tuner: a study of many trials, shared by its workers."""
