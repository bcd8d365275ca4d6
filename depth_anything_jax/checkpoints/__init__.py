"""Checkpoints of runs and weights of others: read, converted, described, licensed, exported."""
