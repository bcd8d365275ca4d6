"""Paths that are local, and addresses such as gs://bucket/folder."""

import os


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address, which only `etils.epath` opens."""
    return "://" in os.fspath(path)
