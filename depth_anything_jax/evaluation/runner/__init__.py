"""Runs predictors over evaluation sets: reading, predicting, scoring, resuming."""
