"""Evidence of training steps, for people (contact sheets) and for tools/audit.py (NPZ).

    python -m depth_anything_jax.train --config=… --audit=3
    python tools/audit.py WORKDIR/audit

Beside each of the first steps that a run does, on the state before its update and on the same
batch, the functions of which the step consists (training/step.py) are called once more and
everything that passes between them is written down: step_000001.npz, and PNG sheets of what the
student saw, was asked for and answered. The losses must be those that the step reports itself.
Nothing is random about a step once its number is known, so the audit changes nothing in the run.

An NPZ of V1's student (192 images at 518 pixels) takes 4 GB. Of several processes each holds all
of it, and the first writes.
"""

import dataclasses
import functools
import math
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import lax
from jax.experimental import multihost_utils

from depth_anything_jax.losses import relative
from depth_anything_jax.parallel.device_programs import DeviceProgram, device_program
from depth_anything_jax.training import audit_sheets, perturb
from depth_anything_jax.training.step import (
    Networks,
    Output,
    TrainState,
    label_online,
    losses_of,
    outputs_of,
    split,
    step_inputs,
    unsplit,
)
from depth_anything_jax.utils import map_kinds

# Allowed between the losses of the step and of the audit, relative where a loss exceeds 1: they are
# two programs, in which XLA fuses, and so rounds, differently. "exact": float32 networks on a CPU;
# else bfloat16, or float32 in matrix units that multiply in TF32 or bfloat16.
EXACT_ROUNDING, NARROW_ROUNDING = 1e-5, 2.0**-6


class Auditor:
    """Writes WORKDIR/audit for the first `steps` steps that are done; nothing where it is 0.

    Raises:
      ValueError: a negative number of steps, or a metric head.
    """

    def __init__(self, networks: Networks, config, mesh, workdir: str, steps: int):
        if steps < 0:
            raise ValueError(f"--audit={steps}: the number of steps to write down, 0 for none")
        if steps and map_kinds.is_metric_head(config.model.head):
            raise ValueError(
                f"--audit={steps} with model.head={config.model.head!r}: what is written down and "
                "recomputed are the relative losses; leave it out"
            )
        self._left, self._config = steps, config
        self._encoder = networks.student.spec
        self._folder = epath.Path(workdir) / "audit"
        self._observe = program(networks, config, mesh)
        wide = jnp.dtype(networks.student.encoder.dtype).itemsize >= 4
        self._exact = wide and mesh.devices.flat[0].platform == "cpu"

    def before(self, train_state: TrainState, frozen, batch):
        """What the next step is about to do; None where no more steps are asked for.

        Call it before the step itself, which gives the state's buffers away.
        """
        if self._left <= 0:
            return None
        self._left -= 1
        found = self._observe(train_state.params, train_state.step, frozen, batch)
        whole = multihost_utils.process_allgather(found, tiled=True)
        return int(train_state.step) + 1, whole

    def after(self, seen, metrics) -> None:
        """Writes what `before` gave, with what the step reported.

        Raises:
          ValueError: the step reported another loss than the one written down.
        """
        if seen is None:
            return
        done, found = seen
        reported = {k: float(v) for k, v in jax.device_get(metrics).items()}
        rounding = EXACT_ROUNDING if self._exact else NARROW_ROUNDING
        if jax.process_index() == 0:
            self._write(done, found, reported)
        check_reported(found["loss"], reported, self._config, done, rounding)

    def _write(self, done: int, found, reported: dict[str, float]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        arrays = dump(found, reported, self._config, done, self._exact)
        with (self._folder / f"step_{done:06d}.npz").open("wb") as file:
            np.savez(file, **arrays)
        for name, sheet in audit_sheets.sheets(arrays, self._encoder).items():
            ok, encoded = cv2.imencode(".png", sheet[..., ::-1])
            assert ok
            (self._folder / f"step_{done:06d}_{name}.png").write_bytes(encoded.tobytes())


def program(networks: Networks, config, mesh) -> DeviceProgram:
    """(params, step, frozen, batch) -> `evidence`."""
    observe = functools.partial(evidence, networks, config)
    return device_program("train.audit", observe, mesh)


def evidence(networks: Networks, config, params, step, frozen, batch) -> dict[str, Any]:
    """Everything that passes between the functions of a step, by part of the (whole) batch."""
    loss = config.loss
    if networks.teacher is not None:
        seen = label_online(
            networks.teacher, frozen["teacher"], batch["unlabelled"], config.accumulation
        )
        batch, networks = {**batch, "unlabelled": seen}, dataclasses.replace(networks, teacher=None)
    inputs = step_inputs(networks, config, step, frozen, batch)

    def forward(x):
        given = outputs_of(networks, params, frozen, x)
        return given, losses_of(given, x, loss)

    given, sums = lax.map(forward, split(inputs, config.accumulation))
    given = unsplit(given)
    found: dict[str, Any] = {
        "loss": {k: {"sum": out.sum.sum(), "count": out.count.sum()} for k, out in sums.items()}
    }
    for part, x in inputs.items():
        found[part] = judged(part, given[part], x, loss)
        found[part] |= {f"source_{name}": value for name, value in batch[part].items()}
    if "unlabelled" in inputs:
        # The same function once more without CutMix: every image and label on its own.
        alone = config.copy_and_resolve_references()
        alone.perturb.cutmix.p = 0.0
        own = step_inputs(networks, alone, step, frozen, {"unlabelled": batch["unlabelled"]})
        numbers = jnp.arange(len(given["unlabelled"].depth))
        found["unlabelled"] |= {
            "partner": perturb.partner(numbers),
            **{f"own_{k}": own["unlabelled"][k] for k in ("image", "label", "valid")},
        }
    return found


def judged(part: str, given: Output, inputs, loss) -> dict[str, jax.Array]:
    """A part's inputs, outputs, each map's own losses, residuals and cosines."""

    def one(given, x):
        given, x = jax.tree.map(lambda a: a[None], (given, x))
        return {
            name: {"sum": out.sum, "count": out.count}
            for name, out in losses_of({part: given}, {part: x}, loss).items()
        }

    found = {**inputs, "prediction": given.depth}
    for name, out in jax.vmap(one)(given, inputs).items():
        found |= {f"{name}_sum": out["sum"], f"{name}_count": out["count"]}
    how: dict[str, Any] = {}
    if part == "unlabelled":
        how = dict(trim=loss.trim, trim_per=loss.trim_per, min_region_scale=loss.min_region_scale)
    found |= relative.residuals(
        given.depth,
        inputs["label"],
        inputs["valid"],
        inputs.get("mask"),
        min_valid=loss.min_valid,
        **how,
    )._asdict()
    if given.frozen_tokens is not None:
        cosine, kept = relative.cosines(given.tokens, given.frozen_tokens, margin=loss.feat_margin)
        found |= {"cosine": cosine, "token_kept": kept}
        found |= {"tokens": given.tokens, "frozen_tokens": given.frozen_tokens}
    return found


def dump(found, reported: dict[str, float], config, done: int, exact: bool) -> dict[str, Any]:
    """One flat dict of arrays, "unlabelled/label" and so on; narrow floats widened (exactly)."""
    about = {"step": done, "exact": exact, "config": config.to_json_best_effort()}
    arrays = {k: np.asarray(v) for k, v in about.items()}
    arrays |= {f"reported/{k}": np.asarray(v) for k, v in reported.items()}
    arrays |= {
        f"loss/{k}/{n}": np.asarray(v) for k, x in found["loss"].items() for n, v in x.items()
    }
    for part in found.keys() - {"loss"}:
        for name, value in found[part].items():
            value = np.asarray(value)
            wide = value.dtype.kind in "fiub" and value.dtype.itemsize != 2
            arrays[f"{part}/{name}"] = value if wide else value.astype(np.float32)
    if "unlabelled/mask" in arrays:
        arrays["unlabelled/box"] = np.stack([box_of(m) for m in arrays["unlabelled/mask"]])
    return arrays


def box_of(mask: np.ndarray) -> np.ndarray:
    """y0, x0, y1, x1 around what is True; all 0 where nothing is."""
    if not mask.any():
        return np.zeros(4, int)
    y, x = np.nonzero(mask)
    return np.array([y.min(), x.min(), y.max() + 1, x.max() + 1])


def check_reported(found, reported: dict[str, float], config, done: int, rounding: float) -> None:
    """The losses written down are those of the training step itself.

    Raises:
      ValueError: they are not.
    """
    weights = dict(zip(("labelled", "unlabelled", "features"), config.loss.weights, strict=True))
    means = {k: float(x["sum"]) / max(float(x["count"]), 1.0) for k, x in found.items()}
    means["total"] = sum(weights[k] * mean for k, mean in means.items())
    for name, mean in means.items():
        step = reported[f"loss/{name}"]
        # what is not finite in the step, the training itself refuses
        if math.isfinite(step) and not abs(mean - step) <= rounding * max(1.0, abs(step)):
            raise ValueError(
                f"step {done}: the training step reported loss/{name} = {step!r}, the same "
                f"functions beside it gave {mean!r}, further apart than rounding ({rounding:g}). "
                "What the audit wrote down is not what was trained on: report this as a defect"
            )
