"""What a network may know while traced: platform, mesh, and how fsdp splits a kernel.

Both come from the current mesh (`jax.set_mesh`, called by `device_programs`), so that a program
compiled for a TPU on a machine without one is the program that the TPU would run. Without a current
mesh a program is for one device of jax's default backend.
"""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float

FSDP = "fsdp"  # the mesh axis over which large kernels are split


def platform() -> str:
    """The platform that the program being traced will run on: "cpu", "gpu" or "tpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    found = getattr(device, "platform", None) or jax.default_backend()
    return "gpu" if found in ("cuda", "rocm") else found


def device_count() -> int:
    """The number of devices that the program being traced will run on."""
    return jax.sharding.get_abstract_mesh().size or 1


def split_batch(x: Array, axis: int = 0) -> Array:
    """Constrains an axis of x to be split over all devices; does nothing where it does not divide.

    Under FSDP the partitioner may otherwise gather a batch in order to keep kernels split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or x.shape[axis] % mesh.size:
        return x
    spec = jax.P(*(None,) * axis, tuple(mesh.axis_names))
    return jax.lax.with_sharding_constraint(x, spec)


def whole_kernel(kernel: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gathers the kernel of one layer from the devices over which FSDP splits it."""
    spec = kernel_spec(kernel.shape, _fsdp_size())
    return jax.lax.with_sharding_constraint(kernel, jax.P()) if any(spec) else kernel


def split_kernel(kernel: Float[Array, "..."]) -> Float[Array, "..."]:
    """Splits the kernel of one layer, or its gradient, as FSDP does."""
    spec = kernel_spec(kernel.shape, _fsdp_size())
    return jax.lax.with_sharding_constraint(kernel, jax.P(*spec)) if any(spec) else kernel


def kernel_spec(shape: Sequence[int], size: int) -> tuple[str | None, ...]:
    """The partition of one layer's kernel under FSDP: its largest axis divisible by `size`."""
    axes = [a for a, n in enumerate(shape) if n % size == 0] if size > 1 else []
    largest = max(axes, key=lambda a: shape[a], default=None)
    return tuple(FSDP if a == largest else None for a in range(len(shape)))


def _fsdp_size() -> int:
    return dict(jax.sharding.get_abstract_mesh().shape).get(FSDP, 1)
