"""Converts a video to videos of its depth: batches, smoothing, colours, 16 bits, sound.

Output styles (`STYLES`):
  color         colours, near is warm
  side-by-side  the frame, a gap, the colours
  depth16       16 bits without loss (FFV1 in .mkv), with their meaning in the file's tags;
                `depth16.read_depth` reads it back. Metres are never stretched: value / 1000, or
                less where they go beyond 65.535 m; 0 means unknown. Relative disparity is
                value / scale, with one scale for the whole file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from depth_anything_jax.video import cuts
from depth_anything_jax.video import smooth as smooth_lib
from depth_anything_jax.video.depth16 import Depth16Writer
from depth_anything_jax.video.reader import Frame, PathLike, Reader, VideoError
from depth_anything_jax.video.writer import Writer, check_path
from depth_anything_jax.visualization import colormaps

STYLES = ("color", "side-by-side", "depth16")
GAP = 8  # white pixels between frame and depth

# RGB frames of one shape → maps (h, w) of that shape: disparity, larger is nearer, or metres.
Predict = Callable[[Sequence[np.ndarray]], Any]
# a map and the range of colours → RGB uint8, as wide as the map, or higher with a bar below it
Paint = Callable[[np.ndarray, tuple[float, float]], np.ndarray]


@dataclasses.dataclass
class Report:
    """Statistics and messages of a processed video.

    Attributes:
      frames: number of frames written.
      rate: frames per second.
      cuts: times in seconds at which a new scene began.
      flicker_before, flicker_after: flicker of the predictions and of the written maps, see
        `smooth.Flicker`; None with fewer than two frames of a scene.
      notes: messages for the user.
      problems: parts of the source that could not be read; the rest was written.
    """

    frames: int = 0
    rate: float = 0.0
    cuts: list[float] = dataclasses.field(default_factory=list)
    flicker_before: float | None = None
    flicker_after: float | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def process(
    source: PathLike,
    outputs: Mapping[PathLike, str],
    predict: Predict,
    *,
    metric: bool = False,
    smooth: bool = True,
    limits: str | tuple[float, float] = "shared",
    paint: Paint | None = None,
    depth_scale: float | None = None,
    sound: bool = True,
    batch_size: int = 8,
    max_len: int | None = None,
    target_fps: float | None = None,
    max_res: int | None = None,
    max_pixels: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Report:
    """Predicts the depth of a video and writes it to files.

    Args:
      source: a video file.
      outputs: {path: style of STYLES}; all are written in one pass, and each gets its name only
        when it is complete.
      predict: takes lists of at most `batch_size` frames, RGB uint8; returns as many maps.
      metric: whether the maps are in metres; these are never smoothed.
      smooth: whether relative maps keep scale and shift from frame to frame (`smooth.Smoother`).
      limits: range of the colours: "shared", see `smooth.SharedRange`; "image", each frame's own;
        or two values of the maps.
      paint: colours a map; None: `colormaps.colourise`, near is warm.
      depth_scale: of depth16 in metres: value / depth_scale = metres; None: 1000, or less where
        depth goes beyond 65.535 m.
      sound: whether to copy the sound.
      max_len, target_fps, max_res, max_pixels: see `reader.Reader`.
      progress: called with (frames done, frames expected or None).

    Raises:
      VideoError: the source has no frame, or an output cannot be written. Incomplete outputs are
        removed then; existing files are kept.
    """
    _check(source, outputs, limits)
    reader = Reader(
        source, max_len=max_len, target_fps=target_fps, max_res=max_res, max_pixels=max_pixels
    )
    info = reader.info
    report = Report(rate=float(info.rate))
    if paint is None:
        paint = _paint_metres if metric else _paint
    pipeline = _Pipeline(metric, smooth and not metric, limits)
    coloured = any(style != "depth16" for style in outputs.values())
    with contextlib.ExitStack() as stack:
        writers: list[tuple[str, Writer | Depth16Writer]] = []
        for frame, values in _predictions(reader, predict, batch_size):
            step = pipeline(frame, values)
            colours = paint(step.values, step.limits) if coloured else frame.image
            if not writers:
                for path, style in outputs.items():
                    opened = functools.partial(_writer, style, reader, sound, len(colours))
                    writer: Writer | Depth16Writer
                    if style == "depth16":
                        writer = Depth16Writer(
                            path, opened, metric=metric, scale=depth_scale, first=step.values
                        )
                    else:
                        writer = opened(path)
                    stack.enter_context(writer)
                    writers.append((style, writer))
            if step.restarted and report.frames:
                report.cuts.append(float(frame.time))
            for style, writer in writers:
                if style == "depth16":
                    writer.write(frame.time, step.values)
                else:
                    both = style == "side-by-side"
                    writer.write(frame.time, _beside(frame.image, colours) if both else colours)
            report.frames += 1
            if progress is not None:
                progress(report.frames, info.frames)
        if not writers:  # although `Reader` could read the first frame before
            raise VideoError(f"{source}: no frame could be decoded; {'; '.join(reader.problems)}")
    report.problems = reader.problems
    report.flicker_before, report.flicker_after = pipeline.before.mean, pipeline.after.mean
    # Notes that several writers have in common are reported once.
    notes = itertools.chain.from_iterable(writer.notes for _, writer in writers)
    report.notes = list(dict.fromkeys(notes))
    return report


def _check(source: PathLike, outputs: Mapping[PathLike, str], limits: Any) -> None:
    if not outputs:
        raise VideoError("no output is given")
    for path, style in outputs.items():
        if pathlib.Path(path).resolve() == pathlib.Path(source).resolve():
            raise VideoError(f"{path}: would replace the video that is read")
        if style not in STYLES:
            raise VideoError(f"{path}: unknown style {style!r}; one of {', '.join(STYLES)}")
        check_path(path, sixteen_bits=style == "depth16")
    if isinstance(limits, str):
        if limits not in ("shared", "image"):
            raise VideoError(f"limits={limits!r}: 'shared', 'image' or two values")
    elif not limits[0] < limits[1]:
        raise VideoError(f"limits={limits}: the first of the two values must be the smaller")


def _predictions(
    reader: Reader, predict: Predict, batch_size: int
) -> Iterator[tuple[Frame, Float[np.ndarray, "h w"]]]:
    frames = iter(reader)
    while batch := list(itertools.islice(frames, batch_size)):
        maps = predict([frame.image for frame in batch])
        if len(maps) != len(batch):
            raise VideoError(f"predict made {len(maps)} maps of {len(batch)} frames")
        for frame, values in zip(batch, maps, strict=True):
            values = np.asarray(values)
            if values.shape != frame.image.shape[:2]:
                raise VideoError(
                    f"predict made a map {values.shape} of a frame {frame.image.shape[:2]}"
                )
            yield frame, values


@dataclasses.dataclass
class _Step:
    values: np.ndarray
    limits: tuple[float, float]
    restarted: bool


class _Pipeline:
    """Smooths maps, measures their flicker, and finds the range of their colours."""

    def __init__(self, metric: bool, smooth: bool, limits: str | tuple[float, float]):
        self._pictures = cuts.Pictures()
        self._smoother = smooth_lib.Smoother() if smooth else None
        self._range = smooth_lib.SharedRange()
        self._limits = limits
        self.before, self.after = (smooth_lib.Flicker(metric=metric) for _ in range(2))

    def __call__(self, frame: Frame, values: np.ndarray) -> _Step:
        change = self._pictures(frame.image)
        smoothed, restarted = values, change.cut
        if self._smoother is not None:
            smoothed, _, _, restarted = self._smoother(values, change)
        self.before.add(values, restarted)
        self.after.add(smoothed, restarted)
        limits = self._limits
        if isinstance(limits, str):
            limits = self._range(smoothed, restarted or limits == "image")
        return _Step(smoothed, limits, restarted)


def _paint(values: np.ndarray, limits: tuple[float, float]) -> UInt8[np.ndarray, "h w 3"]:
    return colormaps.colourise(values, limits=limits)


def _paint_metres(values: np.ndarray, limits: tuple[float, float]) -> UInt8[np.ndarray, "h w 3"]:
    return colormaps.colourise(-values, limits=(-limits[1], -limits[0]))


def _beside(image: np.ndarray, colours: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    height, width = image.shape[:2]
    left = np.full((len(colours), width + GAP, 3), 255, np.uint8)
    left[:height, :width] = image
    return np.concatenate([left, colours], axis=1)


def _writer(
    style: str,
    reader: Reader,
    sound: bool,
    coloured: int,
    path: PathLike,
    tags: Mapping[str, str] | None = None,
) -> Writer:
    """Opens the writer of one output; `coloured` is the height of its coloured frames."""
    info = reader.info
    return Writer(
        path,
        height=info.height if style == "depth16" else coloured,
        width=2 * info.width + GAP if style == "side-by-side" else info.width,
        rate=info.rate,
        time_base=info.time_base,
        sixteen_bits=style == "depth16",
        sound=reader.path if sound and info.audio else None,
        sound_start=info.start,
        tags=tags,
    )
