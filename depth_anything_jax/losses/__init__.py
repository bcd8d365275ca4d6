"""Losses in jnp: affine-invariant relative loss, SiLog, masked medians."""
