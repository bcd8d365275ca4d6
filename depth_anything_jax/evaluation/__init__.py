"""Scores predictions on labelled data; the entry point is `runner.loop.evaluate`."""
