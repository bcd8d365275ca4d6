"""Prepares shards on many machines by Apache Beam: Dataflow, Flink, Spark, or this one.

The work of a worker is `prepared_shards.write_shard`, as on one machine, so shards, notes and card
are the same to the byte, and a preparation that one began the other goes on with. Source and output
are read and written as files: every worker has to see them under the same paths (NFS, Filestore, a
bucket that is mounted).
"""

from __future__ import annotations

import functools
import os
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
      source: is sent to the workers, pickled: it holds paths and no open files.
      todo: numbers of shards.
      runner: Beam's name of it: "FnApiRunner" (this machine), "DataflowRunner", "FlinkRunner" …
      flags: of Beam and the runner, as on its command line.

    Raises:
      RuntimeError: and Beam's other errors, when a worker fails more often than the runner tries.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    write = functools.partial(_write, plan, os.fspath(folder), source)
    with beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *flags])) as pipeline:
        _ = (
            pipeline
            | "shards" >> beam.Create(list(todo))
            | "spread" >> beam.Reshuffle()  # else one worker would get them all
            | "write" >> beam.Map(write)
        )


def _write(plan: dict[str, Any], folder: str, source: Source, shard: int) -> None:
    from apache_beam.metrics import Metrics

    records = Metrics.counter("depth_anything_jax", "records")
    note = prepared_shards.write_shard(plan, folder, source, shard, records.inc)
    Metrics.counter("depth_anything_jax", "skipped").inc(len(note["skipped"]))
