"""Losses and their labels in jnp: affine-invariant (sky, CutMix, trimming), features, SiLog."""
