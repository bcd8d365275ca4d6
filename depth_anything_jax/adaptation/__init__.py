"""Adapts a model to a folder of photos: `python -m depth_anything_jax.adapt`."""
