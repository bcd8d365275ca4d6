"""Encodes frames to a video file: colours as H.264, depth as lossless 16 bits, sound copied.

A file is written under a temporary name beside its final one and renamed when it is complete. Only
the sound of the source is copied, no metadata such as title, place or camera.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from depth_anything_jax.utils import partial_files
from depth_anything_jax.video.reader import PathLike, VideoError, import_av, open_file

# The first one available in FFmpeg is used. PyAV's wheels have libx264; every build has MPEG-4.
CODECS = ("libx264", "libopenh264", "mpeg4")
QUALITY = {
    "libx264": {"crf": "18", "preset": "veryfast"},  # x264: 18 is visually lossless
    "libopenh264": {},
    "mpeg4": {"qscale": "2"},
}
COLOUR_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
_BT709 = 1
_MAX_TICKS = 1_000_000  # per second; the field in MP4 has 32 bits


def check_path(path: PathLike, *, sixteen_bits: bool) -> None:
    """Raises VideoError where a video of this kind cannot be written to a path."""
    file = pathlib.Path(path)
    allowed = (".mkv",) if sixteen_bits else COLOUR_SUFFIXES
    if file.suffix.lower() not in allowed:
        what = "16-bit depth" if sixteen_bits else "a video"
        raise VideoError(f"{path}: {what} is written as {', '.join(allowed)}, not {file.suffix!r}")
    if not file.parent.is_dir():
        raise VideoError(f"{path}: there is no folder {file.parent}")
    try:
        file.is_symlink()
    except OSError as error:  # the name is too long
        raise VideoError(f"{path}: cannot be written ({error.strerror})") from error


class Writer:
    """Writes a video; use it in a `with` block, which finishes the file or removes it.

    Args:
      path: .mp4, .m4v, .mov or .mkv; for 16 bits .mkv.
      height, width: of the frames.
      rate: average number of frames per second; each frame has its own time.
      time_base: the unit of the frames' times where they come from a file.
      sixteen_bits: uint16 (h, w) frames, stored exactly (FFV1); else RGB uint8 (h, w, 3), H.264.
      sound: a file whose sound tracks are copied without re-encoding.
      sound_start: time on its clock, in seconds, at which the first frame is shown.
      tags: metadata of the file.

    Attributes:
      codec: FFmpeg's name of the chosen codec.
      notes: messages for the user, one sentence each.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        height: int,
        width: int,
        rate: Fraction | float,
        time_base: Fraction | None = None,
        sixteen_bits: bool = False,
        sound: PathLike | None = None,
        sound_start: Fraction = Fraction(0),
        tags: Mapping[str, str] | None = None,
    ):
        av = import_av()
        check_path(path, sixteen_bits=sixteen_bits)
        self.path = pathlib.Path(path)
        suffix = self.path.suffix.lower()
        self.notes: list[str] = []
        self._shape = (height, width) if sixteen_bits else (height, width, 3)
        # 1001 is NTSC's denominator; never 0, which one frame per hour would round to
        self._rate = max(Fraction(rate).limit_denominator(1001), Fraction(1, 1001))
        # An absolute path is no address, though it has a colon.
        self._temporary = partial_files.create(self.path, suffix)
        options = {"movflags": "+faststart"} if suffix != ".mkv" else {}
        self._container = av.open(str(self._temporary), "w", options=options)
        self._source = None
        try:
            self._container.metadata.update(tags or {})
            self._add_video(av, sixteen_bits, time_base or 1 / self._rate)
            self._sound = self._add_sound(sound, sound_start) if sound else iter(())
            self._container.start_encoding()
        except BaseException as error:
            self.abort()
            if isinstance(error, av.error.FFmpegError):
                raise VideoError(f"{path}: cannot be written ({error.strerror})") from error
            raise
        self._waiting = next(self._sound, None)
        self._last = -1

    def _add_video(self, av: Any, sixteen_bits: bool, time_base: Fraction) -> None:
        self.codec = "ffv1" if sixteen_bits else next(c for c in CODECS if _has(av, c))
        if not sixteen_bits and self.codec != CODECS[0]:
            self.notes.append(
                f"FFmpeg has no {CODECS[0]} here: the video is encoded as {self.codec}"
            )
        height, width = self._shape[:2]
        stream = self._container.add_stream(self.codec, rate=self._rate)
        # exact for the file's own times and for the nominal ones
        ticks = math.lcm(time_base.denominator, self._rate.numerator)
        self._tick = Fraction(1, ticks if ticks <= _MAX_TICKS else 90_000)
        context = stream.codec_context
        context.time_base = self._tick
        if sixteen_bits:
            stream.width, stream.height, stream.pix_fmt = width, height, "gray16le"
            context.options = {"level": "3", "slicecrc": "1"}  # damage is detected and stays local
        else:
            # H.264 in 4:2:0, which all players support, needs even sides.
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuv420p"
            context.options = QUALITY[self.codec]
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = 1
        self._stream = stream

    def _add_sound(self, path: PathLike, start: Fraction) -> Iterator[tuple[Fraction, Any]]:
        self._source = source = open_file(path)
        copies = {}
        for stream in source.streams.audio:
            name = stream.codec_context.name
            if name not in self._container.supported_codecs:
                self.notes.append(
                    f"the sound ({name}) cannot be stored in {self.path.suffix} and is left out; "
                    "use .mkv to keep it"
                )
                continue
            copies[stream.index] = self._container.add_stream_from_template(stream)
            copies[stream.index].metadata.clear()
        return self._packets(source, copies, start)

    def _packets(
        self, source: Any, copies: Mapping[int, Any], start: Fraction
    ) -> Iterator[tuple[Fraction, Any]]:
        """Yields (time, packet) of the sound, on the clock of the frames."""
        if not copies:
            return
        try:
            for packet in source.demux([source.streams[i] for i in copies]):
                if packet.dts is None or packet.pts is None:
                    continue
                shift = round(start / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                time = packet.pts * Fraction(packet.time_base)
                if time + (packet.duration or 0) * Fraction(packet.time_base) < 0:
                    continue
                packet.stream = copies[packet.stream.index]
                yield time, packet
        except import_av().error.FFmpegError as error:
            self.notes.append(f"the sound ends early ({error.strerror})")

    def write(self, time: Fraction | float, frame: np.ndarray) -> None:
        """Adds a frame, shown from `time` (seconds) on; times must increase.

        Raises:
          VideoError: the frame has another shape or type than announced, or its time is not later
            than the previous one's.
        """
        av = import_av()
        wanted = np.uint16 if len(self._shape) == 2 else np.uint8
        if frame.shape != self._shape or frame.dtype != wanted:
            raise VideoError(
                f"{self.path}: a frame is {frame.dtype} {frame.shape}, expected "
                f"{np.dtype(wanted)} {self._shape}"
            )
        at = round(Fraction(time) / self._tick)
        if at <= self._last:
            raise VideoError(f"{self.path}: a frame at {float(time):.4f} s comes after a later one")
        if wanted == np.uint16:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray16le")
        else:
            h, w = frame.shape[:2]
            if h % 2 or w % 2:
                frame = np.pad(frame, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
        picture.pts, picture.time_base = at, self._tick
        self._last = at
        try:
            self._mux(picture)
            self._sound_until(at * self._tick + 1 / self._rate)
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _mux(self, picture: Any) -> None:
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def _sound_until(self, end: Fraction) -> None:
        while self._waiting is not None and self._waiting[0] < end:
            self._container.mux(self._waiting[1])
            self._waiting = next(self._sound, None)

    def close(self, path: pathlib.Path | None = None) -> None:
        """Finishes the file and renames it to its final name, or to `path`."""
        try:
            self._mux(None)
            self._container.close()
            if self._source is not None:
                self._source.close()
            partial_files.publish(self._temporary, path or self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Removes the incomplete file."""
        for container in (self._container, self._source):
            if container is not None:
                try:
                    container.close()
                except Exception:  # the file is removed anyway
                    pass
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _has(av: Any, codec: str) -> bool:
    try:
        av.Codec(codec, "w")
    except Exception:  # UnknownCodecError is in another module in each version
        return False
    return True
