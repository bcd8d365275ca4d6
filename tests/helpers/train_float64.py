"""train.py in float64 from end to end: its images too, which the data pipeline gives in float32.

    JAX_ENABLE_X64=1 python -m tests.helpers.train_float64 --config=… --config.dtype=float64

What differs between two settings of a run by rounding alone shrinks by nine digits in it.
"""

import jax
import numpy as np

from depth_anything_jax import train
from depth_anything_jax.parallel import sharding


def wide(x):
    """A float32 array in float64, any other as it is."""
    return x.astype(np.float64) if x.dtype == np.float32 else x


def widen(setattr=setattr) -> None:
    """From now on batches go to the devices in float64."""
    put_batch = sharding.put_batch
    setattr(sharding, "put_batch", lambda b, mesh: put_batch(jax.tree.map(wide, b), mesh))


if __name__ == "__main__":
    widen()
    train.main()
