"""Decodes a video file to upright RGB frames with their times, in constant memory.

Times are exact fractions of a second since the first frame, as stored in the file, so that variable
frame rates are preserved. Damaged or truncated files lose only the affected frames: iteration
yields what can be decoded, and `Reader.problems` describes the rest.

Only files that hold their own frames are opened: a playlist (HLS, concat) named clip.mp4 would make
FFmpeg fetch addresses and read other files.
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

from depth_anything_jax.data.file_formats import photos

PathLike = str | os.PathLike[str]
SUFFIXES = (
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".h264", ".h265",
    ".hevc", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg",
    ".mpg", ".mts", ".mxf", ".nut", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
# FFmpeg's demuxers for files that hold their own frames
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,dv,nut,yuv4mpegpipe,"
    "h264,hevc,gif,apng"
)


# What files begin with, after so many bytes. Of MP4 see `is_video`; the last two are raw streams.
_BEGINNINGS = (
    (0, b"\x1aE\xdf\xa3"), (8, b"AVI "), (0, b"FLV"), (0, b"0&\xb2u\x8ef\xcf\x11"), (0, b"OggS"),
    (0, b"\0\0\1\xba"), (0, b"\0\0\1\xb3"), (0, b"\x06\x0e+4\x02\x05\1\1"), (0, b"YUV4MPEG2 "),
    (0, b"nut/multimedia container"), (0, b"\x1f\7\0"), (4, b"moov"), (4, b"mdat"), (4, b"wide"),
    *((0, b"\0" * zeros + b"\1" + unit) for zeros in (2, 3) for unit in (b"\x67", b"\x27", b"\x09",
      b"\x40\1", b"\x46\1")),
)  # fmt: skip
_WITH_DURATION = ("flv", "mxf", "matroska,webm")  # in the header, and of the whole file
_PICTURES = (b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_PICTURE_BRANDS = {*photos.HEIF, *photos.AVIF, b"jxl ", b"jp2 ", b"jpx "}


class VideoError(ValueError):
    """Raised for a video that cannot be read or written as requested."""


class Frame(NamedTuple):
    """A frame: seconds since the first one, and its image, RGB uint8 (h, w, 3)."""

    time: Fraction
    image: UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class Info:
    """Properties of a video file as `Reader` reads it.

    Attributes:
      height, width: of the frames yielded by `Reader`: upright, square pixels, within `max_res`.
      rate: average number of frames per second yielded by `Reader`.
      time_base: the unit of the file's times, in seconds.
      frames: expected number of frames, None where the file does not state it.
      rotation: quarter turns to the left that make the stored frames upright.
      codec: FFmpeg's name of the video codec.
      audio: number of sound tracks.
      start: time of the first frame on the file's clock, in seconds.
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
    """Imports PyAV; raises VideoError that names the extra where it is missing."""
    try:
        import av
    except ImportError as error:
        raise VideoError(
            "reading and writing videos needs the extra [video]: "
            "pip install 'depth_anything_jax[video]'"
        ) from error
    return av


def open_file(path: PathLike) -> Any:
    """Opens a local video file as a PyAV container.

    Raises:
      VideoError: the file does not exist, is empty, or does not hold its own frames.
    """
    av = import_av()
    file = pathlib.Path(path)
    if not file.is_file():
        raise VideoError(f"{path}: {'is a folder' if file.is_dir() else 'no such file'}")
    if not file.stat().st_size:
        raise VideoError(f"{path}: the file is empty")
    try:
        # An absolute path with the protocol, so that "a:b.mp4" is not taken for an address.
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        return av.open(f"file:{file.absolute()}", container_options=options)
    except (av.error.FFmpegError, OSError, UnicodeError) as error:
        raise VideoError(
            f"{path}: not a video, or its beginning or index is missing "
            f"({getattr(error, 'strerror', error)}); a recording that was cut off before it was "
            "finished ends like this"
        ) from error


def is_video(path: PathLike) -> bool | None:
    """Whether a file's content is that of a video; None where its beginning does not tell."""
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError:
        return None
    if start[4:8] == b"ftyp":
        return start[8:12] not in _PICTURE_BRANDS
    if any(start[at:].startswith(begin) for at, begin in _BEGINNINGS):
        return True
    for at in (0, 4):  # packets of MPEG-TS, of Blu-ray with a time before each
        if len(start) > 577 + at and {start[at + k * (188 + at)] for k in range(3)} == {0x47}:
            return True
    return False if start[:4] in _PICTURES or start[:2] in (b"\xff\xd8", b"BM") else None


class Reader:
    """Iterates over the frames of a video file; each iteration starts from the beginning.

    Args:
      path: a local file.
      max_len: maximum number of frames.
      target_fps: maximum number of frames per second: the first one in each interval is kept.
      max_res: maximum length of the longer side, in pixels; smaller frames have even sides.
      max_pixels: maximum size of a stored frame; larger ones are refused before decoding.

    Attributes:
      info: see Info.
      problems: after an iteration, one sentence for each thing that could not be read.

    Raises:
      VideoError: the file cannot be read; the message names it and the reason.
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
            self.info = self._probe(container, max_res)

    def _probe(self, container: Any, max_res: int | None) -> Info:
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
            # frames may differ from the size that the stream announces: FFmpeg checks each of them
            context.options = {"max_pixels": str(self.max_pixels)}
        return stream

    def _chosen(self, stream: Any, frames: Iterator[Any]) -> Iterator[tuple[Fraction, Any]]:
        """Yields the selected frames with their times."""
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
        """Yields all frames that can be decoded; adds failures to `problems` at the end."""
        error = import_av().error.FFmpegError
        packets = damaged = 0
        end = Fraction(0)
        last = Fraction(0)  # of all tracks: the duration of a file is that of its longest
        demuxed = container.demux(stream, *container.streams.audio)
        while True:
            try:
                packet = next(demuxed, None)
            except error as problem:
                self.problems.append(f"cannot be read further ({problem.strerror})")
                packet = None
            if packet is None:
                break
            ours = packet.stream.index == stream.index
            if packet.size and packet.pts is not None:
                ends = (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base)
                last, end = max(last, ends), max(end, ends) if ours else end
            if not ours:
                continue
            packets += packet.size > 0
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
        # AVI also counts empty frames, so its duration is compared instead.
        counted = container.format.name != "avi"
        if not counted and stream.duration:
            announced = stream.duration * Fraction(stream.time_base)
        if announced is None and container.format.name in _WITH_DURATION and container.duration:
            announced = Fraction(container.duration + (container.start_time or 0), 1_000_000)
            end = last
        if counted and packets < stream.frames:
            self.problems.append(f"ends after {packets} of {stream.frames} frames: truncated")
        elif announced is not None and end < announced - Fraction(1, 5):
            self.problems.append(
                f"ends after {float(end):.2f} of {float(announced):.2f} s: truncated"
            )


def _time_of(frame: Any) -> Fraction | None:
    return None if frame.pts is None else frame.pts * Fraction(frame.time_base)


def _unrounded(time: Fraction, rate: Fraction, time_base: Fraction) -> Fraction:
    """Restores times that Matroska and others round to milliseconds (1001/30000 s to 0.033)."""
    if time_base < Fraction(1, 1000):
        return time
    exact = round(time * rate) / rate
    return exact if abs(exact - time) <= time_base else time


def _seconds(text: str | None) -> Fraction | None:
    """Parses Matroska's "00:01:02.500000000"."""
    try:
        hours, minutes, seconds = (text or "").split(":")
        return (int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds)
    except ValueError:
        return None


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
