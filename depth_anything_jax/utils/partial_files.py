"""Temporary files beside their final ones, which they replace when they are complete."""

from __future__ import annotations

import os
import pathlib
import tempfile

# Asked for once, as asking sets it: two threads that asked at a time would leave it at 0.
_UMASK = os.umask(0o022)
os.umask(_UMASK)


def create(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """Makes an empty temporary file in the folder of `path`, to be published as it."""
    # The name may be as long as the file system allows: it must be no longer with the rest.
    handle, name = tempfile.mkstemp(prefix=".partial.", suffix=suffix, dir=path.parent.absolute())
    os.close(handle)
    return pathlib.Path(name)


def publish(part: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a temporary file the mode of any new file (`create` made it private) and its name."""
    part.chmod(0o666 & ~_UMASK)
    part.replace(path)
