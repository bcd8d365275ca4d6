"""Several processes score one set: each its share, every image once."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

from depth_anything_jax.parallel import processes


@dataclasses.dataclass(frozen=True)
class Share:
    """Which of `count` processes this is."""

    index: int = 0
    count: int = 1

    def mine(self, groups: Sequence[Hashable]) -> list[int]:
        """The images of this process, of a set whose image i belongs to groups[i].

        Every count-th group in the order in which they come up: a group is one image, or, where a
        whole sequence is aligned at once, a sequence.
        """
        order = {group: at for at, group in enumerate(dict.fromkeys(groups))}
        return [i for i, group in enumerate(groups) if order[group] % self.count == self.index]

    def gather(self, value: Any) -> list[Any]:
        """What each process gave, in their order; all have to call, as often as each other."""
        if self.count == 1:
            return [value]
        return processes.gather(value)

    def broken(self) -> bool:
        """Whether a process has told of a failure: nothing but `agree` makes sense any more."""
        return processes.failure() is not None

    def agree(self, problem: Exception | None) -> None:
        """Raises in every process what went wrong in one of them.

        The others are told of a problem at once: see `broken`.

        Raises:
          Exception: this process's problem, as it is.
          RuntimeError: that of another process.
        """
        if problem is not None:
            processes.tell(problem)
        said = self.gather(None if problem is None else f"{type(problem).__name__}: {problem}")
        if problem is not None:
            raise problem
        for index, other in enumerate(said):
            if other:
                raise RuntimeError(f"process {index} failed: {other}")


ALL = Share()  # one process: all images are its own


def this_process() -> Share:
    """The share of this process among those that `processes.join_processes` joined."""
    import jax

    return Share(jax.process_index(), jax.process_count())
