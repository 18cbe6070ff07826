"""A night of retraining, stage by stage: the day's data, training, judgement, promotion, report."""
