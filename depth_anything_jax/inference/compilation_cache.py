"""Keeps compiled programs on disk, so that the next process need not compile them again."""

from __future__ import annotations

import os
import pathlib
import sys

import jax
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

VARIABLE = "DEPTH_ANYTHING_CACHE"  # a folder; empty: nothing is kept
LEAST_SECONDS = 0.2  # programs that compile faster are not worth a file


def folder() -> pathlib.Path | None:
    """Returns the folder of the programs: $DEPTH_ANYTHING_CACHE, else `compiled` in the user's
    cache folder; None where that variable is empty."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return pathlib.Path(chosen).expanduser() if chosen else None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "depth_anything_jax" / "compiled"


def switch_on() -> str | None:
    """Makes JAX keep compiled programs and returns their folder; a cache that is already set stays.

    That is one set by $JAX_COMPILATION_CACHE_DIR or `jax_compilation_cache_dir`. A folder that
    cannot be written is a warning, not an error.
    """
    current = jax.config.jax_compilation_cache_dir
    if current:
        return current
    place = folder()
    if place is None:
        return None
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError(f"{place} cannot be written")
    except OSError as error:
        logging.warning(
            "compiled programs are not kept (%s); name a folder in $%s", error, VARIABLE
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    compilation_cache.reset_cache()  # an earlier compilation may have found it off
    return str(place)
