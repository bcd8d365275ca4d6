"""The project's own device programs, lowered for a mesh from shapes alone: nothing is loaded.

Each function returns what `DeviceProgram.lower` gives, of the very program that train,
pseudo_label, evaluate and predict run.
"""

from typing import Any

import jax
import jax.numpy as jnp

from depth_anything_jax import initial, models, preflight, sharding, state
from depth_anything_jax.device_programs import batch_sharding

Shape = jax.ShapeDtypeStruct


def training_batch(config, mesh) -> dict[str, dict[str, Shape]]:
    """Shapes of a whole batch, as `pipeline.train_batches` and `sharding.put_batch` give it."""
    split = batch_sharding(mesh)
    side = config.input_size
    h, w = side if isinstance(side, tuple) else (side, side)

    def part(n: int, labelled: bool) -> dict[str, Shape]:
        shapes: dict[str, Any] = {"image": ((n, h, w, 3), jnp.float32)}
        if labelled or config.teacher != "online":
            shapes |= {
                "disparity": ((n, h, w), jnp.float32),
                "valid": ((n, h, w), jnp.bool_),
                "sky": ((n, h, w), jnp.bool_),
                "shift_known": ((n,), jnp.bool_),
            }
        if labelled and config.camera.focal:
            shapes["camera"] = (n, 4), jnp.float32
        return {k: Shape(s, d, sharding=split) for k, (s, d) in shapes.items()}

    sizes = preflight.batch_sizes(config)
    return {k: part(n, k == "labelled") for k, n in sizes.items() if n}


class Training:
    """Everything a run compiles, for `config` on `mesh`.

    Args:
      teacher: variant of an online teacher.
    """

    def __init__(self, config, mesh, *, teacher: str = "vitl"):
        dtype = initial.compute_dtype(config.dtype, mesh.devices.flat[0])
        self.config, self.mesh = config, mesh
        sharding.check_batch(mesh, preflight.batch_sizes(config), config.accumulation)
        student = initial.student_of(config, dtype)
        encoder = online = None
        frozen: dict[str, Any] = {}
        image = jnp.zeros((1, 14, 14, 3))
        if config.unlabelled_ratio and config.loss.weights[2]:
            encoder = initial.frozen_encoder_of(config, config.model.variant, dtype)
            frozen["encoder"] = _parameters(encoder, image)
        if config.unlabelled_ratio and config.teacher == "online":
            online = models.build(teacher, **initial.forward_only(config, dtype))
            frozen["teacher"] = _parameters(online, image)
        self.networks = state.Networks(student, encoder, online)
        layout = sharding.tree_shardings(frozen, mesh)
        self.frozen = jax.tree.map(lambda x, s: Shape(x.shape, x.dtype, sharding=s), frozen, layout)
        self.plan = initial.plan(student, config, mesh)
        self.batch = training_batch(config, mesh)

    def step(self) -> jax.stages.Lowered:
        """The training step."""
        step = state.make_train_step(self.networks, self.plan.tx, self.config)
        program = state.jit_train_step(step, self.mesh, self.plan.layout)
        return program.lower(self.plan.abstract, self.frozen, self.batch)


def _parameters(network, image) -> Any:
    def init(key):
        return network.init(key, image)["params"]

    return jax.eval_shape(init, jax.random.key(0))
