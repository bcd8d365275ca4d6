"""Resumable score log: records the scores of each image, in memory or in a file.

    log = Log("scores/log.jsonl", {"size": 518, …}, resume=True)
    ledger = log.ledger({"checkpoint": …, "set": …})
    loop.evaluate_candidate(candidate, source, ledger=ledger)

log.jsonl has the run's facts on the first line, then a line for each part (one checkpoint on one
set) and one for each scored image, or for each sequence where sequences are aligned as a whole.
A line that is incomplete, because the run was killed while writing it, is dropped, so partial
results are never used. Numbers are written with all their digits.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from depth_anything_jax.evaluation.runner import process_share
from depth_anything_jax.evaluation.runner.process_share import Share
from depth_anything_jax.evaluation.scores.aggregate import ImageScores

FORMAT = 1  # of the log; other formats are refused
# The image's index in its source → the kind that it was scored as → scores.
Scored = Mapping[int, Mapping[str, ImageScores]]


class Ledger:
    """Keeps the scores of one set in memory as they are computed.

    Args:
      share: which of several processes this is.
      known: scores from an earlier run.

    Attributes:
      images, before: numbers of images of all processes, and of those among them that had been
        scored before; valid after `collect`.
    """

    def __init__(self, share: Share = process_share.ALL, known: Scored | None = None):
        self.share, self.known = share, dict(known or {})
        self.images = self.before = 0
        self._mine: list[int] = []
        self._old: set[int] = set(self.known)

    def todo(self, groups: Sequence[Hashable]) -> list[int]:
        """Lists the images that this process still has to score; image i belongs to groups[i]."""
        self._mine = self.share.mine(groups)
        return [i for i in self._mine if i not in self.known]

    def progress(self) -> tuple[int, int]:
        """How many of this process's images have been scored, and how many it has."""
        return sum(i in self.known for i in self._mine), len(self._mine)

    def add(self, scored: Scored) -> None:
        """Adds the scores of an image, or of all frames of a sequence."""
        self.known.update(scored)

    def collect(self, stream: Iterable[Scored]) -> dict[int, Mapping[str, ImageScores]]:
        """Adds all scores of a stream; returns the scores of all processes by image index.

        Raises:
          Exception: the stream raised it, in this process or another.
          ValueError: two processes scored the same image.
        """
        problem: Exception | None = None
        try:
            for scored in stream:
                self.add(scored)
                if self.share.has_failure():
                    break
        except Exception as error:
            problem = error
        self.share.agree(problem)
        old = len(self._old.intersection(self._mine))
        parts = self.share.gather(({i: self.known[i] for i in self._mine}, old))
        self.before = sum(count for _, count in parts)
        found: dict[int, Mapping[str, ImageScores]] = {}
        for part, _ in parts:
            twice = sorted(found.keys() & part.keys())
            if twice:
                (first, *_) = part[twice[0]].values()
                raise ValueError(f"{first.key} was scored by two processes")
            found |= part
        self.images = len(found)
        return found


class Log:
    """The log of one process of a run.

    Args:
      path: the file; with `resume`, images in it count as scored.
      facts: everything that scores depend on and that is known at the start, as JSON values.
      resume: continue the log at `path`; start a new one if there is none.
      share: which of several processes this is.

    Raises:
      ValueError: the log belongs to another run (the message names the first fact that differs), or
        the file is not a log.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        facts: Mapping[str, Any],
        *,
        resume: bool = False,
        share: Share = process_share.ALL,
    ):
        self.path, self.share = pathlib.Path(path), share
        self._parts: list[tuple[Mapping[str, Any], dict[int, Mapping[str, ImageScores]]]] = []
        self._at = 0
        facts = json.loads(json.dumps({"format": FORMAT, **facts}))
        lines = self._read() if resume and self.path.exists() else []
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        if not lines:
            self._write({"run": facts})
        else:
            self._check(lines[0].get("run", {}), facts, "the run")
        for line in lines[1:]:
            if "part" in line:
                self._parts.append((line["part"], {}))
            else:
                self._parts[line["of"]][1].update(_from_json(line["scored"]))

    def _read(self) -> list[dict[str, Any]]:
        """Reads all complete lines, and truncates the file after them."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)
        found = []
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"{self.path}, line {number}: not a line of a score log ({error}); choose "
                    "another --out, or remove this one"
                ) from error
        return found

    def _check(self, there: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
        for name in (*now, *there):
            if there.get(name) != now.get(name):
                raise ValueError(
                    f"{self.path} is of another run: {name} of {what} is {there.get(name)!r} "
                    f"there and {now.get(name)!r} now. Choose another --out, restore it, or start "
                    "anew in an empty folder"
                )

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def ledger(self, facts: Mapping[str, Any]) -> Ledger:
        """Returns the ledger of the next part; every run must have its parts in the same order.

        Args:
          facts: what its scores depend on, beside the run's facts, as JSON values.
        """
        facts, at = json.loads(json.dumps(dict(facts))), self._at
        self._at += 1
        if at == len(self._parts):
            self._parts.append((facts, {}))
            self._write({"part": facts})
        there, known = self._parts[at]
        self._check(there, facts, f"part {at + 1}")
        return _LoggedLedger(self, at, known)

    def add(self, part: int, scored: Scored) -> None:
        """Appends a line."""
        plain = {i: {k: s._asdict() for k, s in by.items()} for i, by in scored.items()}
        self._write({"of": part, "scored": plain})

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _LoggedLedger(Ledger):
    def __init__(self, log: Log, part: int, known: Scored):
        super().__init__(log.share, known)
        self._log, self._part = log, part

    def add(self, scored: Scored) -> None:
        """Writes the scores to the log before adding them."""
        self._log.add(self._part, scored)
        super().add(scored)


def _from_json(plain: Mapping[str, Mapping[str, Any]]) -> Scored:
    return {int(i): {k: ImageScores(**s) for k, s in by.items()} for i, by in plain.items()}
