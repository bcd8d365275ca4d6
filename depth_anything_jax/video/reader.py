"""A video file → frames, one after the other in constant memory: (time, RGB uint8), upright.

Times are exact fractions of a second from the first frame on, as the file has them, so that a
variable frame rate stays what it is. What is damaged or missing at the end costs those frames only:
iteration gives what could be read, and `Reader.problems` then tells the rest.

Files alone are opened, never what a file points to: a playlist (HLS, concat) named clip.mp4 would
make FFmpeg fetch addresses and read other files.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

PathLike = str | os.PathLike[str]
SUFFIXES = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip
# FFmpeg's demuxers for files that hold their own frames
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,dv,nut,yuv4mpegpipe,"
    "h264,hevc,gif,apng"
)


class VideoError(ValueError):
    """A video that cannot be read or written as asked."""


class Frame(NamedTuple):
    """Seconds from the first frame, and RGB uint8 (h, w, 3)."""

    time: Fraction
    image: UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class Info:
    """What a video file says about itself, and how it is read.

    Attributes:
      height, width: of the frames that `Reader` gives: upright, square pixels, within `max_res`.
      rate: frames a second, the average; of those that `Reader` gives.
      time_base: the unit of the file's times, in seconds.
      frames: how many to expect, None where the file does not say.
      rotation: quarter turns to the left that make the stored frames upright.
      codec: FFmpeg's name of the video's coding.
      audio: sound tracks.
      start: seconds at which the file's clock stands at the first frame.
    """

    height: int
    width: int
    rate: Fraction
    time_base: Fraction
    frames: int | None
    rotation: int
    codec: str
    audio: int
    start: Fraction


def import_av() -> Any:
    """PyAV, or an error that names the extra."""
    try:
        import av
    except ImportError as error:
        raise VideoError(
            "reading and writing videos needs the extra [video]: "
            "pip install 'depth_anything_jax[video]'"
        ) from error
    return av


def open_file(path: PathLike) -> Any:
    """PyAV's container of a local file.

    Raises:
      VideoError: no such file, an empty one, or none that holds its own frames.
    """
    av = import_av()
    file = pathlib.Path(path)
    if not file.is_file():
        raise VideoError(f"{path}: {'is a folder' if file.is_dir() else 'no such file'}")
    if not file.stat().st_size:
        raise VideoError(f"{path}: the file is empty")
    try:
        # An absolute path with the protocol: "a:b.mp4" is a name here, not an address.
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        return av.open(f"file:{file.absolute()}", container_options=options)
    except (av.error.FFmpegError, OSError, UnicodeError) as error:
        raise VideoError(
            f"{path}: not a video, or its beginning or index is missing "
            f"({getattr(error, 'strerror', error)}); a recording that was cut off before it was "
            "finished ends like this"
        ) from error


class Reader:
    """The frames of a video file; each iteration starts anew.

    Args:
      path: a local file.
      max_len: frames to give at most.
      target_fps: frames a second to give at most: of those shown in each interval the first.
      max_res: the longer side to give at most, in pixels; sides are then even.
      max_pixels: frames of more, as they are stored, are refused before they are decoded.

    Attributes:
      info: see Info.
      problems: after an iteration, what could not be read, a sentence each.

    Raises:
      VideoError: naming the file and what is wrong.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        max_len: int | None = None,
        target_fps: float | None = None,
        max_res: int | None = None,
        max_pixels: int | None = None,
    ):
        for name, value in ("max_len", max_len), ("target_fps", target_fps), ("max_res", max_res):
            if value is not None and not 0 < value < math.inf:
                raise VideoError(f"{name} must be a number above 0, got {value}")
        self.path, self.max_len, self.max_pixels = path, max_len, max_pixels
        self.target = None if target_fps is None else Fraction(target_fps).limit_denominator(10**6)
        self.problems: list[str] = []
        with open_file(path) as container:
            self.info = self._look(container, max_res)

    def _look(self, container: Any, max_res: int | None) -> Info:
        stream = self._stream(container)
        first = next(self._decoded(container, stream), None)
        if first is None:
            detail = "; ".join(self.problems) or "it holds none"
            raise VideoError(f"{self.path}: no frame could be decoded ({detail})")
        aspect = stream.sample_aspect_ratio or 1
        height, width = first.height, max(1, round(first.width * aspect))
        if max_res is not None and max(height, width) > max_res:
            share = max_res / max(height, width)
            height, width = (max(2, round(n * share / 2) * 2) for n in (height, width))
        self._stored = height, width
        turns = round(first.rotation / 90) % 4
        if turns % 2:
            height, width = width, height
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        frames = stream.frames or None
        if frames is None and container.duration:
            frames = max(1, round(container.duration / 1_000_000 * rate))
        if self.target is not None and self.target < rate:
            frames = frames and max(1, round(frames * self.target / rate))
            rate = self.target
        if frames is not None and self.max_len is not None:
            frames = min(frames, self.max_len)
        return Info(
            height=height,
            width=width,
            rate=rate,
            time_base=Fraction(stream.time_base),
            frames=frames,
            rotation=turns,
            codec=stream.codec_context.name,
            audio=len(container.streams.audio),
            start=_time_of(first) or Fraction(0),
        )

    def __iter__(self) -> Iterator[Frame]:
        self.problems = []
        with open_file(self.path) as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            given = 0
            for time, frame in self._chosen(stream, self._decoded(container, stream)):
                height, width = self._stored
                rgb = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
                yield Frame(time, np.ascontiguousarray(np.rot90(rgb, self.info.rotation)))
                given += 1
                if given == self.max_len:
                    return

    def _stream(self, container: Any) -> Any:
        stream = container.streams.best("video")
        if stream is None:
            raise VideoError(f"{self.path}: holds no video, only {_kinds(container)}")
        if self.max_pixels is not None:
            context = stream.codec_context
            if context.width * context.height > self.max_pixels:
                raise VideoError(
                    f"{self.path}: frames of {context.width}x{context.height}, the limit is "
                    f"{self.max_pixels / 1e6:.3g} million pixels; make it smaller"
                )
            # what a stream announces it may change later: FFmpeg looks at every frame
            context.options = {"max_pixels": str(self.max_pixels)}
        return stream

    def _chosen(self, stream: Any, frames: Iterator[Any]) -> Iterator[tuple[Fraction, Any]]:
        """The frames to give with their times."""
        rate = Fraction(stream.average_rate or self.info.rate)
        last, offset, due = None, self.info.start, 0
        for frame in frames:
            time = _time_of(frame)
            if time is None:  # raw streams carry no times
                time = offset if last is None else last + offset + 1 / rate
            if last is not None and time - offset < last - 1:  # two recordings joined
                self.problems.append(f"the clock jumps back after {float(last):.2f} s")
                offset = time - last - 1 / rate
            time -= offset
            if last is not None and time <= last:
                continue  # never shown
            last = time
            time = _unrounded(time, rate, self.info.time_base)
            if self.target is not None:
                # A tenth of an interval early is in time: Matroska rounds to milliseconds.
                interval = int(time * self.target + Fraction(1, 10))
                if interval < due:
                    continue
                due = interval + 1
            yield time, frame

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """All frames that can be decoded; what cannot is put down in `problems` at the end."""
        error = import_av().error.FFmpegError
        packets = damaged = 0
        end = Fraction(0)
        demuxed = container.demux(stream)
        while True:
            try:
                packet = next(demuxed, None)
            except error as problem:
                self.problems.append(f"cannot be read further ({problem.strerror})")
                packet = None
            if packet is None:
                break
            if packet.size:
                packets += 1
                if packet.pts is not None:
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            try:
                frames = packet.decode()
            except error:
                damaged += 1
                continue
            damaged += sum(frame.is_corrupt for frame in frames)
            yield from frames
        if damaged:
            self.problems.append(f"{damaged} damaged frames were dropped or patched")
        announced = _seconds(stream.metadata.get("DURATION"))
        # AVI counts frames that are empty; its times tell.
        counted = container.format.name != "avi"
        if not counted and stream.duration:
            announced = stream.duration * Fraction(stream.time_base)
        if counted and packets < stream.frames:
            self.problems.append(f"ends after {packets} of {stream.frames} frames: truncated")
        elif announced is not None and end < announced - Fraction(1, 5):
            self.problems.append(
                f"ends after {float(end):.2f} of {float(announced):.2f} s: truncated"
            )


def _time_of(frame: Any) -> Fraction | None:
    return None if frame.pts is None else frame.pts * Fraction(frame.time_base)


def _unrounded(time: Fraction, rate: Fraction, time_base: Fraction) -> Fraction:
    """Matroska and others round to milliseconds: 1001/30000 s is stored as 0.033."""
    if time_base < Fraction(1, 1000):
        return time
    exact = round(time * rate) / rate
    return exact if abs(exact - time) <= time_base else time


def _seconds(text: str | None) -> Fraction | None:
    """Matroska's "00:01:02.500000000"."""
    try:
        hours, minutes, seconds = (text or "").split(":")
        return (int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds)
    except ValueError:
        return None


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
