"""Goodput: how much of a run's life its steps took, from its first start on, restarts included."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from depth_anything_jax.utils.formatting import duration


class Goodput:
    """Compares the time in steps with the time since a run began.

    Time in steps is what the steps of the newest checkpoint and those since took, without
    compilation, waiting for data, saving, scores and pictures. Steps that a killed start did behind
    its last checkpoint are done again, and count once. Time between two starts is read off the
    machine's clock; where that was set back, only the time in processes counts.

    Args:
      kept: `facts` of the checkpoint that the run goes on from; None: it begins.
      earlier: seconds that this process has already run.
      clock, now: monotonic seconds, and seconds since 1970.
    """

    def __init__(
        self,
        kept: Mapping[str, Any] | None,
        *,
        earlier: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ):
        kept = kept or {"begun": now() - earlier, "in_steps": 0.0, "in_processes": 0.0, "starts": 0}
        self._begun, self._in_steps = float(kept["begun"]), float(kept["in_steps"])
        self._in_processes = float(kept["in_processes"])
        self.starts = int(kept["starts"]) + 1
        self._clock, self._now, self._started = clock, now, clock() - earlier

    def facts(self, stepping: float) -> dict[str, Any]:
        """What a checkpoint keeps; `stepping`: seconds in steps since this start."""
        return {
            "begun": self._begun,
            "in_steps": self._in_steps + stepping,
            "in_processes": self._in_processes + self._clock() - self._started,
            "starts": self.starts,
        }

    def share(self, stepping: float) -> float:
        """Time in steps over time since the run began, 0 to 1."""
        return min(1.0, self._seconds(stepping)[0] / max(self._seconds(stepping)[1], 1e-9))

    def line(self, stepping: float) -> str:
        """The share in words."""
        steps, life = self._seconds(stepping)
        starts = "" if self.starts == 1 else f", {self.starts} starts"
        return (
            f"goodput {self.share(stepping):.1%}: {duration(steps)} in steps of {duration(life)} "
            f"since the run began{starts}"
        )

    def _seconds(self, stepping: float) -> tuple[float, float]:
        found = self.facts(stepping)
        return found["in_steps"], max(self._now() - self._begun, found["in_processes"])
