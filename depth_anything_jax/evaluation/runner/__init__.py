"""Runs predictors over evaluation sets: reads, predicts, scores, resumes."""
