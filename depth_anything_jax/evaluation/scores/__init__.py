"""Metrics, scores and their means, in NumPy float64."""
