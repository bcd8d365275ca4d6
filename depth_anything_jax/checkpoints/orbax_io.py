"""Reads and writes Orbax checkpoints: the train state, and the metadata needed to use it.

One folder holds numbered steps; each step holds the array tree "state" and, as custom metadata,
the model's description (variant, version, head, max_depth), its licence chain, the configuration
and the data position. Folders may be local or on `gs://`.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from depth_anything_jax.checkpoints import damaged_steps
from depth_anything_jax.checkpoints.damaged_steps import STATE, DamagedCheckpoint
from depth_anything_jax.utils import param_paths
from depth_anything_jax.utils.literal_paths import literal
from depth_anything_jax.utils.paths import is_remote

_STEP = re.compile(r"\d+")


class Restored(NamedTuple):
    """What `Checkpoints.restore_newest` returns."""

    step: int
    state: Any
    meta: dict[str, Any]


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
        self.folder = checked_folder(folder)
        logging.get_absl_logger().addFilter(_is_no_thread_error)  # the same one is added once
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
        with self._saving():
            self._orbax.save_checkpointables_async(
                step, {STATE: state}, force=True, custom_metadata=dict(meta)
            )
            if wait:
                self._orbax.wait()

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The metadata saved with a step (None: the newest).

        Raises:
          DamagedCheckpoint: the step has no metadata.
        """
        step = self.latest if step is None else step
        if step is not None and (problem := damaged_steps.problem_of(self.folder / str(step))):
            raise damaged_steps.error(self.folder / str(step), problem)
        return dict(self._orbax.checkpointables_metadata(step).custom_metadata or {})

    def restore(self, abstract_state, step: int | None = None):
        """The state of a step (None: the newest), laid out as `abstract_state` says.

        Args:
          abstract_state: a tree of ShapeDtypeStruct with shardings, which need not be those the
            checkpoint was written with.
        Raises:
          ValueError: lists every array that is missing, left over or of another shape.
          DamagedCheckpoint: the step cannot be read.
        """
        step = self.latest if step is None else step
        stored = self._orbax.checkpointables_metadata(step).metadata[STATE]
        if stored is None:
            raise damaged_steps.unopened(self.folder / str(step))
        _compare(stored, abstract_state, f"{self.folder}/{step}")
        return damaged_steps.read(
            self.folder / str(step),
            lambda: self._orbax.load_checkpointables(step, {STATE: abstract_state})[STATE],
        )

    def restore_newest(
        self,
        abstract_state,
        check: Callable[[dict[str, Any]], None],
        fetch: Callable[[int], bool] = lambda step: False,
    ) -> Restored | None:
        """Restores the newest whole step; newer, damaged ones are renamed with a warning.

        With several processes a damaged step is an error instead, because what one of them cannot
        read another one may.

        Args:
          abstract_state: as for `restore`.
          check: is given the step's metadata first, and raises where they are another run's.
          fetch: is given a damaged step; True where it has put an intact copy in its place.

        Returns:
          The step, its state and its metadata; None where there is no step.

        Raises:
          DamagedCheckpoint: no step is whole; names all of them.
        """
        damaged: dict[int, DamagedCheckpoint] = {}
        for step in reversed([found.step for found in self._orbax.checkpoints]):
            try:
                try:
                    restored = self._restored(step, abstract_state, check)
                except DamagedCheckpoint:
                    if jax.process_count() > 1 or not fetch(step):
                        raise
                    self._orbax.reload()
                    restored = self._restored(step, abstract_state, check)
            except DamagedCheckpoint as error:
                if jax.process_count() > 1:
                    raise
                damaged[step] = error
                continue
            for number, problem in damaged.items():
                aside = self.set_aside(number, "damaged")
                logging.warning(
                    "%s. It is now called %s, and the run goes on from step %d",
                    str(problem).partition(";")[0],
                    aside,
                    step,
                )
            return restored
        if damaged:
            raise DamagedCheckpoint(
                "no checkpoint of this run is whole:\n"
                + "\n".join("  " + str(error).partition(";")[0] for error in damaged.values())
                + f"\nRestore one from a copy, or remove {self.folder} to start anew"
            )
        return None

    def _restored(
        self, step: int, abstract_state, check: Callable[[dict[str, Any]], None]
    ) -> Restored:
        meta = self.meta(step)
        check(meta)
        return Restored(step, self.restore(abstract_state, step), meta)

    def set_aside(self, step: int, why: str) -> str:
        """Renames a step to STEP.WHY, so that it can be saved again; returns the new name."""
        name = free_name(self.folder, f"{step}.{why}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(name)  # all have found the same name
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(self.folder / name)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{name} is there")
        self._orbax.reload()
        return name

    def close(self) -> None:
        """Waits for the last write; raises its error."""
        with self._saving():
            self._orbax.close()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns an error of Orbax or TensorStore into one that says what is still there."""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError):
                raise
            step = find(self.folder)
            whole = "no step is whole" if step is None else f"step {step.name} is whole"
            reason = str(error).partition(" [os_error")[0].rpartition(": ")[2]
            raise OSError(
                f"a checkpoint could not be written into {self.folder}: {reason} "
                f"({type(error).__name__}); {whole} there. Make room or repair the folder, and "
                "start the same command again"
            ) from error


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


def free_name(folder, name: str) -> str:
    """Returns `name`, or with a number behind it where the folder has something of that name."""
    found, number = name, 1
    while (folder / found).exists():
        number += 1
        found = f"{name}-{number}"
    return found


def _is_no_thread_error(record: Any) -> bool:
    """Filters the tracebacks that Orbax's threads log; `wait` raises their errors again."""
    return not (record.exc_info and "orbax/checkpoint" in record.pathname)


def checked_folder(path) -> epath.Path:
    """Makes the absolute path of a folder for checkpoints.

    Raises:
      ValueError: a name that Orbax cannot save under.
    """
    folder = _absolute(path)
    if "\\" in os.fspath(folder) and os.sep == "/":
        raise ValueError(
            f"{folder}: TensorStore, which writes the checkpoints, takes each backslash in a path "
            "for a slash; choose a folder without one"
        )
    return folder


def _absolute(path) -> epath.Path:
    """Makes a path absolute, as Orbax requires, but leaves gs://… as it is."""
    path = literal(path)
    return path if is_remote(path) else path.resolve()


def find(path) -> epath.Path | None:
    """Finds the step folder that `path` refers to, or None.

    `path` may be a run's workdir, its "checkpoints" folder or one step; the newest step is taken.
    """
    path = _absolute(path)
    for folder in (path / "checkpoints", path):
        if folder.is_dir():
            steps = [p for p in folder.iterdir() if _STEP.fullmatch(p.name)]
            for step in sorted(steps, key=lambda p: -int(p.name)):
                there = all((step / name).exists() for name in damaged_steps.METADATA)
                if there and ocp.is_orbax_checkpoint(step):
                    return step
    return path if path.is_dir() and _STEP.fullmatch(path.name) else None


def load_params(path, *, ema: bool = True) -> tuple[dict, dict[str, Any]]:
    """Loads parameters (numpy) and metadata of a checkpoint that any devices wrote.

    Args:
      path: a workdir, a "checkpoints" folder or one step.
      ema: take the running average where the run kept one.
    Raises:
      FileNotFoundError: there is no Orbax checkpoint.
      DamagedCheckpoint: the newest step cannot be read.
    """
    checked_folder(path)
    step = find(path)
    if step is None:
        raise FileNotFoundError(
            f"no Orbax checkpoint under {path}: expected numbered folders in it or in its "
            "'checkpoints' folder"
        )
    if problem := damaged_steps.problem_of(step):
        raise damaged_steps.error(step, problem)
    if step.name != os.path.basename(os.fspath(path).rstrip("/")):
        newest = max(int(p.name) for p in step.parent.iterdir() if _STEP.fullmatch(p.name))
        if newest > int(step.name):
            logging.warning("%s/%d is not whole; %s is read", step.parent, newest, step)
    described = ocp.checkpointables_metadata(step)
    stored = described.metadata[STATE]
    if stored is None:
        raise damaged_steps.unopened(step)
    name = "ema" if ema and stored.get("ema") else "params"
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one), stored[name]
    )
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        tree = damaged_steps.read(
            step, lambda: ocp.load(step, {name: abstract}, checkpointable_name=STATE)[name]
        )
    meta = dict(described.custom_metadata or {})
    return jax.tree.map(np.asarray, tree), {**meta, "step": int(step.name), "weights": name}


def save_params(path, params, meta: Mapping[str, Any]) -> None:
    """Writes parameters alone, as step 0 of a new checkpoint folder.

    Raises:
      FileExistsError: `path` is not empty.
    """
    folder = checked_folder(path)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; choose another folder or remove it")
    checkpoints = Checkpoints(folder, keep_last=1)
    checkpoints.save(0, {"params": jax.tree.map(np.asarray, params)}, meta, wait=True)
    checkpoints.close()
