"""Describes TPU slices by name, with libtpu but without a TPU, and their chips' peak figures."""

import math
import os
import sys
from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """Peak figures of one chip, from Google's pages on each (cloud.google.com/tpu/docs/v5e …).

    Attributes:
      flops: bfloat16 FLOP/s.
      memory: bytes of HBM that a program may use, as libtpu 0.0.42 says of one that needs more.
      bandwidth: bytes/s of HBM.
      links: bytes/s that the chip sends to others over all its links, half of the bidirectional
        figure.
      config: libtpu's name of the chip's configuration with its cores as one device.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float
    config: str


CHIPS = {
    "v4": Chip(275e12, 30.75 * GIB, 1200e9, 300e9, "megacore"),
    "v5e": Chip(197e12, 15.75 * GIB, 819e9, 200e9, "default"),
    "v5p": Chip(459e12, 95.74 * GIB, 2765e9, 600e9, "megacore"),
    "v6e": Chip(918e12, 31.25 * GIB, 1638e9, 400e9, "default"),
}


class Topology(NamedTuple):
    """A slice: its name, chip, devices (in libtpu's order), and chips of a host."""

    name: str
    chip: Chip
    devices: list
    host: int


def describe(name: str, *, host: int = 0) -> Topology:
    """Returns the slice of a name such as "v5e:4x4" or "v5p:2x2x4".

    Args:
      name: generation and chips along each axis of the torus.
      host: chips of a host, 1, 4 or 8; 0: 4, or 1 where the slice has one chip.

    Raises:
      ValueError: no such generation or shape.
      ImportError: without libtpu.
    """
    generation, _, shape = name.partition(":")
    if generation not in CHIPS:
        raise ValueError(f"topology {name!r}: choose one of {', '.join(CHIPS)}, as in v5e:4x4")
    axes = 3 if generation in ("v4", "v5p") else 2
    sides = shape.split("x")
    if len(sides) != axes or not all(s.isdigit() and int(s) for s in sides):
        example = "2x2x4" if axes == 3 else "4x4"
        raise ValueError(
            f"topology {name!r}: chips of {generation} lie on {axes} axes, such as "
            f"{generation}:{example}"
        )
    chips = math.prod(map(int, sides))
    host = host or min(chips, 4)
    bounds = {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 4, 1)}
    if host not in bounds:
        raise ValueError(f"host={host}: a TPU host has 1, 4 or 8 chips")
    # Nobody asks a metadata server or looks for a TPU: this machine has none.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip, so no lock on it
    # `make nightly` puts it beside the environment, where it slows down nothing else.
    sys.path += [p for p in (f"{sys.prefix}/libtpu",) if os.path.isdir(p) and p not in sys.path]
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "compiling for TPUs needs libtpu (and no TPU): python -m pip install --no-deps "
            f"--constraint constraints.txt --target {sys.prefix}/libtpu libtpu"
        ) from error
    from jax.experimental import topologies

    chip = CHIPS[generation]
    try:
        found = topologies.get_topology_desc(
            platform="tpu",
            topology_name=name,
            chip_config_name=chip.config,
            chips_per_host_bounds=bounds[host],
        )
    except Exception as error:
        raise ValueError(f"topology {name!r} with hosts of {host} chips: {error}") from error
    return Topology(name, chip, list(found.devices), host)


def of_one_host(topology: Topology) -> list:
    """Returns the devices of the slice's first host."""
    return [d for d in topology.devices if d.process_index == 0]
