"""Runs the whole method on rendered scenes: `python -m depth_anything_jax.demo`."""
