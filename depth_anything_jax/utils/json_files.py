"""Reads JSON objects from files of others, with errors that name the file."""

import json
import os
from typing import Any

from etils import epath

MOST_BYTES = 1 << 24  # 16 MB, which decoded may take 1 GB. Our choice; config files have 1 kB


def read(path: str | os.PathLike[str], most: int = MOST_BYTES) -> dict[str, Any]:
    """Reads a file that holds one JSON object; local or gs://.

    Raises:
      ValueError: larger than `most` bytes, not JSON, nested too deeply, or not an object.
      OSError: it cannot be read.
    """
    with epath.Path(path).open("rb") as file:
        return parse(file.read(most + 1), os.fspath(path), most)


def parse(data: bytes | str, source: str, most: int = MOST_BYTES) -> dict[str, Any]:
    """Parses one JSON object; `source` is its name in errors, which are those of `read`."""
    if len(data) > most:
        raise ValueError(f"{source}: more than {most / 1e6:.0f} MB of JSON, which is too much")
    try:
        found = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"{source}: the JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{source}: damaged, not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{source}: a JSON {type(found).__name__} and not an object ({{…}})")
    return found
