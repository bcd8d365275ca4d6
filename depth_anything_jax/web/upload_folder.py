"""Manages a server's private temporary folder for uploads and results.

Other users of the machine cannot read it (0700), files are removed after `keep` seconds, and the
folder is removed at the end. Gradio's own `delete_cache` covers only files that went through a
component; unprocessed or incomplete uploads would remain.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator

PREFIX = "depth-anything-app-"
MAX_BYTES = 8_000_000_000  # of all files together


class FolderFull(ValueError):
    """There is no room for another file."""


class Folder:
    """A temporary folder that removes old files.

    Attributes:
      files: uploads and results; Gradio's temporary folder.
      empty: the server's working directory, so that no relative path leads to a file.
      keep: seconds that a file is kept after it was last written.
      max_bytes: of all files together.
    """

    def __init__(self, keep: float, max_bytes: int = MAX_BYTES):
        if not keep > 0:
            raise ValueError(f"keep={keep}: must be above 0 seconds")
        self.keep, self.max_bytes = keep, max_bytes
        _remove_stale_folders()
        # mkdtemp makes it 0700; the process id in its name tells later whether it is in use.
        self.root = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
        self.files, self.empty = self.root / "files", self.root / "empty"
        self.files.mkdir(mode=0o700)
        self.empty.mkdir(mode=0o700)
        self._uploads: list[int] = []  # bytes announced by those that have not ended
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tidy, name="tidy", daemon=True)

    def new(self) -> pathlib.Path:
        """Creates a folder for one result, with an unguessable name.

        Raises:
          FolderFull: the files of all results and uploads are too large already.
        """
        self._check_room(0)
        return pathlib.Path(tempfile.mkdtemp(prefix="result-", dir=self.files))

    @contextlib.contextmanager
    def upload(self, size: int) -> Iterator[None]:
        """Keeps room for an upload of `size` bytes, and removes what incomplete ones left.

        Gradio stores an upload beside the other files and moves it into a folder of its own when it
        is complete; where it stops early the file remains. It is removed when no other upload is on
        its way, as the files do not say which belongs to whom; slow uploads end (`request_body`).

        Raises:
          FolderFull: there is no room for it.
        """
        with self._lock:
            self._check_room(size)
            self._uploads.append(size)
        try:
            yield
        finally:
            with self._lock:
                self._uploads.remove(size)
                if not self._uploads:
                    for file in self.files.glob("tmp*"):
                        if file.is_file():
                            file.unlink(missing_ok=True)

    def _check_room(self, size: int) -> None:
        used = sum(self._uploads)
        for where, _, names in os.walk(self.files):
            for name in names:
                with contextlib.suppress(OSError):
                    used += os.lstat(os.path.join(where, name)).st_size
        if used + size > self.max_bytes:
            raise FolderFull(
                f"the server keeps {used / 1e6:.0f} of at most {self.max_bytes / 1e6:.0f} MB of "
                f"uploads and results: try again later, they are cleared after "
                f"{self.keep / 60:.0f} minutes"
            )

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether a path is inside `files`."""
        try:
            resolved = pathlib.Path(path).resolve()
        except (OSError, ValueError):  # too long, a null byte
            return False
        return pathlib.Path(path).is_absolute() and resolved.is_relative_to(self.files)

    def tidy(self, now: float | None = None) -> int:
        """Removes old files; returns their number."""
        oldest = (time.time() if now is None else now) - self.keep
        count = 0
        for where, folders, files in os.walk(self.files, topdown=False):
            for name in files:
                path = os.path.join(where, name)
                with contextlib.suppress(FileNotFoundError):
                    if os.lstat(path).st_mtime < oldest:
                        os.unlink(path)
                        count += 1
            for name in folders:
                path = os.path.join(where, name)
                with contextlib.suppress(OSError):  # not empty, or gone
                    if os.lstat(path).st_mtime < oldest:
                        os.rmdir(path)
        return count

    def _tidy(self) -> None:
        while not self._ended.wait(min(60.0, self.keep / 4)):
            self.tidy()

    @contextlib.contextmanager
    def open(self) -> Iterator[Folder]:
        """Changes to the empty folder, removes old files on a timer, and everything at the end."""
        before = os.getcwd()
        os.chdir(self.empty)
        self._thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            os.chdir(before)
            self._thread.join(5)
            shutil.rmtree(self.root, ignore_errors=True)


def _remove_stale_folders() -> None:
    """Removes folders of this user's servers that were killed before they could do so."""
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = path.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            ours = os.lstat(path).st_uid == os.getuid() if hasattr(os, "getuid") else True
            if ours and not path.is_symlink() and number.isdecimal() and not _alive(int(number)):
                shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
