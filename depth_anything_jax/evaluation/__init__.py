"""Scores of predictions on labelled data: `loop.evaluate` is the way in."""
