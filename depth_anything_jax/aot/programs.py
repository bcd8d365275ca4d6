"""The project's own device programs, lowered for a mesh from shapes alone: nothing is loaded.

Each is the very program that train, pseudo_label, evaluate and predict run, made by the same
functions.
"""

from typing import Any

import jax
import jax.numpy as jnp

from depth_anything_jax import models
from depth_anything_jax.inference import predictor
from depth_anything_jax.models.dtypes import compute_dtype
from depth_anything_jax.models.outputs import disparity, raw_output
from depth_anything_jax.parallel import sharding
from depth_anything_jax.parallel.device_programs import DeviceProgram, batch_sharding, replicated
from depth_anything_jax.training import audit, config_checks, monitor
from depth_anything_jax.training.init import (
    forward_only,
    frozen_dtypes,
    frozen_encoder_of,
    init_program,
    plan,
    student_of,
)
from depth_anything_jax.training.step import Networks, jit_train_step, make_train_step

Shape: Any = jax.ShapeDtypeStruct


def training_batch(config, mesh) -> dict[str, dict[str, Shape]]:
    """Shapes of a whole batch, as `pipeline.train_batches` and `sharding.put_batch` give it."""
    split = batch_sharding(mesh)
    side = config.input_size
    h, w = side if isinstance(side, tuple) else (side, side)

    def part(n: int, labelled: bool) -> dict[str, Shape]:
        label = "depth" if labelled and config.model.head != "relative" else "disparity"
        shapes: dict[str, Any] = {"image": ((n, h, w, 3), jnp.float32)}
        if labelled or config.teacher != "online":
            shapes |= {
                label: ((n, h, w), jnp.float32),
                "valid": ((n, h, w), jnp.bool_),
                "sky": ((n, h, w), jnp.bool_),
                "shift_known": ((n,), jnp.bool_),
            }
        if labelled and config.camera.focal:
            shapes["camera"] = (n, 4), jnp.float32
        return {k: Shape(s, d, sharding=split) for k, (s, d) in shapes.items()}

    sizes = config_checks.batch_sizes(config)
    return {k: part(n, k == "labelled") for k, n in sizes.items() if n}


class Training:
    """Everything that a run compiles, for `config` on `mesh`.

    Args:
      teacher: variant of an online teacher.
      platform: that programs are lowered for; "": that of the mesh's devices.

    Raises:
      ValueError: a batch that does not divide over the mesh.
    """

    def __init__(self, config, mesh, *, teacher: str = "vitl", platform: str = ""):
        dtype = compute_dtype(config.dtype, mesh.devices.flat[0])
        self.config, self.mesh, self._platform = config, mesh, platform
        sharding.check_batch(mesh, config_checks.batch_sizes(config), config.accumulation)
        student = student_of(config, dtype)
        encoder = online = None
        frozen: dict[str, Any] = {}
        if config.unlabelled_ratio and config.loss.weights[2]:
            encoder = frozen_encoder_of(config, config.model.variant, dtype)
            frozen["encoder"] = parameters(encoder)
        if config.unlabelled_ratio and config.teacher == "online":
            online = models.build(teacher, **forward_only(config, dtype))
            frozen["teacher"] = parameters(online)
        self.networks = Networks(student, encoder, online)
        layout = sharding.tree_shardings(frozen, mesh)
        dtypes = frozen_dtypes(frozen, dtype)
        self.frozen = jax.tree.map(
            lambda x, d, s: Shape(x.shape, d, sharding=s), frozen, dtypes, layout
        )
        self.plan = plan(student, config, mesh)
        self.batch = training_batch(config, mesh)

    def _lower(self, program: DeviceProgram, *args) -> jax.stages.Lowered:
        return program.lower(*args, platform=self._platform)

    def step(self) -> jax.stages.Lowered:
        """train.step."""
        step = make_train_step(self.networks, self.plan.tx, self.config)
        program = jit_train_step(step, self.mesh, self.plan.layout)
        return self._lower(program, self.plan.abstract, self.frozen, self.batch)

    def init(self) -> jax.stages.Lowered:
        """train.init."""
        program = init_program(self.plan.new_state, self.mesh, self.plan.layout)
        return self._lower(program, jax.random.key(0))

    def strips(self) -> jax.stages.Lowered:
        """train.strips: a picture on each device, of which four are kept."""
        *_, h, w, _ = next(iter(self.batch.values()))["image"].shape
        n = -(-monitor.ROWS // self.mesh.size) * self.mesh.size
        images = Shape((n, h, w, 3), jnp.float32, sharding=batch_sharding(self.mesh))
        program = monitor.strips_program(self.networks.student, self.mesh)
        return self._lower(program, self.plan.abstract.params, images, monitor.ROWS)

    def gather(self) -> jax.stages.Lowered:
        """train.gather: parameters for the scores."""
        return self._lower(monitor.gather_program(self.mesh), self.plan.abstract.params)

    def audit(self) -> jax.stages.Lowered:
        """train.audit; of relative heads."""
        program = audit.program(self.networks, self.config, self.mesh)
        abstract = self.plan.abstract
        return self._lower(program, abstract.params, abstract.step, self.frozen, self.batch)


def predict(
    model, mesh, height: int, width: int, *, batch: int = 0, raw: bool = False, platform: str = ""
) -> jax.stages.Lowered:
    """inference.predict: what labels, scores and depth maps of pictures come from.

    Args:
      model: as `models.build` gives it.
      mesh: one axis over the devices of a process (`device_programs.data_mesh`).
      height, width: of the network's input.
      batch: images at a time; 0: as many as pseudo_label and DepthAnything take.
      raw: what the head says, as DepthAnything and evaluate ask for it; else disparity, as
        pseudo_label does.
      platform: as for `Training`.
    """
    output = raw_output if raw else disparity
    program = predictor.program(model, mesh, output)
    shapes = jax.tree.map(
        lambda x: Shape(x.shape, x.dtype, sharding=replicated(mesh)), parameters(model)
    )
    n = batch or predictor.usual_batch(list(mesh.devices.flat))
    images = Shape((n, height, width, 3), jnp.float32, sharding=batch_sharding(mesh))
    return program.lower(shapes, images, platform=platform)


def parameters(network) -> Any:
    """Shapes of a network's parameters."""
    plain = models.with_plain_attention(network)
    side = network.spec.patch_size
    image = jnp.zeros((1, side, side, 3))
    return jax.eval_shape(lambda: plain.init(jax.random.key(0), image)["params"])
