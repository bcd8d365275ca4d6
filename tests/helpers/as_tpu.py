"""CPU devices that behave as a TPU's where a program could notice, before it is on one.

On a TPU "auto" means the splash kernel, which the compiler cannot partition (here it is
interpreted, and partitioned without complaint: so it asks itself for the mesh), and meshes take
the devices in an order of their own. As a program, `python -m tests.helpers.as_tpu MODULE FLAGS`
runs `depth_anything_jax.MODULE` so.
"""

import importlib
import sys

import jax
import numpy as np

from depth_anything_jax.models import attention


def behave(set_) -> None:
    """set_: setattr, or a monkeypatch's."""
    choose, splash = attention.choose_backend, attention.splash_attention

    def checked(q, k, v):
        assert not jax.sharding.get_abstract_mesh().empty, "splash without a mesh"
        return splash(q, k, v)

    def reordered(shape, names, *, devices, axis_types):
        """As on v5e:2x4: [0, 1, 2, 3, 7, 6, 5, 4]."""
        half = len(devices) // 2
        ring = np.array([*devices[:half], *devices[half:][::-1]]).reshape(shape)
        return jax.sharding.Mesh(ring, names, axis_types=axis_types)

    set_(attention, "choose_backend", lambda dtype, platform, scores: choose(dtype, "tpu", scores))
    set_(attention, "splash_attention", checked)
    set_(jax, "make_mesh", reordered)


if __name__ == "__main__":
    behave(setattr)
    name = sys.argv.pop(1)
    sys.argv[0] = name
    importlib.import_module(f"depth_anything_jax.{name}").main()
