"""Opens, digests and shuffles data sets of V1's size that have an index and no bytes.

    python benchmarks/data_scale.py
    python benchmarks/data_scale.py --records 62000000 --hosts 1 8 256

Files are empty: what is measured is what a run does before its first byte. For each number of hosts
the batch of a late step is put together from all of them, and must be the same.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import tensorflow_datasets as tfds

from depth_anything_jax.data import registry
from depth_anything_jax.data.examples import Examples
from depth_anything_jax.data.pseudo_labels.label_store import keys_digest
from depth_anything_jax.data.sources.numbered_keys import AllBut, find
from depth_anything_jax.data.sources.tfds_writer import features

BATCH, STEP, FAILED = 256, 480_000, 1000  # images a step; the step; images without a label


def write_index(folder: pathlib.Path, records: int, shards: int) -> None:
    """Writes the metadata of a data set, and its shards as empty files."""
    folder.mkdir()
    name = folder.name
    for shard in range(shards):
        (folder / f"{name}-train.array_record-{shard:05d}-of-{shards:05d}").touch()
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split="train", filetype_suffix="array_record"
    )
    lengths = [records // shards + (shard < records % shards) for shard in range(shards)]
    split = tfds.core.SplitInfo(
        name="train", shard_lengths=lengths, num_bytes=1, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features(False, None, []), split_infos=[split], version="1.0.0",
        description="an index without bytes", license="none", check_data=False,
    )  # fmt: skip


def measure(records: int, shards: int, hosts: list[int]) -> list[tuple[str, float]]:
    """Returns what was done and the seconds that it took.

    Raises:
      AssertionError: hosts do not see the batch that one of them sees.
    """
    times: list[tuple[str, float]] = []

    def timed(what: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        times.append((what, time.perf_counter() - start))
        return result

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "index"
        write_index(folder, records, shards)
        source = timed("open", lambda: registry.make({"type": "tfds", "path": str(folder)}))
        timed("digest of all keys", lambda: keys_digest(source))
        failed = [source.key(i * (records // FAILED)) for i in range(FAILED)]
        left = timed("join, 1000 images without a label",
                     lambda: AllBut(records, find(source, failed).values()))  # fmt: skip
        assert len(left) == records - FAILED
        size = {"size": 518, "patch_size": 14, "seed": 0, "labels": False}
        reader = timed("global shuffle", lambda: Examples("unlabelled", [source], None, **size))

        def rows(host: int, count: int) -> list[tuple[int, int]]:
            each = BATCH // count
            first = STEP * BATCH + host * each
            return [reader.record_of(i) for i in range(first, first + each)]

        def batch(count: int) -> list[tuple[int, int]]:
            return [row for host in range(count) for row in rows(host, count)]

        expected = batch(1)
        assert len(set(expected)) == BATCH
        for count in hosts:
            assert timed(f"batch of step {STEP:,}, {count} hosts", lambda: batch(count)) == expected  # noqa: B023
    return times


def main() -> None:
    """Prints a line for each measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, nargs="+", default=[14_069_951, 62_000_000])
    parser.add_argument("--shards", type=int, default=5000)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 8, 256])
    options = parser.parse_args()
    for records in options.records:
        print(f"{records:,} records in {options.shards:,} shards")
        for what, seconds in measure(records, options.shards, options.hosts):
            print(f"  {what}: {seconds:.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
    print(f"peak memory {peak:.0f} MB, imports included")


if __name__ == "__main__":
    main()
