"""Processes many images and videos, writes their depth to files, and collects failures."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from depth_anything_jax.cli import inputs, outputs
from depth_anything_jax.cli.inputs import Item
from depth_anything_jax.cli.outputs import Style
from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.depth_files import METRIC, RELATIVE
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.utils import sixteen_bits
from depth_anything_jax.utils.formatting import duration
from depth_anything_jax.video import process


@dataclasses.dataclass(frozen=True)
class Options:
    """Options that affect the predictions; see `DepthAnything`.

    Attributes:
      input_size: short side of the network's input in pixels; None: the model's own.
      buckets: allowed lengths of its longer side, or their number; 0: exact shapes.
      tile: side of the tiles in pixels of the image; 0: no tiles.
      smooth: of videos: whether relative maps keep scale and shift from frame to frame.
      max_len, target_fps, max_res: of videos: maximum number of frames, of frames per second, and
        of pixels of the longer side.
    """

    input_size: int | None = None
    buckets: int | Sequence[int] = 0
    tile: int = 0
    smooth: bool = True
    max_len: int | None = None
    target_fps: float | None = None
    max_res: int | None = None


class Problems(list):
    """List of (name, error message) of the inputs that failed, in order of failure."""

    def add(self, name: str, error: BaseException) -> None:
        """Appends the failure of an input."""
        text = str(error) or type(error).__name__
        self.append((name, text.removeprefix(f"{name}: ")))

    def __str__(self) -> str:
        lines = [f"{len(self)} of the inputs failed:"]
        return "\n".join(lines + [f"  {name}: {text}" for name, text in self])


def run(
    model: DepthAnything,
    items: Sequence[Item],
    out: pathlib.Path,
    style: Style,
    options: Options,
    *,
    stdin: Callable[[], bytes] = lambda: sys.stdin.buffer.read(),
) -> Problems:
    """Predicts and writes the depth of all items, images first; returns the failures.

    Args:
      model: a DepthAnything.
      items: `cli.inputs.Item`s.
      out: the output folder.
      style: a `cli.outputs.Style`.
      options: see Options.
      stdin: returns the bytes of the item "-".
    """
    problems = Problems()
    stills = [item for item in items if not item.video]
    if stills:
        _pictures(model, stills, out, style, options, problems, stdin)
    for item in items:
        if item.video:
            _video(model, item, out, style, options, problems)
    return problems


def _pictures(
    model: DepthAnything,
    items: Sequence[Item],
    out: pathlib.Path,
    style: Style,
    options: Options,
    problems: Problems,
    stdin: Callable[[], bytes],
) -> None:
    pictures = [stdin() if i.source == inputs.STDIN else i.source for i in items]
    shared = style.range == "shared" and set(outputs.COLOURED) & set(style.formats)
    later = [f for f in style.formats if shared and f in outputs.COLOURED]
    now = [f for f in style.formats if f not in later]
    ranges: list[tuple[float, float]] = []
    focals: list[str] = []  # a list rather than a counter, because threads append to it
    notes: dict[str, list[str]] = collections.defaultdict(list)
    drawn = []  # indices of images that are coloured when all ranges are known

    with (
        tempfile.TemporaryDirectory(prefix=".maps.", dir=out) as waiting,
        _Saver(problems) as saver,
        _bar(len(items), "picture") as bar,
    ):

        def write(index: int, depth: Depth) -> None:
            for note in depth.meta.get("notes", ()):
                notes[note].append(items[index].source)
            if "png16" in now and depth.unit and style.png_scale is None:
                scale = sixteen_bits.fitting_scale(depth.depth)
                if scale != sixteen_bits.SCALES[0]:
                    far = f"depth goes beyond 65.535 m: the 16-bit PNG has 1/{scale:g} m"
                    notes[far].append(items[index].source)
            focals.append(outputs.write(depth, out, items[index].stem, style, now))
            if later:
                kept = depth if "side-by-side" in later else dataclasses.replace(depth, image=None)
                _keep(kept, pathlib.Path(waiting) / f"{index}.npz")
                ranges.append(depth.colour_range)
                drawn.append(index)

        for index, result in _stream(model, pictures, style, options):
            if isinstance(result, Exception):
                problems.add(items[index].source, result)
            else:
                saver.submit(items[index].source, write, index, result)
            bar.update()
        saver.wait()
        limits = outputs.joined(ranges, model.unit is not None)
        final = dataclasses.replace(style, range=limits)
        for index in sorted(drawn):
            try:
                depth = _kept(pathlib.Path(waiting) / f"{index}.npz")
                outputs.write(depth, out, items[index].stem, final, later)
            except (OSError, ValueError) as error:
                problems.add(items[index].source, error)
    if limits:
        print(f"colours from {limits[0]:.4g} to {limits[1]:.4g} {model.unit or ''}".rstrip())
    for note, names in notes.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"{min(names)}{others}: {note}")
    if named := [f"{who} ({count})" for who, count in collections.Counter(focals).items() if who]:
        print(f"focal lengths of the points: {', '.join(named)}")


def _stream(
    model: DepthAnything, pictures: list[Any], style: Style, options: Options
) -> Iterator[tuple[int, Depth | Exception]]:
    """Yields (index, Depth or Exception) for each image.

    When the network fails on a batch, the remaining images are processed one by one, so that only
    those fail that cause the error."""
    given: dict[str, Any] = dict(
        input_size=options.input_size,
        buckets=options.buckets,
        tile=options.tile,
        intrinsics=style.intrinsics,
        fov=style.fov,
    )
    left = dict.fromkeys(range(len(pictures)))
    try:
        for index, result in model.stream(pictures, keep_images=style.needs_image, **given):
            left.pop(index)
            yield index, result
    except RuntimeError as error:
        text = f"The {len(left)} remaining pictures are processed one by one."
        print(f"\n{error}\n{text}", file=sys.stderr)
    for index in left:
        try:
            yield index, model(pictures[index], **given)
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            yield index, error


def _video(
    model: DepthAnything,
    item: Item,
    out: pathlib.Path,
    style: Style,
    options: Options,
    problems: Problems,
) -> None:
    targets = outputs.video_outputs(out, item.stem, style)
    metric = model.unit is not None

    def frames(images: Sequence[Any]) -> list[Any]:
        found = model(
            list(images),
            input_size=options.input_size,
            tile=options.tile,
            intrinsics=style.intrinsics,
            fov=style.fov,
        )
        return [depth.depth for depth in found]

    start = time.monotonic()
    try:
        (out / item.stem).parent.mkdir(parents=True, exist_ok=True)
        with _bar(None, "frame", item.source) as bar:

            def progress(done: int, count: int | None) -> None:
                bar.total = count
                bar.update(done - bar.n)

            report = process.process(
                item.source,
                targets,
                frames,
                metric=metric,
                smooth=options.smooth,
                limits=_ordered(style.range or "shared"),
                paint=painter(style, metric),
                depth_scale=style.png_scale,
                max_len=options.max_len,
                target_fps=options.target_fps,
                max_res=options.max_res,
                progress=progress,
            )
    except (OSError, ValueError, RuntimeError) as error:
        problems.add(item.source, error)
        return
    for note in report.notes:
        print(f"{item.source}: {note}")
    print(f"{item.source}: {summary(report, time.monotonic() - start, metric)}")
    for problem in report.problems:
        problems.add(item.source, ValueError(f"{problem}; the {report.frames} frames before"))


def summary(report: process.Report, seconds: float, metric: bool) -> str:
    """One line about a video: frames, time, flicker as predicted → as written, cuts."""
    pace = f"{report.frames / max(seconds, 1e-3):.2g} a second"
    parts = [f"{report.frames} frames in {duration(seconds)} ({pace})"]
    before, after = report.flicker_before, report.flicker_after
    if before is not None and after is not None:
        smoothed = "" if metric else f"{100 * before:.2g} % → "  # metres are never smoothed
        parts.append(f"flicker {smoothed}{100 * after:.2g} %")
    at = ", ".join(f"{moment:.1f} s" for moment in report.cuts[:5])
    more = ", …" if len(report.cuts) > 5 else ""
    name = "cut" if len(report.cuts) == 1 else "cuts"
    parts.append(f"{len(report.cuts)} {name} (at {at}{more})" if report.cuts else "no cuts")
    return ", ".join(parts)


def painter(style: Style, metric: bool) -> Callable[[Any, tuple[float, float]], Any]:
    """Returns a function that colours a map in the style; metres get a colour bar below.

    It takes the map and (low, high) and returns RGB uint8."""
    kind = METRIC if metric else RELATIVE

    def paint(values: Any, limits: tuple[float, float]) -> Any:
        near, far = limits if metric else limits[::-1]
        if near == far:
            far = near + 1 if metric else near - 1
        picture = Depth(values, kind).to_pil(
            style.colormap, range=(near, far), invert=style.invert, colorbar=metric
        )
        return np.asarray(picture.convert("RGB"))

    return paint


def _ordered(limits: Any) -> Any:
    """Converts (near, far) to (low, high); returns a string unchanged."""
    return limits if isinstance(limits, str) else (min(limits), max(limits))


def _keep(depth: Depth, path: pathlib.Path) -> None:
    depth.save(path)
    if depth.image is not None:
        np.save(path.with_suffix(".image.npy"), depth.image)


def _kept(path: pathlib.Path) -> Any:
    depth, image = Depth.load(path), path.with_suffix(".image.npy")
    return dataclasses.replace(depth, image=np.load(image)) if image.exists() else depth


class _Saver:
    """Writes files in threads while the network runs; its queue is short to bound memory."""

    def __init__(self, problems: Problems):
        self._problems = problems
        self._threads = min(4, os.cpu_count() or 1)
        self._waiting: collections.deque[tuple[str, concurrent.futures.Future]] = (
            collections.deque()
        )

    def __enter__(self) -> _Saver:
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, name: str, call: Callable[..., None], *args: Any) -> None:
        """Starts a call for the input `name`; waits where too many are in flight."""
        self._waiting.append((name, self._pool.submit(call, *args)))
        while len(self._waiting) > 2 * self._threads:
            self._finish()

    def wait(self) -> None:
        """Waits until every submitted call has finished or failed."""
        while self._waiting:
            self._finish()

    def _finish(self) -> None:
        name, future = self._waiting.popleft()
        try:
            future.result()
        except (OSError, ValueError, ImportError) as error:
            self._problems.add(name, error)


def _bar(count: int | None, unit: str, name: str = "") -> Any:
    from tqdm import tqdm

    return tqdm(total=count, unit=unit, desc=name or None, dynamic_ncols=True, smoothing=0.1)
