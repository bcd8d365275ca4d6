"""Prepares shards on many machines by Apache Beam: Dataflow, Flink, Spark, or this one.

The work of a worker is `prepared_shards.write_shard`, as on one machine, so shards, notes and card
are the same to the byte, and a preparation that one began the other goes on with. Source and output
are read and written as files: every worker has to see them under the same paths (NFS, Filestore, a
bucket that is mounted).
"""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
import pickle
import platform
from collections.abc import Sequence
from typing import Any

from depth_anything_jax.data import prepared_shards
from depth_anything_jax.data.sources.base import Source

MISSING = (
    "--runner needs Apache Beam: pip install 'depth_anything_jax[beam]', on the workers too "
    "(Beam's --sdk_container_image or --requirements_file)"
)


def check() -> None:
    """Checks that Beam is there.

    Raises:
      ImportError: it is not.
    """
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise ImportError(MISSING) from error


def run_shards(
    plan: dict[str, Any],
    folder: str | os.PathLike[str],
    source: Source,
    todo: Sequence[int],
    *,
    runner: str,
    flags: Sequence[str] = (),
) -> None:
    """Writes the shards `todo`; returns when all are written.

    Args:
      plan: of `prepared_shards.make_plan`.
      folder: as the workers see it.
      source: is handed to the workers by a file in `folder`, because the paths of millions of
        images are more than a runner takes as part of a program.
      todo: numbers of shards.
      runner: Beam's name of it: "FnApiRunner" (this machine), "DataflowRunner", "FlinkRunner" …
      flags: of Beam and the runner, as on its command line.

    Raises:
      RuntimeError: and Beam's other errors, when a worker fails more often than the runner tries,
        such as one that does not see the folder of the source.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    write = functools.partial(_write, os.fspath(folder), hand_over(plan, folder, source))
    with beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *flags])) as pipeline:
        _ = (
            pipeline
            | "shards" >> beam.Create(list(todo))
            | "spread" >> beam.Reshuffle()  # else one worker would get them all
            | "write" >> beam.Map(write)
        )


def hand_over(plan: dict[str, Any], folder: str | os.PathLike[str], source: Source) -> str:
    """Writes what workers need into the folder of an unfinished preparation; returns its name."""
    data = pickle.dumps((plan, source))
    name = f"{hashlib.sha256(data).hexdigest()[:16]}.pickle"
    (pathlib.Path(folder) / prepared_shards.PROGRESS / name).write_bytes(data)
    return name


@functools.lru_cache(maxsize=1)
def handed_over(folder: str, name: str) -> tuple[dict[str, Any], Source]:
    """Reads it, once in each process of a worker.

    Raises:
      PreparationError: this machine does not see the folder.
    """
    file = pathlib.Path(folder) / prepared_shards.PROGRESS / name
    if not file.is_file():
        raise prepared_shards.PreparationError(
            f"{platform.node()} does not see {file}: mount --out there, under the same path"
        )
    plan, source = pickle.loads(file.read_bytes())
    return plan, source


def _write(folder: str, name: str, shard: int) -> None:
    from apache_beam.metrics import Metrics

    plan, source = handed_over(folder, name)
    records = Metrics.counter("depth_anything_jax", "records")
    note = prepared_shards.write_shard(plan, folder, source, shard, records.inc)
    Metrics.counter("depth_anything_jax", "skipped").inc(len(note["skipped"]))
