"""Paths whose `glob` takes the folder's name literally, for records and checkpoints."""

import glob
import os
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from depth_anything_jax.utils.paths import is_remote

_ONE_SLASH = re.compile(r"(?:^|/)(gs|s3|az|hf):/(?!/)")
_LocalPath: Any = type(epath.Path("/"))


class _LiteralPath(_LocalPath):
    """A local `epath.Path` whose `glob` takes the path itself literally.

    epath's takes all of it for a pattern, and so finds nothing in a folder called "run[1]". Orbax
    passes the class on to the paths that it makes of this one.
    """

    def glob(self, pattern: str) -> Iterator["_LiteralPath"]:
        """Yields the files of this folder that match the pattern."""
        for found in glob.iglob(os.path.join(glob.escape(os.fspath(self)), pattern)):
            yield self._new(found)


def literal(path: str | os.PathLike[str]) -> epath.Path:
    """Makes an `epath.Path`, whose `glob` takes a local path itself literally; expands "~".

    Raises:
      ValueError: an address with one slash, or a local path that is not UTF-8: etils, ArrayRecord
        or Orbax cannot open it.
    """
    text = os.fspath(path)
    if is_remote(text):
        return epath.Path(text)
    if scheme := _ONE_SLASH.search(text):
        raise ValueError(f"{text}: an address has two slashes, {scheme[1]}://")
    text = os.path.expanduser(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{ascii(text)}: this name is not UTF-8, so no checkpoint or file of records can "
            "have it; rename it"
        ) from None
    return _LiteralPath(text)
