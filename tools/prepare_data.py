"""Turns a training set, or a folder of images or of images and depth, into an ArrayRecord data set.

    python tools/prepare_data.py hypersim --source HYPERSIM --out data
    python tools/prepare_data.py --source folder:photos --out data --name photos
    python tools/prepare_data.py --source "rgbd:pairs?datasets=nyu,tum" --out data --name indoor
    python tools/prepare_data.py --source "pairs:left?depths=disp&kind=disparity" --out data \
        --name stereo --licence "CC BY 4.0"

The records go to OUT/NAME/1.0.0, where training reads them as "tfds:OUT/NAME" and other programs as
`tfds.data_source(NAME, data_dir=OUT, split="train")`. Shards of a thousand records suit a network
disk or a bucket read by many hosts; millions of small files do not.

Every file is decoded once. Broken files are reported, skipped and listed in card.json beside the
records. Several processes write shards, each under a temporary name until it is complete: after an
interruption the same command continues. It takes about 10 ms per image of 640x480 on one core.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from etils import epath

from depth_anything_jax.data import registry
from depth_anything_jax.data.pseudo_labels.label_store import keys_digest
from depth_anything_jax.data.shards import ShardWriter, changes, write_text
from depth_anything_jax.data.sources import tfds_source
from depth_anything_jax.data.sources.base import LeftOut, Source, is_labelled, unwrapped
from depth_anything_jax.data.sources.tfds_writer import (
    encode,
    features,
    label_encoding,
    mask_fields,
    record_files,
    serialize,
)
from depth_anything_jax.data.training_sets import SETS
from depth_anything_jax.utils import folder_lock
from depth_anything_jax.utils.paths import is_remote

VERSION = "1.0.0"
PROGRESS, PLAN = ".progress", "plan.json"  # folder of an unfinished preparation, a file in it
TRIES = 3  # for shards whose files change meanwhile

_worker: dict[str, Any] = {}  # the state of a worker process, set by start_worker


def shard_writer(plan: dict[str, Any], folder: str | os.PathLike[str]) -> ShardWriter:
    """Returns the writer of a plan's shards, which are named as TFDS expects it."""
    name = plan["name"] + "-train.array_record-{shard:05d}-of-{shards:05d}"
    # One record per group, for random reads.
    return ShardWriter(folder, name, plan["records"], plan["shard_size"], "group_size:1")


def make_plan(source: Source, name: str, spec: str, shard_size: int) -> dict[str, Any]:
    """Describes the output as JSON; a run continues another one's work if their plans are equal."""
    labelled = is_labelled(source)
    return {
        "name": name,
        "source": spec,
        "records": len(source),
        "keys": keys_digest(source),
        "shard_size": shard_size,
        "shards": -(-len(source) // shard_size),
        "labelled": labelled,
        "encoding": label_encoding(source) if labelled else None,
        "masks": mask_fields(source) if labelled else [],
    }


def start_worker(
    plan: dict[str, Any], folder: str, counter: Synchronized, parent: int, source: Source
) -> None:
    """Initialises a worker process, and ends it when its parent has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # the parent was killed: an orphan must not write beside its successor

    threading.Thread(target=watch, daemon=True).start()
    _worker.update(
        plan=plan,
        folder=folder,
        counter=counter,
        source=source,
        features=features(plan["labelled"], plan["encoding"], plan["masks"]),
    )


def files_digest(source: Source, indices: Iterable[int]) -> str:
    """Digests the contents of the files of some records."""
    digest = hashlib.sha256()
    for index in indices:
        for file in record_files(source, index):
            try:
                content = pathlib.Path(file).read_bytes()
            except OSError:
                content = b"missing"
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def touched(source: Source, indices: Iterable[int], since: int) -> bool:
    """Whether a file of some records was written or replaced after a time in nanoseconds."""
    for index in indices:
        for file in record_files(source, index):
            try:
                stat = os.stat(file)
            except OSError:
                return True
            if max(stat.st_mtime_ns, stat.st_ctime_ns) > since - 20_000_000:  # clocks are coarse
                return True
    return False


def unfinished(plan: dict[str, Any], folder: pathlib.Path, source: Source) -> list[int]:
    """Lists the shards that are missing, or whose files have changed since they were read."""
    writer, todo = shard_writer(plan, folder), []
    for shard in range(plan["shards"]):
        file = folder / PROGRESS / f"{shard:05d}.json"
        note = json.loads(file.read_text()) if file.is_file() else None
        if note is None:
            todo.append(shard)
        elif "files" in note and touched(source, writer.range(shard), note["begun"]):
            if files_digest(source, writer.range(shard)) != note["files"]:
                print(f"files of shard {shard} have changed since it was written: writing it again")
                todo.append(shard)
    return todo


def check_complete(plan: dict[str, Any], folder: pathlib.Path, source: Source) -> dict[str, Any]:
    """Returns the card of a complete data set.

    Raises:
      SystemExit: it was made from another source, or the source's files have changed.
    """
    card = json.loads((folder / tfds_source.CARD).read_text())
    if card["source"] != plan["source"] or card["keys"] != plan["keys"]:
        raise SystemExit(f"{folder} holds another data set, made from {card['source']}")
    since = (folder / tfds_source.CARD).stat().st_mtime_ns
    if "files" in card and touched(source, range(plan["records"]), since):
        writer = shard_writer({**plan, "shard_size": card["shard_size"]}, folder)
        shards = range(card["shards"])
        if _joint(files_digest(source, writer.range(s)) for s in shards) != card["files"]:
            raise SystemExit(
                f"{folder} is complete, but files of {card['source']} have changed since it was "
                "made; choose another --name, or remove it and prepare it again"
            )
    return card


def _joint(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def write_shard(shard: int) -> dict[str, Any]:
    """Writes one shard and then a note that it is complete; returns the note."""
    plan, source = _worker["plan"], _worker["source"]
    writer = shard_writer(plan, _worker["folder"])
    note: dict[str, Any] = {"begun": time.time_ns(), "records": 0, "bytes": 0, "skipped": []}
    note["left_out"] = collections.Counter()
    note["files"] = files_digest(source, writer.range(shard))

    def records() -> Iterator[bytes]:
        for index in writer.range(shard):
            try:
                example = encode(source, index, encoding=plan["encoding"], masks=plan["masks"])
                data = serialize(_worker["features"], example)
            except LeftOut as error:
                note["left_out"][error.reason] += 1
            except Exception as error:  # a broken file must not prevent writing the others
                reason = f"{type(error).__name__}: {error}"
                note["skipped"].append({"key": source.key(index), "error": reason})
            else:
                note["records"] += 1
                note["bytes"] += len(data)
                yield data
            with _worker["counter"].get_lock():
                _worker["counter"].value += 1

    writer.write(shard, records())
    write_json(writer.folder / PROGRESS / f"{shard:05d}.json", note)
    return note


def write_json(path: os.PathLike[str], value: Any) -> None:
    """Writes JSON atomically, so that readers never see an incomplete file."""
    write_text(epath.Path(path), json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def run_shards(
    plan: dict[str, Any], folder: pathlib.Path, source: Source, todo: list[int], workers: int
) -> None:
    """Writes the shards `todo` in `workers` processes, with a progress bar."""
    from tqdm import tqdm

    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    writer = shard_writer(plan, folder)
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(todo)),
        mp_context=context,
        initializer=start_worker,
        # Millions of files are listed once, and not again by each worker.
        initargs=(plan, str(folder), counter, os.getpid(), source),
    )
    done = plan["records"] - sum(len(writer.range(s)) for s in todo)
    bar = tqdm(total=plan["records"], initial=done, unit="rec", desc=plan["name"])
    with pool, bar:
        waiting = {pool.submit(write_shard, s) for s in todo}
        skipped = 0
        while waiting:
            ready, waiting = concurrent.futures.wait(waiting, timeout=0.5)
            bar.update(done + counter.value - bar.n)
            for future in ready:
                for item in future.result()["skipped"]:
                    skipped += 1
                    bar.write(f"skipped {item['key']}: {item['error']}")
            if skipped:
                bar.set_postfix(skipped=skipped)


def finish(
    plan: dict[str, Any], folder: pathlib.Path, licence: str, source: Source
) -> dict[str, Any]:
    """Writes TFDS' metadata and the card; returns the card."""
    tfds = tfds_source.tensorflow_datasets("tools/prepare_data.py")
    notes = [
        json.loads((folder / PROGRESS / f"{s:05d}.json").read_text()) for s in range(plan["shards"])
    ]
    card = {
        "name": plan["name"],
        "licence": licence,
        "source": plan["source"],
        "keys": plan["keys"],
        "records": sum(n["records"] for n in notes),
        "skipped": sum(len(n["skipped"]) for n in notes),
        "bytes": sum(n["bytes"] for n in notes),
        "shards": plan["shards"],
        "shard_size": plan["shard_size"],
        "labelled": plan["labelled"],
        "label_encoding": plan["encoding"],
        "masks": plan["masks"],
        "skipped_files": [item for n in notes for item in n["skipped"]],
    }
    left_out = collections.Counter(getattr(unwrapped(source, [])[0], "left_out", {}))
    for note in notes:  # those of versions before this count were no training sets
        left_out.update(note.get("left_out", {}))
    if left_out:
        card["left_out"] = dict(sorted(left_out.items()))
    if all("files" in n for n in notes):  # else a version that did not digest files wrote some
        card["files"] = _joint(n["files"] for n in notes)
    if not card["records"]:
        first = [f"{item['key']}: {item['error']}" for item in card["skipped_files"][:1]]
        raise SystemExit(
            f"none of the {plan['records']} records could be read, so there is no data set; the "
            f"first: {(*first, f'left out: {dict(left_out)}')[0]}"
        )
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[n["records"] for n in notes],
        num_bytes=card["bytes"],
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=plan["name"],
            split="train",
            filetype_suffix="array_record",
        ),
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(plan["labelled"], plan["encoding"], plan["masks"]),
        split_infos=[split],
        version=VERSION,
        description=f"Prepared from {plan['source']}; see {tfds_source.CARD}.",
        license=licence,
        check_data=False,  # that check needs TensorFlow
    )
    write_json(folder / tfds_source.CARD, card)  # last: the data set is complete when it is there
    shutil.rmtree(folder / PROGRESS)
    return card


def start(plan: dict[str, Any], folder: pathlib.Path, source: Source) -> list[int]:
    """Creates or continues the folder; returns the shards still to be written.

    Raises:
      SystemExit: the folder holds another data set, complete or not.
    """
    progress = folder / PROGRESS
    if not progress.is_dir() and folder.is_dir() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty; choose another --name or remove it")
    progress.mkdir(parents=True, exist_ok=True)
    if (progress / PLAN).is_file():
        begun = json.loads((progress / PLAN).read_text())
        different = changes(begun, plan)
        if different:
            raise SystemExit(
                f"{folder} was begun with other settings: {'; '.join(different)}. Use the same "
                "options, another --name, or remove the folder."
            )
    else:
        write_json(progress / PLAN, plan)
    return unfinished(plan, folder, source)


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sets = ", ".join(sorted(SETS))
    parser.add_argument(
        "set", nargs="?", choices=sorted(SETS), metavar="SET", help=f"one of {sets}"
    )
    text = "TYPE:PATH?field=value (docs/data.md); with SET the folder, PATH?field=value"
    parser.add_argument("--source", required=True, help=text)
    parser.add_argument("--out", required=True, help="folder that holds data sets")
    parser.add_argument("--name", help="of the data set: lower case, digits and _; default: SET")
    parser.add_argument("--licence", help="of the data; goes into the card; default: SET's")
    parser.add_argument("--shard_size", type=int, default=1000, help="records in a shard")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(argv)
    if options.set:
        options.source = f"{options.set}:{options.source.removeprefix(f'{options.set}:')}"
        options.name = options.name or options.set
        options.licence = options.licence or SETS[options.set].licence
    options.licence = options.licence or "unknown"
    if not options.name:
        parser.error("--name is needed without SET")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", options.name):
        parser.error(f"--name {options.name!r}: TFDS wants lower case letters, digits and _")
    if is_remote(options.out):
        parser.error(f"--out {options.out}: give a local or mounted folder, and copy it afterwards")
    if options.shard_size < 1 or options.workers < 1:
        parser.error("--shard_size and --workers must be at least 1")
    return options


def main(argv: list[str] | None = None) -> None:
    """Runs the preparation; exits with 1 and a message where nothing can be written."""
    options = parse_options(argv)
    folder = pathlib.Path(options.out).expanduser() / options.name / VERSION
    try:
        tfds_source.tensorflow_datasets("tools/prepare_data.py")  # before hours of work
        source = registry.make(registry.parse(options.source))
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"--source {options.source}: {error}") from error
    plan = make_plan(source, options.name, options.source, options.shard_size)
    try:
        with folder_lock.locked(folder.parent):
            prepare(plan, folder, source, options)
    except folder_lock.FolderInUse as error:
        raise SystemExit(str(error)) from None


def prepare(
    plan: dict[str, Any], folder: pathlib.Path, source: Source, options: argparse.Namespace
) -> None:
    """Writes what is missing of a data set, whose folder no other program writes to."""
    if (folder / tfds_source.CARD).is_file():
        card = check_complete(plan, folder, source)
        print(f"{folder} is already complete: {card['records']} records")
        return
    todo = start(plan, folder, source)
    if len(todo) < plan["shards"]:
        print(f"continuing: {plan['shards'] - len(todo)} of {plan['shards']} shards are there")
    for _ in range(TRIES):
        if todo:
            run_shards(plan, folder, source, todo, options.workers)
            todo = unfinished(plan, folder, source)
    if todo:
        raise SystemExit(f"files of {options.source} change while they are read; try again later")
    card = finish(plan, folder, options.licence, source)
    print(
        f"{folder}: {card['records']} records in {card['shards']} shards, "
        f"{card['bytes'] / 1e6:.1f} MB, {card['skipped']} skipped (listed in {tfds_source.CARD})"
    )
    for reason, count in card.get("left_out", {}).items():
        print(f"left out: {count} {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
