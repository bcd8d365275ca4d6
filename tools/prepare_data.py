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
import concurrent.futures
import multiprocessing
import os
import pathlib
import re
import sys
import threading
import time
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from depth_anything_jax.data import beam_shards, prepared_shards, registry
from depth_anything_jax.data.prepared_shards import VERSION, PreparationError
from depth_anything_jax.data.sources import tfds_source
from depth_anything_jax.data.sources.base import Source
from depth_anything_jax.data.training_sets import SETS, papers_count
from depth_anything_jax.utils import folder_lock
from depth_anything_jax.utils.paths import is_remote

TRIES = 3  # for shards whose files change meanwhile

_worker: dict[str, Any] = {}  # the state of a worker process, set by start_worker


def start_worker(
    plan: dict[str, Any], folder: str, counter: Synchronized, parent: int, source: Source
) -> None:
    """Initialises a worker process, and ends it when its parent has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # the parent was killed: an orphan must not write beside its successor

    threading.Thread(target=watch, daemon=True).start()
    _worker.update(plan=plan, folder=folder, counter=counter, source=source)


def write_shard(shard: int) -> dict[str, Any]:
    """Writes one shard in a worker process; returns its note."""
    counter = _worker["counter"]

    def count() -> None:
        with counter.get_lock():
            counter.value += 1

    return prepared_shards.write_shard(
        _worker["plan"], _worker["folder"], _worker["source"], shard, count
    )


def run_shards(
    plan: dict[str, Any], folder: pathlib.Path, source: Source, todo: list[int], workers: int
) -> None:
    """Writes the shards `todo` in `workers` processes, with a progress bar."""
    from tqdm import tqdm

    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    writer = prepared_shards.shard_writer(plan, folder)
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
    parser.add_argument(
        "--runner",
        help="of Apache Beam, on many machines: DataflowRunner, FlinkRunner, SparkRunner, or "
        "FnApiRunner on this one; Beam's own flags follow as --flag=value (docs/data.md)",
    )
    options, others = parser.parse_known_args(argv)
    options.beam = others
    if options.beam and not options.runner:
        parser.error(f"unrecognized arguments: {' '.join(options.beam)}")
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
    if options.runner:
        try:
            beam_shards.check()
        except ImportError as error:
            raise SystemExit(str(error)) from error
    try:
        tfds_source.tensorflow_datasets("tools/prepare_data.py")  # before hours of work
        source = registry.make(registry.parse(options.source))
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"--source {options.source}: {error}") from error
    plan = prepared_shards.make_plan(source, options.name, options.source, options.shard_size)
    try:
        with folder_lock.locked(folder.parent):
            prepare(plan, folder, source, options)
    except (folder_lock.FolderInUse, PreparationError) as error:
        raise SystemExit(str(error)) from None


def prepare(
    plan: dict[str, Any], folder: pathlib.Path, source: Source, options: argparse.Namespace
) -> None:
    """Writes what is missing of a data set, whose folder no other program writes to."""
    if (folder / tfds_source.CARD).is_file():
        card = prepared_shards.check_complete(plan, folder, source)
        print(f"{folder} is already complete: {card['records']} records")
        return
    todo = prepared_shards.start(plan, folder, source)
    if len(todo) < plan["shards"]:
        print(f"continuing: {plan['shards'] - len(todo)} of {plan['shards']} shards are there")
    for _ in range(TRIES):
        if todo:
            if options.runner:
                beam_shards.run_shards(
                    plan, folder.resolve(), source, todo, runner=options.runner, flags=options.beam
                )
            else:
                run_shards(plan, folder, source, todo, options.workers)
            todo = prepared_shards.unfinished(plan, folder, source)
    if todo:
        raise SystemExit(f"files of {options.source} change while they are read; try again later")
    card = prepared_shards.finish(plan, folder, options.licence, source)
    print(
        f"{folder}: {card['records']} records in {card['shards']} shards, "
        f"{card['bytes'] / 1e6:.1f} MB, {card['skipped']} skipped (listed in {tfds_source.CARD})"
    )
    if count := papers_count(options.set or ""):
        print(f"{options.set}: {card['records']:,} records; {count}")
    for reason, count in card.get("left_out", {}).items():
        print(f"left out: {count} {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
