"""Jits functions together with the mesh that they run on.

Networks read the mesh while they are traced (`placement`): the fused attention of TPUs cannot be
partitioned by the compiler and needs the mesh. A program therefore stores its mesh and sets it
whenever it is traced or called, whatever mesh is set outside. `jax.jit` is used nowhere else in the
package, and tests run each named program on several devices and compile it for TPU topologies
(tests/parallel/test_device_programs.py checks both).
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
      mesh: the devices that it runs on.
    """

    def __init__(self, name: str, function: Callable[..., Any], mesh: Mesh, **how: Any):
        self.name, self.mesh = name, mesh
        self._jitted = jax.jit(function, **how)

    def __call__(self, *args: Any) -> Any:
        """Runs the function, compiled once for each shape of its arguments."""
        with jax.set_mesh(self.mesh):
            return self._jitted(*args)

    def lower(self, *args: Any, platform: str = "") -> jax.stages.Lowered:
        """Traces and lowers the function for arguments or shapes (`jax.ShapeDtypeStruct`).

        Args:
          platform: the platform to lower for ("cuda", …); "": that of the mesh's devices, which
            `placement.platform` returns while tracing in either case.
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
      name: "program.part"; a literal, which the tests search for.
      function: a function of arrays.
      mesh: its devices, with axes of type Auto.
      out_shardings: a sharding, or a tree of them, for the results; None: the compiler's choice.
      donate: positions of arguments whose memory the results may reuse.
      static: positions of arguments that are not arrays; compiled once for each value.
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
    """Returns compiler options for an effort between -1 and 1.

    -1 compiles up to ten times faster and may run slower; 0 is XLA's default. Compilation for CPUs
    is not affected.

    Raises:
      ValueError: the effort is out of that range.
    """
    if not -1 <= effort <= 1:
        raise ValueError(f"compile_effort={effort}: from -1 (compile fast) over 0 to 1")
    if not effort or platform == "cpu":
        return None
    return {"exec_time_optimization_effort": float(effort)}


def data_mesh(devices: Sequence[Any]) -> Mesh:
    """Makes a mesh with the single axis "data" over these devices, in this order."""
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of one copy on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding that splits the first axis over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(tuple(mesh.axis_names)))
