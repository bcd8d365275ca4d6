"""Manages the output folder of an evaluation run: its resumable log and its report.

with Session(folder, facts, resume=True) as session:
    ledger = session.ledger(candidate, source, …)
    …
    session.show(candidate, source, rows, images, rules)
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from depth_anything_jax.data.pseudo_labels import label_store
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols.protocol import Protocol
from depth_anything_jax.evaluation.report import gallery, page, tables
from depth_anything_jax.evaluation.runner import prediction_writer, process_share
from depth_anything_jax.evaluation.runner.predictors import Candidate
from depth_anything_jax.evaluation.runner.process_share import Share
from depth_anything_jax.evaluation.runner.score_log import Ledger, Log
from depth_anything_jax.evaluation.runner.stream import ProtocolResolver
from depth_anything_jax.evaluation.scores.aggregate import ImageScores
from depth_anything_jax.utils.paths import is_remote
from depth_anything_jax.utils.version import __version__

LOG = "log.jsonl"
# "protocols" in logs of 2026-11-30: a hash of a table whose versions are all unchanged. The label
# of each part of a log says which of them it used.
TABLE_BEFORE = "f71b0a18a7babfe5df62d91e89321928b94fe4d074e05dd765623190142e9658"
EACH, EACH_CORRUPTED = 3, 1  # images shown of the worst, the median and the best


def log_name(share: Share) -> str:
    """The file name of a process's log: log.jsonl for the first, log-1.jsonl for the second."""
    return f"log-{share.index}.jsonl" if share.index else LOG


def new_folder(folder: str | pathlib.Path, *, resume: bool = False) -> pathlib.Path:
    """Checks the folder of a run, and creates it where it does not exist.

    Args:
      resume: the folder may hold an unfinished run, or nothing.

    Raises:
      ValueError: the folder holds anything else, which is never overwritten, because scores may
        have taken hours; or it is not a local path.
    """
    if is_remote(folder):
        raise ValueError(
            f"--out={folder}: the log grows line by line, which a bucket does not allow; give a "
            "local or mounted folder, and copy it afterwards"
        )
    path = pathlib.Path(folder).expanduser()
    there = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if there and not resume:
        hint = ", or go on with --resume" if (path / LOG).is_file() else ""
        raise ValueError(f"--out={folder} is not empty; choose another or remove it{hint}")
    if there and not (path / LOG).is_file():
        raise ValueError(f"--out={folder} holds no {LOG} to resume from; choose another")
    path.mkdir(parents=True, exist_ok=True)
    return path


def folder_of_all(
    folder: str | None, share: Share, *, resume: bool = False, saved: str | None = None
) -> pathlib.Path | None:
    """`new_folder` for several processes; None without a folder.

    The first process checks the folder before any other writes into it, and `saved`, the folder for
    predictions."""
    problem = None
    try:
        if share.index == 0 and saved:
            prediction_writer.check_folder(saved, resume=resume)
        if share.index == 0 and folder:
            new_folder(folder, resume=resume)
    except Exception as error:
        problem = error
    if folder or saved:
        share.agree(problem)
    if not folder:
        return None
    path = pathlib.Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)  # on another host it may be another disk
    return path


class Session:
    """Writes the log and the report of a run; without a folder it writes nothing.

    Args:
      folder: for the log and the report.
      facts: everything that scores depend on and that is known at the start, as JSON values.
      resume: continue where the log in the folder ends.
      share: which of several processes this is.
      title: heading of the report.
    """

    def __init__(
        self,
        folder: pathlib.Path | None = None,
        facts: Mapping[str, Any] | None = None,
        *,
        resume: bool = False,
        share: Share = process_share.ALL,
        title: str = "Depth evaluation",
    ):
        self.folder, self.share, self.title = folder, share, title
        self.speed: list[dict[str, Any]] = []
        self._resume = resume
        facts = dict(facts or {})
        used = {facts.get("protocol") or protocols.default(kind) for kind in protocols.KINDS}
        digest = protocols.digest(*sorted(map(self.version, used)))
        self._facts = {**_versions(), "protocols": digest, **facts, "processes": share.count}
        self._log: Log | None = None
        self._not_before = 0.0
        self._sections: list[page.Section] = []
        self._switches: dict[str, Protocol] = {}

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.share.index == 0

    def version(self, name: str) -> str:
        """A protocol's full name: the version that the resumed run began with, else the latest."""
        full = protocols.named(name)[0]
        path = None if self.folder is None else self.folder / log_name(self.share)
        if "@" in name or not self._resume or path is None or not path.exists():
            return full
        with open(path, encoding="utf-8") as file:
            begun = (re.search(rf'"label": "({name}@[0-9]+)', line) for line in file)
            return next((found[1] for found in begun if found), full)

    def ledger(self, candidate: Candidate, source: Any, **facts: Any) -> Ledger:
        """The ledger of a candidate on a source; in the same order in every run.

        Raises:
          ValueError: the log is of another run.
        """
        if self.folder is None:
            return Ledger(self.share)
        if self._log is None:  # created late, so that a run that fails early leaves no file
            path = self.folder / log_name(self.share)
            same = {"protocols": (TABLE_BEFORE,)}
            self._log = Log(path, self._facts, resume=self._resume, share=self.share, same=same)
        facts |= {
            "checkpoint": candidate.name,
            "identity": candidate.identity,
            "kind": candidate.kind,
            "images": len(source),
            "keys": label_store.keys_digest(source),
            **getattr(source, "facts", {}),
        }
        return self._log.ledger(facts)

    def note(self, part: str, stats: Any, ledger: Ledger, seconds: float) -> None:
        """Prints and records a part's speed: images per second, compiled programs.

        Args:
          part: its name.
          stats: its `predictor.Stats`; None where nothing runs in batches.
          ledger: of the part, complete.
          seconds: how long it took.
        """
        fresh = ledger.images - ledger.before
        row = {"part": part, "images": fresh, "scored_before": ledger.before}
        row |= {"seconds": round(seconds, 3), "images_per_second": round(fresh / seconds, 3)}
        text = f"{fresh} images in {seconds:.1f} s, {fresh / seconds:.1f} per second"
        if ledger.before:
            text += f"; {ledger.before} were scored before"
        if stats is not None:
            row |= {"programs": len(stats.shapes), "padding": stats.padding}
            row |= {"shapes": sorted(stats.shapes)}
            text += f"; input shapes, one compiled program each: {len(stats.shapes)}"
        self.speed.append(row)
        if self.first:
            print(text, file=sys.stderr, flush=True)

    def show(
        self,
        candidate: Candidate,
        source: Any,
        rows: Sequence[Mapping[str, Any]],
        images: Sequence[ImageScores],
        rules: ProtocolResolver,
    ) -> None:
        """Adds pictures of a source's images to the report.

        Only the first process does so, and only with a folder.

        Args:
          rows: the table's rows of one view.
          images: scores of all images of the source, skipped ones included.
          rules: the switches for that view.
        """
        if self.folder is None or not self.first:
            return
        for row in rows:
            mine = [i for i in images if i.protocol == row["hash"]]
            mine = [i for i in mine if (i.dataset or row["reader"]) == row["set"]]
            each = EACH_CORRUPTED if row.get("severity") else EACH
            figures, switches = gallery.section(
                candidate, source, mine, rules, self.folder, each=each
            )
            if not figures:  # pairs of points
                continue
            self._switches |= switches
            self._sections.append(page.Section(row, figures))

    def write(
        self,
        rows: Sequence[dict[str, Any]],
        images: Sequence[dict[str, Any]],
        relative: Sequence[dict[str, Any]] = (),
        *,
        last: bool = True,
    ) -> None:
        """Writes all files of the report with the scores so far.

        Only the first process does so, and only with a folder.

        Args:
          last: whether the run is complete. If not, nothing is written where writing would take
            more than a tenth of the run's time.
        """
        start = time.monotonic()
        if self.folder is None or not self.first or (start < self._not_before and not last):
            return
        tables.write(self.folder, rows, images, relative, self.speed)
        text = page.build(self.title, rows, relative, self._sections, self._switches, self._facts)
        (self.folder / "report.html").write_text(text, encoding="utf-8")
        now = time.monotonic()
        self._not_before = now + 9 * (now - start)

    def close(self) -> None:
        """Closes the log."""
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _versions() -> dict[str, str]:
    """Versions of the code that computes; others may give other digits."""
    found = {name: importlib.metadata.version(name) for name in ("jax", "numpy")}
    return {"version": __version__, **found}
