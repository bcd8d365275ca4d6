"""Our side: the step as train.py builds it from configs/student.py, its random draws recorded."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from depth_anything_jax.checkpoints import convert
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import config_checks, optim, perturb
from depth_anything_jax.training import init as initial
from depth_anything_jax.training import step as train_step  # by the module: mutations change it
from depth_anything_jax.training.step import Networks, new_state
from tests.helpers import reference_model
from tests.twin import jax_networks

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
PARTS = ("labelled", "unlabelled", "features")


def config(arg: str, optimisation, **fields):
    """configs/student.py:arg in float64, small, with that optimisation."""
    o = optimisation
    c = runpy.run_path(str(CONFIGS / "student.py"))["get_config"](arg)
    c.update_from_flattened_dict(
        {
            "dtype": "float64",
            "model.attention": "einsum",  # computes softmax in the precision of its input
            "total_steps": o.total,
            "optim.encoder_lr": o.encoder,
            "optim.decoder_lr": o.decoder,
            "optim.warmup": o.warmup,
            "optim.weight_decay": o.decay,
            "optim.clip": o.clip,
            "ema_decay": o.average,
            **fields,
        }
    )
    return c


class Ours:
    """A student, what it learns from, and its optimiser."""

    def __init__(self, config, networks, frozen, params, names):
        """names: our tree of parameters -> {name of the twin: array}."""
        self.config, self.networks, self.names = config, networks, names
        self.mesh = sharding.make_mesh(devices=jax.devices()[:1])
        self.sizes = config_checks.batch_sizes(config)
        params = jax.tree.map(jnp.array, params)
        self.tx = keeps_gradients(optim.make(config.optim, params, config.total_steps))
        self.state = new_state(params, self.tx, ema=config.ema_decay > 0)
        self.frozen = jax.tree.map(jnp.array, frozen)
        self.start = jax.tree.map(np.array, self.names(params))  # copies: params are donated
        self.program = jax.jit(self._step, donate_argnums=0)

    def _step(self, state_, frozen, batch, weights):
        c = self.config.copy_and_resolve_references()
        c.loss.weights = tuple(weights)
        step = train_step.make_train_step(self.networks, self.tx, c)
        return step(state_, frozen, batch)

    def _run(self, state_, batch, weights):
        with jax.set_mesh(self.mesh):
            placed = sharding.put_batch(batch, self.mesh)
            out = self.program(state_, self.frozen, placed, jnp.array(weights))
        jax.effects_barrier()
        return out

    def step(self, batch) -> dict[str, float]:
        """One update; returns its metrics."""
        self.state, metrics = self._run(self.state, batch, self.config.loss.weights)
        return {k: float(v) for k, v in metrics.items()}

    def changes(self) -> dict[str, np.ndarray]:
        """What every tensor has changed by since the start; "average " before those of the mean."""
        now = self.names(self.state.params)
        changed = {name: now[name] - self.start[name] for name in now}
        if self.state.ema is not None:
            average = self.names(self.state.ema)
            changed |= {f"average {name}": average[name] - self.start[name] for name in now}
        return changed

    def gradients(self, batch, part: str) -> dict[str, np.ndarray]:
        """Of one loss alone, at the present parameters and draws."""
        weights = [float(part == name) for name in PARTS]
        after, _ = self._run(jax.tree.map(jnp.copy, self.state), batch, weights)
        return self.names(after.opt_state["gradients"])


def keeps_gradients(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """tx, whose state holds the gradients it was last given."""

    def init(params):
        return {"tx": tx.init(params), "gradients": jax.tree.map(jnp.zeros_like, params)}

    def update(gradients, kept, params=None):
        updates, inner = tx.update(gradients, kept["tx"], params)
        return updates, {"tx": inner, "gradients": gradients}

    return optax.GradientTransformation(init, update)


def of_transformers(config, folder, student, frozen) -> Ours:
    """From transformers' models; the frozen encoder goes through a file, as for train.py."""
    path = folder / "frozen.safetensors"
    tensors = convert.to_torch(reference_model.params(frozen), "dinov2-hf")
    safetensors.numpy.save_file({k: np.ascontiguousarray(x) for k, x in tensors.items()}, path)
    config.frozen_encoder = str(path)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    networks, frozen_params, _ = initial.networks(config, mesh)

    def names(params):
        return convert.to_torch(jax.tree.map(np.array, params), "hf")

    return Ours(config, networks, frozen_params, reference_model.params(student), names)


def of_pixels(config, student, frozen, teacher=None) -> Ours:
    """From torch_networks.Pixels."""
    ours = [jax_networks.from_torch(x.state_dict()) for x in (student, frozen, teacher or student)]
    networks = Networks(
        jax_networks.Pixels(), jax_networks.Encoder(), jax_networks.Pixels() if teacher else None
    )
    weights = {"encoder": ours[1]["encoder"], "teacher": ours[2]}
    return Ours(config, networks, weights, ours[0], jax_networks.to_torch)


def names_of(model):
    """{name of the twin's parameter: name that `Ours` gives it}, for transformers' models."""
    arrays = {n: np.array(i) for i, n in enumerate(dict(model.named_parameters()))}
    found = convert.canonical(arrays)
    return {list(arrays)[int(i)]: n for n, i in found.items()}


def record_draws(monkeypatch) -> dict[str, list]:
    """From now on every draw of a compiled step is kept: {"colours": […], "boxes": […]}."""
    drawn: dict[str, list] = {"colours": [], "boxes": []}

    def recorded(draw, keep):
        def wrapper(*args, **kwargs):
            out = draw(*args, **kwargs)
            jax.debug.callback(lambda x: keep(jax.tree.map(np.asarray, x)), out, ordered=True)
            return out

        return wrapper

    def keep_boxes(boxes):
        drawn["boxes"].append(np.stack(boxes, axis=1))

    def keep_colours(factors):
        drawn["colours"].append(factors._asdict())

    monkeypatch.setattr(perturb, "draw_boxes", recorded(perturb.draw_boxes, keep_boxes))
    monkeypatch.setattr(perturb, "draw_colour", recorded(perturb.draw_colour, keep_colours))
    return drawn
