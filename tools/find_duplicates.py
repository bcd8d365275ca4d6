"""Finds copies of training images among evaluation images: is zero-shot zero-shot?

    python tools/find_duplicates.py TRAINING EVALUATION --out leaks
    python tools/find_duplicates.py sa1b:SA1B benchmark:kitti?path=KITTI --out leaks
    python tools/find_duplicates.py folder:photos folder:photos --out twice   # within one set

TRAINING and EVALUATION are sources as every program takes them (docs/data.md). A copy may be
resized, recompressed, mirrored, recoloured, and lack up to a tenth of each side. The images of
EVALUATION are kept as thumbnails in memory (6 KB an image), those of TRAINING pass by one after the
other, so they may be any number. Written to --out:

  pairs.jsonl   a line for each pair: keys, score, the window of the second image, what was changed
  pairs.png     the best-scored and the worst-scored pairs side by side
  summary.json  images, pairs, images with a copy, pairs by change, what cannot be read
  progress.json how far a run has come

The same command continues after an interruption; sets that have changed since are refused. Exit
status: 0 no copies; 1 copies, or an error; 3 no copies, but images that cannot be read.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from depth_anything_jax.adaptation import identity
from depth_anything_jax.data import near_copies, registry, shards
from depth_anything_jax.data.pseudo_labels.label_store import keys_digest
from depth_anything_jax.data.sources.base import Source
from depth_anything_jax.data.sources.tfds_writer import record_files
from depth_anything_jax.utils import folder_lock
from depth_anything_jax.visualization import contact_sheets

CHUNK = 256  # images between two notes of progress
SHOWN = 6  # pairs of each end on the sheet
VERSION = 2  # of what a search finds: raise it with every change of near_copies that alters it


def load(text: str) -> Source:
    """Builds a source of images: without labels where it can do without, of any evaluation set."""
    spec = registry.parse(text)
    if spec["type"] == "benchmark" and {"set", "path"} <= set(spec) and "slice" not in spec:
        from depth_anything_jax.data import benchmarks

        # As a source to train on it would have to have depth in metres.
        options = {k: v for k, v in spec.items() if k not in ("type", "set", "path", "name")}
        return benchmarks.make(spec["set"], os.path.expanduser(spec["path"]), **options)
    if spec["type"] not in ("folder", "benchmark"):
        spec = {"labelled": False, **spec}
    return registry.make(spec)


def look(
    source: Source,
    indices: Sequence[int],
    threads: int,
    use: Callable[[int, near_copies.Thumbnail | None], Any],
) -> Iterator[tuple[int, Any, str]]:
    """Yields (index, what `use` makes of its thumbnail, "" or why it cannot be read), in order."""

    def read(index: int) -> tuple[int, Any, str]:
        try:
            small = near_copies.thumbnail(source[index]["image"])
        except Exception as error:  # decoders raise all kinds of errors
            return index, use(index, None), f"{source.key(index)}: {error}"
        return index, use(index, small), ""

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        yield from pool.map(read, indices)


def describe(text: str, source: Source) -> dict[str, Any]:
    """What tells whether a source is still the one that a search was begun with.

    Of files their sizes and times count, of other sources those of all files in their folder.
    """
    files, newest = hashlib.sha256(), 0
    for index in range(len(source) if record_files(source, 0) else 0):
        for name in record_files(source, index):
            try:
                found = os.stat(name)
            except OSError:  # reading it will say so
                continue
            files.update(f"{name}\n{found.st_size} {found.st_mtime_ns}\n".encode(errors="replace"))
            newest = max(newest, found.st_mtime_ns)
    state: Any = files.hexdigest()
    path = registry.parse(text).get("path")
    if not newest and path:
        state = identity.state(os.path.expanduser(path))
    return {
        "source": text,
        "records": len(source),
        "keys": keys_digest(source),
        "files": state,
        "newest": newest,
    }


def changed(noted: dict[str, Any], now: dict[str, Any], source: Source) -> str:
    """Says what differs between two descriptions of a source; "" where nothing does."""
    found = shards.changes(
        *({name: facts[name] for name in ("source", "records")} for facts in (noted, now))
    )
    if found:
        return "; ".join(found)
    if noted["keys"] != now["keys"]:
        return f"the names of the images of {now['source']} have changed"
    if noted["files"] == now["files"]:
        return ""
    later = [
        source.key(i)
        for i in range(len(source) if now["newest"] > noted["newest"] else 0)
        if any(
            os.path.exists(f) and os.stat(f).st_mtime_ns > noted["newest"]
            for f in record_files(source, i)
        )
    ]
    names = f": {', '.join(later[:3])}" + ", …" * (len(later) > 3) if later else ""
    return f"files of {now['source']} have changed{names}"


class Search:
    """A search that goes on where it stopped.

    Args:
      out: folder, made where it is missing.
      facts: of this search; a folder begun with others is refused.
      sources: that they describe, by the names of the facts.

    Attributes:
      done: images of the first source that are searched for.
      scored: images of the second.
      pairs: found so far.
      unread: images that cannot be read, and why.

    Raises:
      ValueError: the folder holds another search.
    """

    def __init__(self, out: pathlib.Path, facts: dict[str, Any], sources: dict[str, Source]):
        self._facts, self._lines = facts, out / "pairs.jsonl"
        self.scored = facts["evaluation"]["records"]
        self._progress = out / "progress.json"
        self.done, self.unread = 0, [""][:0]
        size = 0
        if self._progress.exists():
            noted = json.loads(self._progress.read_text())
            begun = noted["search"]
            different = shards.changes({"version": begun["version"]}, {"version": VERSION})
            if not different:
                different = [changed(begun[name], facts[name], sources[name]) for name in sources]
            if any(different):
                raise ValueError(
                    f"{out} holds another search ({'; '.join(filter(None, different))}): give "
                    "another --out, or delete it to search again"
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
    sources = {"training": training, "evaluation": evaluation}
    facts = {"training": describe(first, training), "evaluation": describe(second, evaluation)}
    search = Search(out, {**facts, "version": VERSION}, sources)
    if search.done == len(training):
        return search
    kept: list[near_copies.Thumbnail | None] = []
    scored = range(len(evaluation))
    for _, small, problem in look(evaluation, scored, threads, lambda index, small: small):
        kept.append(small)
        if problem and f"{second}: {problem}" not in search.unread:
            search.unread.append(f"{second}: {problem}")
    flat = sum(k is None for k in kept)
    collection = near_copies.Collection(kept)
    tell(f"{second}: {len(kept):,} images, {flat:,} of them flat or unread, which match nothing")
    known: set[tuple[int, ...]] = {tuple(p["positions"]) for p in search.pairs}
    start, before = time.perf_counter(), search.done
    for begin in range(search.done, len(training), CHUNK):
        indices = range(begin, min(begin + CHUNK, len(training)))
        pairs: list[dict[str, Any]] = []
        unread: list[str] = []
        looked = look(
            training, indices, threads, lambda index, small: collection.copies(small, index)
        )
        for _, copies, problem in looked:
            unread += [f"{first}: {problem}"] * bool(problem)
            for copy in copies:
                both = copy.first, copy.second
                if same and (both[0] == both[1] or both[::-1] in known):
                    continue
                known.add(both)
                pairs.append(_pair(training, evaluation, copy))
        search.note(indices.stop, pairs, unread)
        rate = (indices.stop - before) / (time.perf_counter() - start)
        left = (len(training) - indices.stop) / rate
        tell(
            f"{indices.stop:,} of {len(training):,} images, {len(search.pairs):,} pairs, "
            f"{rate:.0f} a second, {left / 60:.0f} min to go"
        )
    return search


def _pair(training: Source, evaluation: Source, copy: near_copies.Copy) -> dict[str, Any]:
    images = training[copy.first]["image"], evaluation[copy.second]["image"]
    return {
        "training": training.key(copy.first),
        "evaluation": evaluation.key(copy.second),
        "score": round(copy.score, 4),
        "changes": near_copies.changes(*images, copy),
        "window": [round(x, 3) for x in copy.window],
        "positions": [copy.first, copy.second],
    }


def summary(search: Search, first: str, second: str) -> dict[str, Any]:
    """What was found, in numbers."""
    copies = {p["evaluation"] for p in search.pairs}
    if first == second:
        copies |= {p["training"] for p in search.pairs}
    kinds = collections.Counter(" + ".join(p["changes"]) or "same size" for p in search.pairs)
    return {
        "training": first,
        "evaluation": second,
        "training_images": search.done,
        "evaluation_images": search.scored,
        "pairs": len(search.pairs),
        "evaluation_images_with_a_copy": len(copies),
        "pairs_by_change": dict(kinds.most_common()),
        "unread": search.unread,
    }


def draw(search: Search, first: str, second: str, path: pathlib.Path) -> None:
    """Draws pairs of both ends, the training image on the left."""
    training, evaluation = load(first), load(second)
    ordered = sorted(search.pairs, key=lambda p: -p["score"])
    shown = ordered if len(ordered) <= 2 * SHOWN else [*ordered[:SHOWN], *ordered[-SHOWN:]]
    rows = []
    for pair in shown:
        i, j = pair["positions"]
        words = f"{pair['score']:.3f} {' '.join(pair['changes'])}"
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
    if given.threads < 1:
        parser.error(f"--threads {given.threads}: use 1 or more")
    cv2.setNumThreads(1)  # the threads have the cores
    try:
        with folder_lock.locked(given.out):
            search = find(given.training, given.evaluation, given.out, threads=given.threads)
            numbers = summary(search, given.training, given.evaluation)
            text = json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"
            shards.write_text(shards.epath.Path(given.out / "summary.json"), text)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"find_duplicates: {error}")
    for problem in search.unread:
        print(f"cannot be read: {problem}", file=sys.stderr)
    print(
        f"{len(search.pairs):,} pairs; {numbers['evaluation_images_with_a_copy']:,} of "
        f"{search.scored:,} images of {given.evaluation} have a copy in {given.training}; "
        f"{len(search.unread):,} images cannot be read"
    )
    for change, count in numbers["pairs_by_change"].items():
        print(f"  {count:,} {change}")
    if search.pairs:
        draw(search, given.training, given.evaluation, given.out / "pairs.png")
        print(
            f"look at {given.out / 'pairs.png'}; leave out what {given.out / 'pairs.jsonl'} lists"
        )
    return 1 if search.pairs else 3 if search.unread else 0


if __name__ == "__main__":
    sys.exit(main())
