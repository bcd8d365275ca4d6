"""Labels all images of a source with a teacher, shard by shard; used by `pseudo_label`.

`residual` measures the error of lower precision; `contact_sheet` shows the result.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from etils import epath

from depth_anything_jax.data import buckets as buckets_lib
from depth_anything_jax.data import transforms
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.pseudo_labels import label_codec, label_store
from depth_anything_jax.data.pseudo_labels.label_store import LabelStore, LabelWriter
from depth_anything_jax.data.sources.base import Source
from depth_anything_jax.inference import predictor
from depth_anything_jax.utils import interpolation
from depth_anything_jax.utils.formatting import duration
from depth_anything_jax.utils.version import __version__
from depth_anything_jax.visualization import colormaps

_PROGRESS_SECONDS = 5.0


@dataclasses.dataclass
class Summary:
    """Counts and times of a call of `label_source`.

    Attributes:
      images: number labelled by this call.
      invalid: number of all images without a label.
      skipped: number in shards that already existed.
      seconds: of labelling, compilation included.
      programs: shapes that the network was compiled for.
      padding: images computed only to fill batches.
    """

    images: int = 0
    invalid: int = 0
    skipped: int = 0
    seconds: float = 0.0
    programs: int = 0
    padding: int = 0

    @property
    def images_per_second(self) -> float:
        """Throughput, compilation included."""
        return self.images / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        computed = max(1, self.images + self.padding)
        return (
            f"{self.images} images labelled in {self.seconds:.1f} s ({self.images_per_second:.2f} "
            f"images/s, compilation included), {self.programs} compiled programs, "
            f"{self.padding / computed:.0%} of the computed images filled batches; "
            f"{self.skipped} were there already, {self.invalid} have no label"
        )


def label_source(
    predict: Callable[[np.ndarray], Any],
    source: Source,
    out: str | os.PathLike[str],
    *,
    teacher: Mapping[str, Any],
    transform: transforms.InputTransform = transforms.OFFICIAL_INPUT,
    size: int | None = None,
    dtype: str = "float32",
    flip: bool = False,
    buckets: int = 0,
    batch_size: int = 1,
    shard_size: int = 1024,
    shift_known: bool = False,
    notes: Mapping[str, Any] | None = None,
    threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
    barrier: Callable[[str], None] = lambda name: None,
    tell: Callable[[str], None] = print,
) -> Summary:
    """Labels every image of a source that has no label yet.

    Args:
      predict: normalised images (b, h, w, 3) → disparity (b, h, w); `predictor.Predictor`, or any
        function. Called with `batch_size` images of one shape.
      source: the images.
      out: folder of the labels, local or on gs://; see `label_store`.
      teacher: its identity as JSON values, such as "fingerprint": only the same teacher continues a
        store.
      transform: makes the network's input. Where it changes the aspect ratio, labels are resized
        back to it (bilinear, at the input's short side).
      size: short side of the network's input, a multiple of the patch size; None: the transform's.
      dtype: compute dtype of the teacher, for the card.
      flip: averages with the mirrored label of the mirrored image.
      buckets: number of lengths that the longer side may have; 0: exact shapes.
      batch_size: images at a time in this process.
      shard_size: labels per shard, the most that a kill loses.
      shift_known: zero disparity means infinitely far (a metric teacher).
      notes: further entries of the card; the trainer reads "licence_chain".
      threads: number that read images and encode labels.
      process_index, process_count: this process among all; shard i belongs to i mod process_count.
      barrier: waits for all processes.
      tell: prints a line of progress.

    Returns:
      Counts of this process; `invalid` is of the whole store.

    Raises:
      LabelError: the folder holds labels of other images, another teacher or other options.
      ValueError: a size that is not a multiple of the patch size, a source of which nothing can be
        read, or a size or buckets for a teacher with inputs of one shape.
    """
    transform.refuse_size(size)
    if buckets and not transform.is_official:
        raise ValueError(f"buckets={buckets}: this teacher's input is {transform.as_json()}; use 0")
    size = transform.short_side if size is None else size
    encoder = transform.encoder
    patch_size = encoder.patch_size
    if not encoder.fits(size):
        raise ValueError(f"size={size} is no multiple of {patch_size}; use {encoder.nearest(size)}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: use 1 or more")
    chosen: list[int] = []
    if buckets:
        chosen = buckets_lib.sampled(source, size, buckets, patch_size=patch_size)
    identity: dict[str, Any] = {
        "source": {"count": len(source), "keys_sha256": label_store.keys_digest(source)},
        "teacher": dict(teacher),
        "input": {"size": size, "flip": flip, "buckets": chosen, "dtype": dtype},
        "shard_size": shard_size,
        "shift_known": shift_known,
    }
    if transform != transforms.OFFICIAL_INPUT:
        identity["input"]["transform"] = transform.as_json()
    notes = {"version": __version__, "source_name": source.name, **(notes or {})}
    if process_index != 0:
        barrier("card")
    writer = LabelWriter(out, identity, notes, create=process_index == 0)
    if process_index == 0:
        barrier("card")
    mine = [s for s in range(writer.shards) if s % process_count == process_index]
    todo = [s for s in mine if not writer.done(s)]
    summary = Summary(skipped=sum(len(writer.range(s)) for s in set(mine) - set(todo)))
    total = sum(len(writer.range(s)) for s in todo)
    if summary.skipped:
        tell(f"{out}: {summary.skipped} images have their labels, {total} to go")
    stats = predictor.Stats()
    progress = _Progress(total, stats, tell)

    def read(index: int) -> tuple[str, tuple[int, int], np.ndarray]:
        image = source[index]["image"]
        image_hw = (image.shape[0], image.shape[1])
        if buckets:
            shape = buckets_lib.label_shape(*image_hw, size, chosen, patch_size=patch_size)
            pixels = transform.at(image, *shape)
        else:
            pixels = transform(image, size if transform.keep_aspect else None)
        # The source's key, by which readers ask: a packed record has its file's name beside it.
        return source.key(index), image_hw, pixels

    run = _flipped(predict) if flip else predict
    start = time.monotonic()
    with ThreadPoolExecutor(max(1, threads)) as encoders:
        for shard in todo:
            records: dict[int, Any] = {}
            errors: dict[str, str] = {}

            def inputs(shard=shard, records=records, errors=errors):
                found = predictor.read_ahead(read, writer.range(shard), threads=threads)
                for index, value in found:
                    if isinstance(value, Exception):
                        key, error = source.key(index), f"{type(value).__name__}: {value}"
                        errors[key] = error
                        records[index] = label_codec.encode_invalid(key, error)
                        tell(f"cannot label {key}: {error}")
                        progress.step()
                    else:
                        yield predictor.Input((index, *value[:2]), value[2])

            for y in predictor.predict_all(run, inputs(), batch_size=batch_size, stats=stats):
                index, key, image_hw = y.tag
                disparity = y.map
                if not transform.keep_aspect:
                    shape = transforms.network_size(
                        image_hw[0], image_hw[1], size, patch_size=patch_size
                    )
                    disparity = interpolation.resize(disparity, shape, "bilinear-corners")
                    disparity = disparity.astype(np.float32)
                if np.isfinite(disparity).any():
                    records[index] = encoders.submit(label_codec.encode, disparity, key, image_hw)
                else:
                    errors[key] = "the teacher gave no finite value"
                    records[index] = label_codec.encode_invalid(key, errors[key])
                    tell(f"cannot label {key}: {errors[key]}")
                progress.step()
            done = (records[i] for i in writer.range(shard))
            data = [r if isinstance(r, bytes) else r.result() for r in done]
            writer.write_shard(shard, data, errors)
            summary.images += len(data) - len(errors)
    summary.seconds = time.monotonic() - start
    summary.programs, summary.padding = len(stats.shapes), stats.padding
    barrier("labelled")
    if process_index == 0:
        speed = {} if not total else {"images_per_second": round(summary.images_per_second, 3)}
        writer.finish(**speed, programs=summary.programs)
        contact_sheet(source, LabelStore(out))
    barrier("finished")
    summary.invalid = len(label_store.read_card(out)["invalid"])
    return summary


def residual(
    predict: Callable[[np.ndarray], Any],
    reference: Callable[[np.ndarray], Any],
    source: Source,
    *,
    size: int | None,
    batch_size: int,
    transform: transforms.InputTransform = transforms.OFFICIAL_INPUT,
) -> dict[str, float]:
    """Measures a teacher in lower precision against float32 on the first readable images.

    Args:
      predict, reference: the two, called with one batch of `batch_size` images of one shape.
      source: the images; the first and those of its shape among the next few are used.
      size: short side of the network's input; None: the transform's.
      batch_size: images at a time.
      transform: makes the network's input.

    Returns:
      "median" and "worst" |difference|, as shares of the float32 label's range, and "images".

    Raises:
      ValueError: none of the first images can be read.
    """
    inputs: list[np.ndarray] = []
    for index in range(min(4 * batch_size, len(source))):
        try:
            image = transform(source[index]["image"], size)
        except Exception:  # reported when it is labelled
            continue
        if len(inputs) < min(4, batch_size) and (not inputs or inputs[0].shape == image.shape):
            inputs.append(image)
    if not inputs:
        raise ValueError(f"{source.name}: none of the first images can be read")
    batch = np.stack((inputs * batch_size)[:batch_size])
    low, full = (np.asarray(p(batch), np.float64)[: len(inputs)] for p in (predict, reference))
    spread = np.maximum(np.ptp(full, axis=(1, 2)), np.finfo(np.float32).tiny)
    share = np.abs(low - full) / spread[:, None, None]
    return {
        "images": len(inputs),
        "median": float(np.median(share)),
        "worst": float(share.max()),
    }


def _flipped(predict: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    def both(images: np.ndarray) -> Any:
        mirrored = predict(np.ascontiguousarray(images[:, :, ::-1]))
        return (predict(images) + mirrored[:, :, ::-1]) / 2

    return both


class _Progress:
    """Prints a line every few seconds: images done, rate, programs, time left."""

    def __init__(self, total: int, stats: Any, tell: Callable[[str], None]):
        self.total, self.stats, self.tell = total, stats, tell
        self.done, self.start = 0, time.monotonic()
        self.next = self.start + _PROGRESS_SECONDS

    def step(self) -> None:
        """Counts one more image."""
        self.done += 1
        now = time.monotonic()
        if now < self.next and self.done != self.total:
            return
        self.next = now + _PROGRESS_SECONDS
        rate = self.done / max(now - self.start, 1e-9)
        share = f"{self.done}/{self.total} {self.done / self.total:4.0%}"
        self.tell(
            f"labelled {share}  {rate:.2f} images/s  "
            f"{len(self.stats.shapes)} programs  ETA {duration((self.total - self.done) / rate)}"
        )


def contact_sheet(source: Source, store: LabelStore, *, count: int = 8, height: int = 160) -> None:
    """Writes contact.png beside the labels: evenly spaced images, each as RGB | label.

    Nothing is written where no image of the store can be shown.
    """
    tiles = []
    for index in np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).astype(int)):
        key = source.key(int(index))
        if key in store.invalid:
            continue
        label = store.read(int(index), key)
        image = source[int(index)]["image"]
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        colours = colormaps.colourise(label.values, label.valid)
        pair = [
            cv2.resize(x, (width, height), interpolation=cv2.INTER_AREA) for x in (image, colours)
        ]
        tiles.append(np.concatenate(pair, axis=1))
    if not tiles:
        return
    widest = max(t.shape[1] for t in tiles)
    rows = [
        np.pad(t, ((0, 4), (0, widest - t.shape[1]), (0, 0)), constant_values=255) for t in tiles
    ]
    (epath.Path(store.path) / "contact.png").write_bytes(formats.encode_png(np.concatenate(rows)))
