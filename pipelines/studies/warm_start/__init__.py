"""Ids that arrive every day: models trained from scratch beside models that go on from the day before."""
