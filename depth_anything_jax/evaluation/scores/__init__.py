"""Metrics and means in numpy float64."""
