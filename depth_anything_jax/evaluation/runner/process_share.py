"""Divides the images of a data set among processes, so that each image is scored once."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

from depth_anything_jax.parallel import processes


@dataclasses.dataclass(frozen=True)
class Share:
    """The share of process `index` among `count` processes."""

    index: int = 0
    count: int = 1

    def mine(self, groups: Sequence[Hashable]) -> list[int]:
        """Selects this process's images from a set whose image i belongs to groups[i].

        It takes every count-th group in order of first appearance: a group is one image, or, where
        sequences are aligned as a whole, one sequence.
        """
        order = {group: at for at, group in enumerate(dict.fromkeys(groups))}
        return [i for i, group in enumerate(groups) if order[group] % self.count == self.index]

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes in order; all must call it equally often."""
        if self.count == 1:
            return [value]
        return processes.gather(value)

    def has_failure(self) -> bool:
        """Whether a process has reported a failure, after which only `agree` may be called."""
        return processes.failure() is not None

    def agree(self, problem: Exception | None) -> None:
        """Raises in every process the error of one of them.

        The other processes are notified of it at once: see `has_failure`.

        Raises:
          Exception: this process's problem, as it is.
          RuntimeError: that of another process.
        """
        if problem is not None:
            processes.tell(problem)
        texts = self.gather(None if problem is None else f"{type(problem).__name__}: {problem}")
        if problem is not None:
            raise problem
        for index, other in enumerate(texts):
            if other:
                raise RuntimeError(f"process {index} failed: {other}")


ALL = Share()  # one process: all images are its own


def this_process() -> Share:
    """The share of this process among those that `processes.join_processes` joined."""
    import jax

    return Share(jax.process_index(), jax.process_count())
