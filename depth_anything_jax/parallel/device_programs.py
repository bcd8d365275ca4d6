"""The one way to make a program for devices: jit, with the mesh that it runs on.

Networks read the mesh while they are traced (`placement`): the fused attention of TPUs
cannot be partitioned by the compiler and must know it. A program therefore carries its mesh and
enters it whenever it is traced or called, whatever mesh is in context outside. `jax.jit` stands
nowhere else in the package, and each name below is run on several devices and compiled for TPU
topologies by the tests (tests/parallel/test_device_programs.py holds both).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class DeviceProgram:
    """A jitted function with its mesh; called like the function.

    Attributes:
      name: "program.part", for messages and tests.
      mesh: the devices it runs on.
    """

    def __init__(self, name: str, function: Callable[..., Any], mesh: Mesh, **how: Any):
        self.name, self.mesh = name, mesh
        self._jitted = jax.jit(function, **how)

    def __call__(self, *args: Any) -> Any:
        """Runs it, compiled once for each shape of its arguments."""
        with jax.set_mesh(self.mesh):
            return self._jitted(*args)

    def lower(self, *args: Any, platform: str = "") -> jax.stages.Lowered:
        """Traces it for arguments, which may be shapes (`jax.ShapeDtypeStruct`).

        Args:
          platform: "cuda", …, that it is lowered for; "": that of the mesh's devices, which also
            decides what `placement.platform` says while it is traced.
        """
        platforms = (platform,) if platform else None
        with jax.set_mesh(self.mesh):
            return self._jitted.trace(*args).lower(lowering_platforms=platforms)


def device_program(
    name: str,
    function: Callable[..., Any],
    mesh: Mesh,
    *,
    out_shardings: Any = None,
    donate: int | Sequence[int] = (),
    static: int | Sequence[int] = (),
) -> DeviceProgram:
    """Makes a program for the devices of a mesh.

    Args:
      name: "program.part"; a literal, which the tests look for.
      function: of arrays alone.
      mesh: its devices, with axes of type Auto.
      out_shardings: a sharding, or a tree of them, for the results; None: the compiler's choice.
      donate: positions of arguments whose memory the results may take.
      static: positions of arguments that are no arrays; compiled once for each value.
    """
    return DeviceProgram(
        name,
        function,
        mesh,
        out_shardings=out_shardings,
        donate_argnums=donate,
        static_argnums=static,
    )


def options(effort: float, platform: str = "tpu") -> dict[str, float] | None:
    """Compiler options of an effort from -1 (compiles up to ten times faster, may run slower) over
    0 (XLA's own) to 1; CPUs compile as ever.

    Raises:
      ValueError: out of that range.
    """
    if not -1 <= effort <= 1:
        raise ValueError(f"compile_effort={effort}: from -1 (compile fast) over 0 to 1")
    if not effort or platform == "cpu":
        return None
    return {"exec_time_optimization_effort": float(effort)}


def data_mesh(devices: Sequence[Any]) -> Mesh:
    """A mesh of the one axis "data" over these devices, in this order."""
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """One copy on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(tuple(mesh.axis_names)))
