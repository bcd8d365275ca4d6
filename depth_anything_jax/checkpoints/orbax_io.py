"""Reads and writes Orbax checkpoints: the train state, and the metadata needed to use it.

One folder holds numbered steps; each step holds the array tree "state" and, as custom metadata,
the model's description (variant, version, head, max_depth), its licence chain, the configuration
and the data position. Folders may be local or on `gs://`.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from depth_anything_jax.utils import param_paths
from depth_anything_jax.utils.paths import is_remote

_STATE = "state"
_STEP = re.compile(r"\d+")


class Checkpoints:
    """The checkpoints of one run: saved asynchronously, restored onto any mesh.

    Args:
      folder: where the numbered steps lie.
      keep_last: number of the newest steps to keep.
      keep_every: also keep every step divisible by this (0: none).
      own: True for the run that saves here, which removes half-written steps of a killed run. A
        reader must not, because a run may be writing there now.
    """

    def __init__(self, folder, *, keep_last: int = 2, keep_every: int = 0, own: bool = False):
        self.folder = _absolute(folder)
        policies = ocp.training.preservation_policies
        keep = [policies.LatestN(keep_last)]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        self._orbax = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=own,
        )

    @property
    def latest(self) -> int | None:
        """The newest complete step, or None."""
        found = self._orbax.latest
        return None if found is None else found.step

    def save(self, step: int, state, meta: Mapping[str, Any], *, wait: bool = False) -> None:
        """Snapshots `state` now and writes it in the background.

        The snapshot is taken before this returns, so the next step may donate `state`'s buffers.
        Errors of the previous background write are raised here or in `close`. A step that exists is
        left as it is (a run stopped twice at the same step).
        """
        if self.latest == step:
            return
        self._orbax.save_checkpointables_async(
            step, {_STATE: state}, force=True, custom_metadata=dict(meta)
        )
        if wait:
            self._orbax.wait()

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The metadata saved with a step (None: the newest)."""
        return dict(self._orbax.checkpointables_metadata(step).custom_metadata or {})

    def restore(self, abstract_state, step: int | None = None):
        """The state of a step (None: the newest), laid out as `abstract_state` says.

        Args:
          abstract_state: a tree of ShapeDtypeStruct with shardings, which need not be those the
            checkpoint was written with.
        Raises:
          ValueError: lists every array that is missing, left over or of another shape.
        """
        stored = self._orbax.checkpointables_metadata(step).metadata[_STATE]
        _compare(stored, abstract_state, f"{self.folder}/{self.latest if step is None else step}")
        return self._orbax.load_checkpointables(step, {_STATE: abstract_state})[_STATE]

    def close(self) -> None:
        """Waits for the last write; raises what went wrong with it."""
        self._orbax.close()


class Schedule:
    """Decides when to save: after so many steps, or so many minutes after the last save.

    The minutes serve sessions of unknown speed. The clock decides only when a state is written,
    never what is computed. All processes save at the same steps, by the clock of process 0; because
    reading it waits for the devices, it is read at every tenth step.
    """

    CLOCK_STEPS = 10

    def __init__(self, every: int, minutes: float, clock: Callable[[], float] = time.monotonic):
        self._every, self._seconds, self._clock = every, 60 * minutes, clock
        self.saved()

    def saved(self) -> None:
        """Restarts the minutes."""
        self._since = self._clock()

    def due(self, step: int) -> bool:
        """Whether to save after this step (counted from 1); all processes call it at each."""
        if self._every and step % self._every == 0:
            return True
        if not self._seconds:
            return False
        over = self._clock() - self._since >= self._seconds
        if jax.process_count() == 1:
            return over
        if step % self.CLOCK_STEPS:
            return False
        return bool(multihost_utils.broadcast_one_to_all(np.asarray(over)))


def _compare(stored, expected, where: str) -> None:
    def shapes(tree):
        return {p: tuple(x.shape) for p, x in param_paths.leaves_by_path(tree).items()}

    have, want = shapes(stored), shapes(expected)
    problems = [f"  missing from the checkpoint: {p} {want[p]}" for p in want if p not in have]
    problems += [f"  in the checkpoint only: {p} {have[p]}" for p in have if p not in want]
    problems += [
        f"  {p}: {have[p]} in the checkpoint, {want[p]} in this run"
        for p in want
        if p in have and have[p] != want[p]
    ]
    if problems:
        shown = "\n".join(problems[:40])
        more = f"\n  … and {len(problems) - 40} more" if len(problems) > 40 else ""
        raise ValueError(
            f"checkpoint {where} does not fit this run's state:\n{shown}{more}\n"
            "Resume with the configuration it was written with, or start a new workdir with "
            "--config.init_from pointing at it."
        )


def _absolute(path) -> epath.Path:
    """Makes a path absolute, as Orbax requires, but leaves gs://… as it is."""
    path = os.fspath(path)
    return epath.Path(path if is_remote(path) else os.path.abspath(os.path.expanduser(path)))


def find(path) -> epath.Path | None:
    """Finds the step folder that `path` refers to, or None.

    `path` may be a run's workdir, its "checkpoints" folder or one step; the newest step is taken.
    """
    path = _absolute(path)
    for folder in (path / "checkpoints", path):
        if folder.is_dir():
            steps = [p for p in folder.iterdir() if _STEP.fullmatch(p.name)]
            for step in sorted(steps, key=lambda p: -int(p.name)):
                if ocp.is_orbax_checkpoint(step):
                    return step
    return path if path.is_dir() and _STEP.fullmatch(path.name) else None


def load_params(path, *, ema: bool = True) -> tuple[dict, dict[str, Any]]:
    """Loads parameters (numpy) and metadata of a checkpoint that any devices wrote.

    Args:
      path: a workdir, a "checkpoints" folder or one step.
      ema: take the running average where the run kept one.
    Raises:
      FileNotFoundError: there is no Orbax checkpoint.
    """
    step = find(path)
    if step is None:
        raise FileNotFoundError(
            f"no Orbax checkpoint under {path}: expected numbered folders in it or in its "
            "'checkpoints' folder"
        )
    described = ocp.checkpointables_metadata(step)
    stored = described.metadata[_STATE]
    name = "ema" if ema and stored.get("ema") else "params"
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one), stored[name]
    )
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        tree = ocp.load(step, {name: abstract}, checkpointable_name=_STATE)[name]
    meta = dict(described.custom_metadata or {})
    return jax.tree.map(np.asarray, tree), {**meta, "step": int(step.name), "weights": name}


def save_params(path, params, meta: Mapping[str, Any]) -> None:
    """Writes parameters alone, as step 0 of a new checkpoint folder.

    Raises:
      FileExistsError: `path` is not empty.
    """
    folder = epath.Path(path)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; choose another folder or remove it")
    checkpoints = Checkpoints(folder, keep_last=1)
    checkpoints.save(0, {"params": jax.tree.map(np.asarray, params)}, meta, wait=True)
    checkpoints.close()
