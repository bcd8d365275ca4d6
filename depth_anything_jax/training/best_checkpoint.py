"""Keeps the checkpoint with the best score of a run, in WORKDIR/best."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from depth_anything_jax.checkpoints import orbax_io


def higher_is_better(score: str) -> bool:
    """Whether a score such as eval/nyu/delta1 grows as the model gets better."""
    return score.rpartition("/")[2].startswith("delta")


class BestCheckpoint:
    """Saves the state whenever the score `name` is better than all before, resumed runs included.

    `--checkpoint=WORKDIR/best` names it to the other programs.

    Args:
      workdir: the run's folder; without a name nothing is made in it.
      name: a score that the run logs, "" for none.
      scores: the names of all scores that it logs.

    Raises:
      ValueError: a name that is not one of the scores.
    """

    def __init__(self, workdir: str, name: str, scores: Collection[str]):
        self._name, self._checkpoints = name, None
        self._best: float | None = None
        if not name:
            return
        if name not in scores:
            known = ", ".join(scores) or "none, because eval.every is 0 or eval.data is empty"
            raise ValueError(f"checkpoint.keep_best={name!r}: this run logs {known}")
        self._checkpoints = orbax_io.Checkpoints(f"{workdir}/best", keep_last=1, own=True)
        if self._checkpoints.latest is not None:
            saved = self._checkpoints.meta().get("best", {})
            self._best = saved.get("value") if saved.get("score") == name else None

    def save(self, step: int, state, meta: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Saves `state` if its scores are the best so far; every process calls it.

        Args:
          scores: of process 0; other processes have none.
        """
        if self._checkpoints is None:
            return
        value = scores.get(self._name, np.nan)  # a score that failed is none
        if jax.process_count() > 1:
            value = float(multihost_utils.broadcast_one_to_all(np.float64(value)))
        sign = 1 if higher_is_better(self._name) else -1
        if not np.isfinite(value) or (self._best is not None and sign * (value - self._best) <= 0):
            return
        self._best = float(value)
        latest = self._checkpoints.latest
        if latest is not None and latest >= step:  # of a run that was killed and did them again
            self._checkpoints.set_aside(latest, "superseded")
        best = {"score": self._name, "value": self._best}
        self._checkpoints.save(step, state, {**meta, "best": best})

    def close(self) -> None:
        """Waits for the last write."""
        if self._checkpoints is not None:
            self._checkpoints.close()
