"""Single frames of video files by their time; the next of the same file costs no seek."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from jaxtyping import UInt8

from depth_anything_jax.data.file_formats.file_checks import FormatError

AHEAD = 10.0  # seconds: what lies farther ahead is sought, what is nearer decoded on the way
_state = threading.local()  # the file that a thread has open


class _Frames:
    """The frames of one file, in order of time."""

    def __init__(self, path: str):
        self.path = path
        self.container = _import_av(path).open(path)
        self.stream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.first = float((self.stream.start_time or 0) * self.stream.time_base)
        # Beyond the last frame by more than two intervals (or .5 s), a video has ended too early.
        self.ends = 2 / float(self.stream.average_rate or 4)
        self.last: Any = None  # the frame that is shown, and the one after it
        self.next: Any = None
        self.frames = self._decoded()

    def at(self, time: float) -> Any:
        """The frame that is shown at a time, in seconds after the first one."""
        shown = None if self.last is None else self._time(self.last)
        if shown is None or time < shown or time > shown + AHEAD:
            offset = int((time + self.first) / self.stream.time_base)
            self.container.seek(offset, stream=self.stream)
            self.frames = self._decoded()
            self.last, self.next = next(self.frames, None), next(self.frames, None)
        while self.next is not None and self._time(self.next) <= time + 1e-4:
            self.last, self.next = self.next, next(self.frames, None)
        over = self.last is not None and self.next is None
        if self.last is None or (over and time > self._time(self.last) + self.ends):
            raise FormatError(f"{self.path}: no frame at {time:.3f} s")
        return self.last

    def _decoded(self) -> Any:
        """The frames from here on that have a time; damaged packets give some without."""
        return (f for f in self.container.decode(self.stream) if f.pts is not None)

    def _time(self, frame: Any) -> float:
        return float(frame.pts * self.stream.time_base) - self.first


def at(path: str, time: float) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the frame that is shown at a time in seconds.

    Raises:
      ImportError: PyAV is missing.
      FormatError: a damaged file, or one that ends before that time.
    """
    av = _import_av(path)
    try:
        if getattr(_state, "frames", None) is None or _state.frames.path != path:
            _close()
            _state.frames = _Frames(path)
        return _state.frames.at(time).to_ndarray(format="rgb24")
    except FormatError:
        _close()
        raise
    except (av.error.FFmpegError, OSError, IndexError) as error:
        _close()
        raise FormatError(f"{path}: no frame at {time:.3f} s can be read ({error})") from error


def _close() -> None:
    frames, _state.frames = getattr(_state, "frames", None), None
    if frames is not None:
        frames.container.close()


def duration(path: str) -> float:
    """Reads a video's length in seconds from its headers; 0 of a damaged one."""
    av = _import_av(path)
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            if stream.duration is not None:
                return float(stream.duration * stream.time_base)
            return (container.duration or 0) / 1e6
    except (av.error.FFmpegError, OSError, IndexError):
        return 0.0  # its first frame will fail, by name


def _import_av(path: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"{path} is a video: pip install 'depth_anything_jax[sets]'") from error
    return av
