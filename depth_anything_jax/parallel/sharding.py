"""Makes the mesh (data, fsdp) and the shardings of batches, parameters and optimiser state.

The batch is split over both axes; parameters and optimiser state are split over "fsdp" along one
axis of each kernel (which kernels: RULES; which axis: `placement.kernel_spec`) and replicated over
"data". With fsdp = 1 this is plain data parallelism.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from depth_anything_jax.parallel.device_programs import batch_sharding
from depth_anything_jax.parallel.placement import kernel_spec
from depth_anything_jax.utils import param_paths

# (regex, rule): "fsdp" splits the largest divisible axis (never the stacked-layer axis of blocks);
# "replicate" keeps a copy on every device. The first match is used.
RULES: Sequence[tuple[str, str]] = (
    (r"(.*/)?blocks/.*/kernel", "fsdp"),
    (r"(.*/)?decoder/.*/kernel", "fsdp"),
    (r".*", "replicate"),
)


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a ("data", "fsdp") mesh; data=-1 uses the number of devices divided by fsdp.

    The axes are of type Auto: Linen modules cannot be initialised under jax's default, Explicit.

    Raises:
      ValueError: the sizes do not use every device.
    """
    devices = list(jax.devices()) if devices is None else list(devices)
    n = len(devices)
    if fsdp < 1 or n % fsdp:
        raise ValueError(f"mesh.fsdp={fsdp} does not divide {n} devices; use a divisor of {n}")
    if data == -1:
        data = n // fsdp
    if data * fsdp != n:
        raise ValueError(
            f"mesh.data={data} x mesh.fsdp={fsdp} = {data * fsdp}, but there are {n} devices; "
            f"set mesh.data=-1 or {n // fsdp}"
        )
    near = jax.make_mesh((n,), ("all",), axis_types=(AxisType.Auto,), devices=devices)
    ordered = np.array(by_process(near.devices.flat)).reshape(data, fsdp)
    return Mesh(ordered, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def by_process(devices: Iterable[Any]) -> list[Any]:
    """Groups devices, given in the order of a TPU's torus, by process.

    A process holds consecutive rows of the batch (data/pipeline.py), whatever the position of its
    chips; in the order of the torus (0 0 1 1 1 1 0 … on v5e:4x4) its rows would hold
    the examples of other processes.
    """
    return sorted(devices, key=lambda device: device.process_index)


def tree_shardings(tree, mesh: Mesh, rules=RULES):
    """Returns a NamedSharding for every leaf of a parameter, optimiser or train-state tree."""
    names = param_paths.match(tree, rules, what="sharding.RULES", every_rule_used=False)

    def sharding(path, leaf, rule):
        spec = _fsdp_spec(path, leaf.shape, mesh.shape["fsdp"]) if rule == "fsdp" else ()
        return NamedSharding(mesh, PartitionSpec(*spec))

    return param_paths.map_with_path(sharding, tree, names)


def _fsdp_spec(path: str, shape: tuple[int, ...], size: int) -> tuple[str | None, ...]:
    stacked = 1 if "blocks/" in path else 0
    spec = kernel_spec(shape[stacked:], size)
    return (*(None,) * stacked, *spec) if any(spec) else ()


def put_batch(batch, mesh: Mesh):
    """Converts this process's rows of a batch to global arrays, split over the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def check_batch(mesh: Mesh, sizes: Mapping[str, int], accumulation: int) -> None:
    """Checks that every part of the batch is divisible by devices × accumulation.

    Raises:
      ValueError: a part is not; the message names it and the nearest batch_size that fits.
    """
    unit = mesh.size * accumulation
    wrong = [name for name, size in sizes.items() if size % unit]
    if not wrong:
        return
    total, parts = sum(sizes.values()), [size for size in sizes.values() if size]
    share = math.gcd(*parts)  # the batch holds this many times the ratio of its parts
    needed = math.lcm(*(unit // math.gcd(unit, size // share) for size in parts))
    step = needed * total // share
    fit = max(step, round(total / step) * step)
    raise ValueError(
        f"batch_size={total} has {' and '.join(f'{n} {name}' for name, n in sizes.items() if n)} "
        f"images; the {wrong[0]} ones do not divide over {mesh.size} devices x "
        f"accumulation={accumulation} = {unit}; use a multiple of {step}, such as batch_size={fit}"
    )
