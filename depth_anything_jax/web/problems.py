"""What of an error is shown to the users of the page, and what is written to the log alone."""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterator

from absl import logging

from depth_anything_jax.data.file_formats.formats import FormatError
from depth_anything_jax.video import reader

_ANY_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.+-]+){2,}|\b[A-Za-z]:\\")
_BROKEN = "an error occurred on the server; its log has the details"


class Problem(Exception):
    """An error whose text is shown to the user; it must not contain paths."""


class Cancelled(Problem):
    """A video was cancelled by its user."""


class UnusableUpload(Problem):
    """The upload itself cannot be used, whatever else is asked for; it is deleted at once."""


@contextlib.contextmanager
def reporting(upload: str | None = None) -> Iterator[None]:
    """Converts exceptions in its body to Problems; unexpected ones are logged.

    Args:
      upload: a file, which is deleted at once where it cannot be used.
    """
    try:
        yield
    except Problem as problem:
        if upload is not None and isinstance(problem, UnusableUpload):
            pathlib.Path(upload).unlink(missing_ok=True)
        raise
    except Exception as error:
        text = str(error)
        if upload is not None:
            text = text.replace(upload, pathlib.Path(upload).name)
        if isinstance(error, ValueError) and text and not _ANY_PATH.search(text):
            if upload is not None and isinstance(error, FormatError | reader.VideoError):
                pathlib.Path(upload).unlink(missing_ok=True)
            raise Problem(text) from error
        logging.exception("a request failed")
        cause = ": most often too little memory" if isinstance(error, RuntimeError) else ""
        raise Problem(_BROKEN + cause) from error


def plain(text: str) -> str:
    """Escapes a text for Markdown, so that a file's name shows as it is."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]#~|$!])", r"\\\1", safe)
