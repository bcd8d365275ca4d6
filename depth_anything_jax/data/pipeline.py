"""Makes training batches: a step always holds the same examples, wherever a run resumes.

Start reading at `train_batches`: it builds the sources (`registry.make`); `examples.Examples` reads
and augments global example i, `_Steps` gathers one process's rows of step s, and `workers.iterate`
runs the steps in threads or worker processes.

Decisions:
  - Row j of step s is example s · global batch + j of its part. So the position of a run is its
    step, and a step holds the same examples and augmentations for any number of workers, threads
    and processes, and wherever the run was resumed.
  - Processes take contiguous rows of the global batch, as `jax.make_array_from_process_local_data`
    expects under a mesh whose data axis runs over processes in order.
  - mix="size" shuffles all records of a part together: each once per epoch ("simply combined
    without re-sampling", Depth Anything V1 §4.1). mix="weights" shuffles each source by itself and
    interleaves them in proportion to their "weight".
  - A record that fails is replaced by the next index of its source and counted. Too many distinct
    ones stop the run (`allowed_failures`; judged from the 1000th example on, or after one epoch),
    and so does one without a neighbour that can be read.
"""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from depth_anything_jax.data import label_points, source_checks, transforms, workers
from depth_anything_jax.data import registry as sources_lib
from depth_anything_jax.data.augment import NOTHING, Augment
from depth_anything_jax.data.examples import PARTS, DataError, Examples, Failure
from depth_anything_jax.data.sources.base import Source, is_labelled
from depth_anything_jax.utils.choices import one_of

Batch = dict[str, Any]
MIXES = ("size", "weights")
FAILURE_LIMIT = 1e-3  # share of failed records that a run goes on with
FEW_FAILURES, FEW_LIMIT = 10, 0.1  # or so many, if they are not more than this share
FAILURE_MINIMUM = 1000  # examples before failures are judged, if an epoch is longer
_FAILED, _KEYS = "_failed", "_keys"  # of a batch, until its iterator takes them out


def allowed_failures(records: int) -> int:
    """How many of so many distinct records may fail: 1 of 10, 3 of 30, 10 of 1000, 62 of 62,000."""
    few = min(FEW_FAILURES, int(FEW_LIMIT * records))
    return max(1, few, int(FAILURE_LIMIT * records))


class _Steps:
    """A Grain data source without an end: item s holds this process's rows of step s.

    `threads` threads read the rows of one step, so that few batches are in memory at once: one of
    64 + 128 examples at 518 pixels is 0.8 GB.
    """

    def __init__(
        self,
        parts: Mapping[str, tuple[Examples, int]],
        process: int,
        processes: int,
        threads: int,
    ):
        """`parts`: examples and global batch size of each part."""
        self.parts, self.process, self.processes = dict(parts), process, processes
        self.threads = threads
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def __len__(self) -> int:
        return sys.maxsize // 2

    def __getitem__(self, step: int) -> Batch:
        # Rows are read in parallel already; OpenCV's own threads would compete for the cores.
        cv2.setNumThreads(1)
        batch: Batch = {}
        failures: list[Failure] = []
        keys: dict[str, list[str]] = {}
        for part, (examples, total) in self.parts.items():
            rows = total // self.processes
            start = step * total + self.process * rows
            batch[part] = arrays = {}
            keys[part] = []
            indices = range(start, start + rows)
            for row, (example, failed, key) in enumerate(self._map(examples.read, indices)):
                failures += failed
                keys[part].append(key)
                for field, value in example.items():
                    value = np.asarray(value)
                    if field not in arrays:
                        arrays[field] = np.empty((rows, *value.shape), value.dtype)
                    arrays[field][row] = value
        batch[_FAILED] = [(f.source, f.key, f.error) for f in failures]
        batch[_KEYS] = keys
        return batch

    def _map(self, function: Callable[[int], Any], indices: range) -> Iterator[Any]:
        if self.threads < 2:
            return map(function, indices)
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(self.threads, "data")
        return self._pool.map(function, indices)


class Batches(Iterator[Batch]):
    """Iterator over a process's batches; close it (or use `with`) to stop its workers.

    Attributes:
      step: the step whose batch `next` gives.
      seen: examples delivered to this process since the iterator was made.
      failures: examples among them whose record failed and was replaced.
      sources: of each part.
      keys: of each part, the keys of the records in the rows of the batch that came last.
    """

    def __init__(
        self,
        iterator: Any,
        *,
        start_step: int,
        rows: int,
        on_failure: Callable[[Failure], None] | None = None,
        sources: Mapping[str, Sequence[Source]] | None = None,
    ):
        self.sources = dict(sources or {})
        self.keys: dict[str, list[str]] = {}
        self._iterator, self._rows, self._on_failure = iterator, rows, on_failure
        self.step, self.seen, self.failures = start_step, 0, 0
        self._failed: dict[tuple[str, str], Failure] = {}  # not many: see `allowed_failures`
        self._records = sum(len(s) for part in self.sources.values() for s in part)

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise ValueError("these batches are closed")
        try:
            batch = dict(next(self._iterator))
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # Grain has no type for it
                raise
            code = str(error).partition("exit code ")[2].partition(".")[0]
            raise DataError(
                f"a data worker was killed (exit code {code or 'unknown'}; -9: mostly the kernel, "
                "for want of memory). Use fewer data.workers or data.threads, or give the machine "
                "or container more memory, /dev/shm included"
            ) from error
        failed = [Failure(*f) for f in batch.pop(_FAILED)]
        self.keys = batch.pop(_KEYS)
        self.step += 1
        self.seen += self._rows
        self.failures += len(failed)
        for failure in failed:
            if failure.record not in self._failed:
                self._failed[failure.record] = failure
                if self._on_failure is not None:
                    self._on_failure(failure)
        records = min(self.seen, self._records)
        judged = self.seen >= min(FAILURE_MINIMUM, self._records)
        if judged and len(self._failed) > allowed_failures(records):
            raise DataError(
                f"{len(self._failed)} of {records} records cannot be read, and up to "
                f"{allowed_failures(records)} may fail; mend or leave out the files "
                "(tools/prepare_data.py finds all of them). The last of them:\n"
                + "\n".join(f"  {f}" for f in self.failed[-20:])
            )
        return batch

    @property
    def failed(self) -> list[Failure]:
        """The records that failed so far, each once."""
        return list(self._failed.values())

    def close(self) -> None:
        """Stops threads and worker processes; calling it again does nothing."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _weights(specs: Sequence[Mapping[str, Any]], part: str, mix: str) -> list[float] | None:
    given = [s.get("weight") for s in specs]
    if mix == "size":
        if any(w is not None for w in given):
            raise ValueError(f"data.{part}: 'weight' needs mix='weights', not mix='size'")
        return None
    weights = [float(w) for w in given if w is not None]
    if len(weights) != len(given) or not all(np.isfinite(w) and w > 0 for w in weights):
        raise ValueError(
            f"data.{part}: mix='weights' needs a positive 'weight' in each source, got {given}"
        )
    return weights


def _specs(data_cfg: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    specs = data_cfg.get(part) or []
    specs = [specs] if isinstance(specs, Mapping) else specs
    specs = [dict(s) for s in specs]
    if part == "unlabelled":  # labels of this part are not used, so they are not read
        specs = [s if s.get("type") == "folder" else {"labelled": False, **s} for s in specs]
    return specs


def make_sources(data_cfg: Mapping[str, Any], part: str) -> list[Source]:
    """The sources of one part of the batch, as `train_batches` reads them."""
    return [sources_lib.make(spec) for spec in _specs(data_cfg, part)]


def train_batches(
    data_cfg: Mapping[str, Any],
    *,
    labelled_batch: int,
    unlabelled_batch: int,
    size: int | tuple[int, int],
    patch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    on_failure: Callable[[Failure], None] | None = None,
) -> Batches:
    """Iterates without end over this process's rows of each global batch, from `start_step` on.

    Args:
      data_cfg: "labelled" and "unlabelled" (a source description or a list of them), "mix" ("size"
        or "weights"), "workers" (processes; 0 = in this one), "threads" (that read the rows of a
        batch, in each worker; with neither workers nor threads nothing is read ahead), "labels"
        (for the unlabelled source; labels make that part carry label fields too), "metric" (labels
        must be metres), "label_resize" (one of `label_points.METHODS`), "camera" (records must have
        one, and the labelled part carries it) and "augment" (fields of `augment.Augment`, of the
        labelled part).
      labelled_batch, unlabelled_batch: global batch sizes; a part of size 0 is left out.
      size: side of the square crops, or height and width of whole images; multiples of
        `patch_size`, the encoder's.
      seed: of shuffles and augmentations.
      start_step: step of the first batch.
      process_index, process_count: this process among all.
      on_failure: called by `next`, in this process, once for each record that was replaced.

    Returns:
      An iterator over {"labelled": {...}, "unlabelled": {...}}; for b rows of a part, "image"
      (b, size, size, 3) float32 in about [0, 1], and with labels "disparity" float32 ("depth"
      instead with "metric"), "valid" and "sky" bool (b, size, size), "shift_known" bool (b,);
      "camera" float32 (b, 4).

    Raises:
      ValueError: sizes that do not divide, an unknown mix.
      SourceError, ManifestError: a source that is not as described.
      DataError: from `next`, when too many records fail.
    """
    if any(side <= 0 or side % patch_size for side in transforms.sides(size)):
        raise ValueError(f"size={size} is not a multiple of the {patch_size}-pixel patch")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} of process_count={process_count}")
    mix = data_cfg.get("mix") or "size"
    if mix not in MIXES:
        raise ValueError(f"data.mix={mix!r}: one of {', '.join(MIXES)}")
    label_resize = data_cfg.get("label_resize") or "auto"
    one_of("data.label_resize", label_resize, label_points.METHODS)
    parts: dict[str, tuple[Examples, int]] = {}
    for part, total in zip(PARTS, (labelled_batch, unlabelled_batch), strict=True):
        if total == 0:
            continue
        if total < 0 or total % process_count:
            raise ValueError(f"{part} batch {total} does not divide over {process_count} processes")
        specs = _specs(data_cfg, part)
        if not specs:
            raise ValueError(f"data.{part} names no source, and the batch wants {total} from it")
        sources = make_sources(data_cfg, part)
        if part == "labelled":
            _check_labelled(sources)
            source_checks.check(
                sources, metres=bool(data_cfg.get("metric")), cameras=bool(data_cfg.get("camera"))
            )
        examples = Examples(
            part,
            sources,
            _weights(specs, part, mix),
            size=size,
            patch_size=patch_size,
            seed=seed,
            labels=part == "labelled" or any(s.get("labels") for s in specs),
            metric=part == "labelled" and bool(data_cfg.get("metric")),
            with_camera=part == "labelled" and bool(data_cfg.get("camera")),
            augment=Augment(**data_cfg.get("augment") or {}) if part == "labelled" else NOTHING,
            label_resize=label_resize,
        )
        parts[part] = (examples, total)
    if not parts:
        raise ValueError("both batch sizes are 0")
    processes = _whole_number(data_cfg, "workers", 0)
    threads = _whole_number(data_cfg, "threads", 2)
    steps = grain.MapDataset.source(_Steps(parts, process_index, process_count, threads))
    rows = (labelled_batch + unlabelled_batch) // process_count
    ahead = min(threads, 1) if processes == 0 else 0
    iterator = workers.iterate(steps[start_step:], processes, ahead)
    read = {part: examples.sources for part, (examples, _) in parts.items()}
    return Batches(iterator, start_step=start_step, rows=rows, on_failure=on_failure, sources=read)


def _check_labelled(sources: Sequence[Source]) -> None:
    without = [s.name for s in sources if not is_labelled(s)]
    if without:
        raise ValueError(
            f"data.labelled names sources without labels: {', '.join(without)} (docs/data.md says "
            "how images and labels are described)"
        )


def _whole_number(data_cfg: Mapping[str, Any], field: str, default: int) -> int:
    value = data_cfg.get(field)
    value = default if value is None else value
    if value < 0:
        raise ValueError(f"data.{field}={value} is negative")
    return int(value)
