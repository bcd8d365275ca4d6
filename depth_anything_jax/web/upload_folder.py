"""The private temporary folder of a server: what people upload and what is made of it.

Nobody else on the machine may look in (0700), nothing stays longer than `keep` seconds, and at the
end all of it goes. Gradio's own `delete_cache` knows only files that went through a component;
uploads that nobody processed, or that broke off, would stay.
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


class Folder:
    """A temporary folder that empties itself.

    Attributes:
      files: uploads and results; Gradio's temporary folder.
      empty: where the server works, so that no relative path leads to anything.
      keep: seconds that a file stays after it was last written.
    """

    def __init__(self, keep: float):
        if not keep > 0:
            raise ValueError(f"keep={keep}: seconds above 0")
        self.keep = keep
        _remove_those_of_the_dead()
        # mkdtemp makes it 0700; the process's number says later whether it is still in use.
        self.root = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
        self.files, self.empty = self.root / "files", self.root / "empty"
        self.files.mkdir(mode=0o700)
        self.empty.mkdir(mode=0o700)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tidy, name="tidy", daemon=True)

    def new(self) -> pathlib.Path:
        """A folder for one result, with a name that cannot be guessed."""
        return pathlib.Path(tempfile.mkdtemp(prefix="result-", dir=self.files))

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether a path lies among the files."""
        try:
            resolved = pathlib.Path(path).resolve()
        except (OSError, ValueError):  # too long, a null byte
            return False
        return pathlib.Path(path).is_absolute() and resolved.is_relative_to(self.files)

    def tidy(self, now: float | None = None) -> int:
        """Removes what is too old; says how many files."""
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
        """Works in the empty folder, on a timer; in the end all is removed."""
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


def _remove_those_of_the_dead() -> None:
    """Folders of this user's servers that were killed and could not remove them."""
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = path.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            ours = os.lstat(path).st_uid == os.getuid() if hasattr(os, "getuid") else True
            if ours and not path.is_symlink() and number.isdecimal() and not _alive(int(number)):
                shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
