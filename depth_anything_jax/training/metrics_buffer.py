"""Fetches the numbers of each step one step late, counts skipped updates, and stops lost runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from depth_anything_jax.training import optim

PARTS = ("labelled", "unlabelled")
_LOWER = (
    "Lower optim.encoder_lr and optim.decoder_lr; --config.log.images=1 draws the steps before it"
)
EMPTY_PART = (
    "every {part} map was dropped (fewer than loss.min_valid usable pixels, or one value "
    "everywhere), so nothing is learned. Are the labels empty, or is their format, scale or "
    "sentinel another one (docs/data.md)? Sparse labels may need a lower loss.min_valid"
)


class MetricsBuffer:
    """Holds the metrics of every step on the device and fetches them one step late.

    The device so never waits for the host, and because all steps are fetched, no skipped update and
    no number that is not finite goes unseen.

    Args:
      config: of the run; guard.in_a_row and guard.in_all limit the skipped updates.
      on_skip: called with what is known of each update that was skipped: step, why, norms, keys.

    Attributes:
      skipped: updates skipped since the process started.
      in_a_row: of them, those since the last update that was made, up to the newest step fetched.
    """

    EMPTY = 20  # batches without one usable label in a row that stop a run; our choice
    LIMIT = 64  # steps held at most: the metrics of a step are some forty small buffers

    def __init__(self, config, on_skip: Callable[[dict[str, Any]], None] = lambda skip: None):
        self._config, self._on_skip = config, on_skip
        self._steps: list[tuple[int, Any, int, Mapping[str, Sequence[str]]]] = []
        self._last: tuple[int, dict[str, float]] = (0, {})
        self._empty = dict.fromkeys(PARTS, 0)  # such batches in a row
        self.skipped = self.in_a_row = 0
        short = max(2, config.total_steps // 10)  # a run of 20 steps must not skip 10 of them
        self._limits = {
            "in_a_row": min(config.guard.in_a_row, short),
            "in_all": config.guard.in_all,
        }

    def add(
        self, done: int, metrics, failures: int, keys: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Adds the device scalars of a step, the number of records that had failed by then, and
        the keys of its records, by part."""
        self._steps.append((done, metrics, failures, keys or {}))
        if len(self._steps) > self.LIMIT:
            self.fetch(done - 1)

    def fetch(self, step: int) -> dict[str, float]:
        """Returns the numbers of `step`, which is the last one fetched or newer.

        Raises:
          FloatingPointError: guard.in_a_row or guard.in_all updates were skipped, a number is not
            finite though its update was made, or EMPTY batches in a row had no usable label; names
            the step, and the records of a skipped one.
        """
        due = [s for s in self._steps if s[0] <= step]
        self._steps = self._steps[len(due) :]
        for (done, _, failures, keys), metrics in zip(
            due, jax.device_get([s[1] for s in due]), strict=True
        ):
            numbers = {k: float(v) for k, v in metrics.items()}
            bad = [f"{k} is {v}" for k, v in numbers.items() if not math.isfinite(v)]
            why = [k for k in numbers if k.startswith("skip/") and numbers[k]]
            if why:
                self._skip(done, why[0].removeprefix("skip/"), numbers, keys)
            elif bad:
                raise FloatingPointError(
                    f"step {done}: {', '.join(bad)}; all checkpoints are from before. {_LOWER}"
                )
            else:
                self.in_a_row = 0
            for part in PARTS:
                dropped = numbers.get(f"{part}/dropped_maps") == 1
                self._empty[part] = self._empty[part] + 1 if dropped else 0
                if self._empty[part] == self.EMPTY:
                    raise FloatingPointError(
                        f"steps {done - self.EMPTY + 1} to {done}: {EMPTY_PART.format(part=part)}"
                    )
            numbers |= rates(self._config, done - 1) | {"data/failures": failures}
            self._last = done, numbers
        assert self._last[0] == step
        return self._last[1]

    def _skip(
        self, done: int, why: str, numbers: dict[str, float], keys: Mapping[str, Sequence[str]]
    ) -> None:
        """Counts a skipped update, tells of it, and stops the run after too many."""
        self.skipped += 1
        self.in_a_row += 1
        norms = {k: v for k, v in numbers.items() if k.startswith("grad_norm/")}
        self._on_skip(
            {"step": done, "why": why, **norms, "keys": {k: [*v] for k, v in keys.items()}}
        )
        for name, count in (("in_a_row", self.in_a_row), ("in_all", self.skipped)):
            if count >= self._limits[name]:
                records = "; ".join(f"{part} {', '.join(v[:8])}" for part, v in keys.items())
                raise FloatingPointError(
                    f"step {done}: the last of {count} updates{' in a row' * (name == 'in_a_row')} "
                    f"that were skipped ({why.replace('_', ' ')}), the limit of guard.{name} (a "
                    f"tenth of a short run). Its records: {records}; skipped.jsonl has all. Where "
                    f"these are as they should be: {_LOWER[0].lower()}{_LOWER[1:]}"
                )


def rates(config, step: int) -> dict[str, float]:
    """Returns the learning rates of update `step` (counted from 0)."""
    factor = float(
        optim.schedule(config.optim.schedule, config.total_steps, config.optim.warmup)(step)
    )
    groups = optim.GROUPS if config.model.head == "bins" else ("encoder", "decoder")
    return {f"lr/{group}": config.optim[f"{group}_lr"] * factor for group in groups}
