"""Finds copies of training images among evaluation images: is zero-shot zero-shot?

    python tools/find_duplicates.py TRAINING EVALUATION --out leaks
    python tools/find_duplicates.py sa1b:SA1B benchmark:kitti?path=KITTI --out leaks
    python tools/find_duplicates.py folder:photos folder:photos --out twice   # within one set

TRAINING and EVALUATION are sources as every program takes them (docs/data.md). A copy may be
resized, recompressed, mirrored, recoloured, and lack up to a tenth of each side. The images of
EVALUATION are kept as thumbnails in memory (21 KB an image at most), those of TRAINING pass by one
after the other, so they may be any number. Written to --out:

  pairs.jsonl   a line for each pair: keys, score, mirrored, the window of the second image
  pairs.png     the best-scored and the worst-scored pairs side by side
  progress.json how far a run has come

The same command continues after an interruption. Exit status: 0 no copies; 1 copies; 3 no copies,
but images that cannot be read.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from depth_anything_jax.data import near_copies, registry, shards
from depth_anything_jax.data.sources.base import Source
from depth_anything_jax.visualization import contact_sheets

CHUNK = 256  # images between two notes of progress
SHOWN = 6  # pairs of each end on the sheet
VERSION = 1  # of what a search finds: raise it with every change of near_copies that alters it


def load(text: str) -> Source:
    """Builds a source, without labels where it can do without."""
    spec = registry.parse(text)
    if spec.get("type") not in ("folder", "benchmark"):
        spec = {"labelled": False, **spec}
    return registry.make(spec)


def thumbnails(
    source: Source, indices: Sequence[int], threads: int
) -> Iterator[tuple[int, near_copies.Thumbnail | None, str]]:
    """Yields (index, thumbnail, "" or why it cannot be read), in order."""

    def read(index: int) -> tuple[int, near_copies.Thumbnail | None, str]:
        try:
            return index, near_copies.thumbnail(source[index]["image"]), ""
        except Exception as error:  # decoders raise all kinds of errors
            return index, None, f"{source.key(index)}: {error}"

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        yield from pool.map(read, indices)


def describe(text: str, source: Source) -> dict[str, Any]:
    """What tells whether a source is still the one that a search was begun with."""
    ends = [source.key(0), source.key(len(source) - 1)]
    return {"source": text, "records": len(source), "first_and_last": ends}


class Search:
    """A search that goes on where it stopped.

    Args:
      out: folder, made where it is missing.
      facts: of this search; a folder begun with others is refused.

    Attributes:
      done: images of the first source that are searched for.
      pairs: found so far.
      unread: images that cannot be read, and why.

    Raises:
      ValueError: the folder holds another search.
    """

    def __init__(self, out: pathlib.Path, facts: dict[str, Any]):
        self._facts, self._lines = facts, out / "pairs.jsonl"
        self._progress = out / "progress.json"
        self.done, self.unread = 0, [""][:0]
        size = 0
        if self._progress.exists():
            noted = json.loads(self._progress.read_text())
            different = shards.changes(noted["search"], facts)
            if different:
                raise ValueError(
                    f"{out} holds another search ({'; '.join(different)}): give another --out, or "
                    "delete it"
                )
            self.done, self.unread, size = noted["done"], noted["unread"], noted["bytes"]
        elif self._lines.exists():
            raise ValueError(f"{self._lines} is there and {self._progress} is not: another --out")
        out.mkdir(parents=True, exist_ok=True)
        with open(self._lines, "ab") as file:
            if file.tell() < size:
                raise ValueError(f"{self._lines} is shorter than it was: another --out")
            file.truncate(size)  # lines of a chunk that was not finished
        self.pairs = [json.loads(line) for line in self._lines.read_text().splitlines()]

    def note(self, done: int, pairs: Sequence[dict[str, Any]], unread: Sequence[str]) -> None:
        """Writes down a finished chunk."""
        with open(self._lines, "a") as file:
            file.writelines(json.dumps(pair) + "\n" for pair in pairs)
        self.done, self.pairs = done, [*self.pairs, *pairs]
        self.unread = [*self.unread, *unread]
        size = self._lines.stat().st_size
        noted = {"search": self._facts, "done": done, "unread": self.unread, "bytes": size}
        shards.write_text(shards.epath.Path(self._progress), json.dumps(noted, indent=1))


def find(
    first: str, second: str, out: pathlib.Path, *, threads: int = 2, tell: Any = print
) -> Search:
    """Searches for copies of the first source's images in the second.

    Within one source (the same text twice) each pair is found once.
    """
    training, evaluation = load(first), load(second)
    same = first == second
    facts = {"training": describe(first, training), "evaluation": describe(second, evaluation)}
    search = Search(out, {**facts, "version": VERSION})
    if search.done == len(training):
        return search
    kept: list[near_copies.Thumbnail | None] = []
    for index, small, problem in thumbnails(evaluation, range(len(evaluation)), threads):
        kept.append(small)
        if problem:
            tell(f"{second}: record {index} cannot be read: {problem}")
    flat = sum(k is None for k in kept)
    collection = near_copies.Collection(kept)
    tell(f"{second}: {len(kept):,} images, {flat:,} of them flat or unread, which match nothing")
    start, before = time.perf_counter(), search.done
    for begin in range(search.done, len(training), CHUNK):
        indices = range(begin, min(begin + CHUNK, len(training)))
        pairs, unread = [], []
        for index, small, problem in thumbnails(training, indices, threads):
            if problem:
                unread.append(problem)
            pairs += [
                {
                    "training": training.key(index),
                    "evaluation": evaluation.key(copy.second),
                    "score": round(copy.score, 4),
                    "mirrored": copy.mirrored,
                    "window": [round(x, 3) for x in copy.window],
                    "positions": [index, copy.second],
                }
                for copy in collection.copies(small, index)
                if not same or copy.second > index
            ]
        search.note(indices.stop, pairs, unread)
        rate = (indices.stop - before) / (time.perf_counter() - start)
        left = (len(training) - indices.stop) / rate
        tell(
            f"{indices.stop:,} of {len(training):,} images, {len(search.pairs):,} pairs, "
            f"{rate:.0f} a second, {left / 60:.0f} min to go"
        )
    return search


def draw(search: Search, first: str, second: str, path: pathlib.Path) -> None:
    """Draws pairs of both ends, the training image on the left."""
    training, evaluation = load(first), load(second)
    ordered = sorted(search.pairs, key=lambda p: -p["score"])
    shown = ordered if len(ordered) <= 2 * SHOWN else [*ordered[:SHOWN], *ordered[-SHOWN:]]
    rows = []
    for pair in shown:
        i, j = pair["positions"]
        words = f"score {pair['score']:.3f}" + (", mirrored" if pair["mirrored"] else "")
        left, right = training[i]["image"], evaluation[j]["image"]
        rows.append(
            contact_sheets.row(
                contact_sheets.tile(left, pair["training"][-28:], words),
                contact_sheets.tile(right, pair["evaluation"][-28:], ""),
            )
        )
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("training", help="source of images to train on, of any number")
    parser.add_argument("evaluation", help="source of images to score on, kept in memory")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the results")
    parser.add_argument("--threads", type=int, default=2, help="that read images")
    given = parser.parse_args(argv)
    try:
        search = find(given.training, given.evaluation, given.out, threads=given.threads)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"find_duplicates: {error}")
    for problem in search.unread:
        print(f"{given.training}: cannot be read: {problem}", file=sys.stderr)
    hit = len({pair["evaluation"] for pair in search.pairs})
    print(
        f"{len(search.pairs):,} pairs; {hit:,} images of {given.evaluation} have a copy in "
        f"{given.training}; {len(search.unread):,} cannot be read"
    )
    if search.pairs:
        draw(search, given.training, given.evaluation, given.out / "pairs.png")
        print(
            f"look at {given.out / 'pairs.png'}; leave out what {given.out / 'pairs.jsonl'} lists"
        )
    return 1 if search.pairs else 3 if search.unread else 0


if __name__ == "__main__":
    sys.exit(main())
