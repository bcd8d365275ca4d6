"""Rendered scenes as a source of records: three domains with exact depth, made from a seed.

    A        labelled: rooms and courtyards on a clear day, a clean camera
    B        unlabelled: rooms, courtyards and streets at dusk, at night, overcast, in fog, through
             a cheap camera with noise, blur and colour casts
    C        never trained on: hamlets on rolling ground and storehouses, on a hazy afternoon
    mixture  rooms, courtyards, streets and valleys under all looks, to pre-train the demo's
             encoder without depth

Record i depends on (domain, seed, i) alone, so a source needs no files. Rendering costs some 20 ms
a picture, too much inside a training loop: `fill_cache` renders ahead, in several processes, and
continues where it was stopped; a source that finds the cache reads from it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from depth_anything_jax.data.camera import Camera
from depth_anything_jax.data.scenes.render import DOMAINS, SEMANTICS, render
from depth_anything_jax.utils.encoders import DINOV2

__all__ = ["DOMAINS", "SEMANTICS", "SceneSource", "fill_cache", "render"]

# Part of the cache's folder names: raise it with every change that alters what a file holds.
VERSION = 5  # depth, no longer disparity
CACHE = "runs/scenes"
SMALLEST = DINOV2.patch_size  # pixels from side to side: our choice, one patch
_CHUNK = 50  # pictures in one file of the cache


class SceneSource:
    """Rendered scenes as records (see `data.registry`), with or without their labels.

    Args:
      domain: "A", "B", "C" or "mixture".
      count: number of records.
      seed: chooses the set; sets of different seeds share no scene.
      size: pixels from side to side.
      labelled: give depth in metres, valid, sky and shift_known.
      fov: degrees from side to side, for all pictures; None: 60 to 95, drawn for each.
      semantic: give "semantic" too, uint8 (size, size): positions in SEMANTICS.
      cache: folder to read rendered pictures from, where `fill_cache` has put them.
      name: of the source in logs.

    Raises:
      ValueError: unknown domain, a size below SMALLEST, or a count below 1.
    """

    def __init__(
        self,
        domain: str,
        count: int,
        seed: int = 0,
        size: int = 112,
        labelled: bool = True,
        semantic: bool = False,
        cache: str = CACHE,
        name: str | None = None,
        fov: float | None = None,
    ):
        if domain not in DOMAINS:
            raise ValueError(f"unknown scene domain {domain!r}; there are {', '.join(DOMAINS)}")
        if count < 1 or size < SMALLEST:
            raise ValueError(
                f"scenes need count >= 1 and size >= {SMALLEST}, got {count} and {size}"
            )
        if fov is not None and not 10 <= fov <= 150:
            raise ValueError(f"scenes with fov={fov}: use 10 to 150 degrees")
        self.fov = fov
        self.domain, self.count, self.seed, self.size = domain, int(count), int(seed), int(size)
        self.labelled, self.semantic = bool(labelled), bool(semantic)
        self.folder = cache_folder(cache, domain, self.seed, self.size, fov)
        self.name = name or f"scenes {domain}"

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        """The record's name: domain, seed and position."""
        return f"{self.domain}{self.seed}/{index:06d}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(f"record {index} of {self.count} in {self.name}")
        scene = self._cached(index)
        if scene is None:
            scene = render(self.domain, self.seed, index, self.size, self.fov)
        record: dict[str, Any] = {"key": self.key(index), "image": scene["image"]}
        record["camera"] = Camera(*map(float, scene["camera"]))
        if self.labelled:
            sky = scene["sky"]
            record |= {
                "depth": scene["depth"],
                "valid": ~sky,
                "sky": sky,
                "shift_known": True,
            }
        if self.semantic:
            record["semantic"] = scene["semantic"]
        return record

    def _cached(self, index: int) -> dict[str, np.ndarray] | None:
        path = _chunk_path(self.folder, index // _CHUNK)
        dtype = _dtype(self.size)
        # The file's header says what is known here. Parsing it with `ast`, as `np.load` does, fails
        # now and then where several threads do so at a time (SystemError, seen on Python 3.11.7).
        try:
            header = path.stat().st_size - _CHUNK * dtype.itemsize
            chunk = np.memmap(path, dtype, mode="r", offset=header, shape=(_CHUNK,))
        except (FileNotFoundError, NotADirectoryError):
            return None
        row = chunk[index % _CHUNK]
        return {field: np.array(row[field]) for field in dtype.names or ()}


def cache_folder(
    cache: str | os.PathLike[str], domain: str, seed: int, size: int, fov: float | None = None
) -> pathlib.Path:
    """Where the pictures of one set lie below the cache."""
    lens = "" if fov is None else f"-fov{fov:g}"
    return pathlib.Path(cache).expanduser() / f"v{VERSION}-{domain}-{seed}-{size}{lens}"


def _chunk_path(folder: pathlib.Path, chunk: int) -> pathlib.Path:
    return folder / f"{chunk:05d}.npy"


def _dtype(size: int) -> np.dtype:
    shape = (size, size)
    return np.dtype(
        [
            ("image", np.uint8, (*shape, 3)),
            ("camera", np.float64, (4,)),
            ("depth", np.float32, shape),
            ("sky", np.bool_, shape),
            ("semantic", np.uint8, shape),
        ]
    )


def _render_chunk(task: tuple[pathlib.Path, str, int, int, float | None, int]) -> int:
    """Renders one file of the cache; written aside and renamed, so that a kill leaves no half."""
    folder, domain, seed, size, fov, chunk = task
    rows = np.empty(_CHUNK, _dtype(size))
    for k in range(_CHUNK):
        for field, value in render(domain, seed, chunk * _CHUNK + k, size, fov).items():
            rows[field][k] = value
    path = _chunk_path(folder, chunk)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    with open(aside, "wb") as file:
        np.save(file, rows)
    os.replace(aside, path)
    return _CHUNK


def fill_cache(
    sets: Sequence[SceneSource],
    *,
    processes: int = 2,
    progress: Callable[[int, int, float], None] | None = None,
) -> int:
    """Renders what the caches of these sources lack.

    Args:
      sets: sources; each set is rendered up to its count, in whole files of the cache.
      processes: that render; 1 renders here.
      progress: called with (pictures done, pictures to do, seconds) after each file.

    Returns:
      Number of pictures rendered now.
    """
    tasks = {}
    for source in sets:
        source.folder.mkdir(parents=True, exist_ok=True)
        for chunk in range(-(-source.count // _CHUNK)):
            path = _chunk_path(source.folder, chunk)
            if not path.exists():
                s = source
                tasks[path] = (s.folder, s.domain, s.seed, s.size, s.fov, chunk)
    total, done, start = len(tasks) * _CHUNK, 0, time.monotonic()
    with _mapper(min(processes, len(tasks))) as run:
        for rendered in run(_render_chunk, list(tasks.values())):
            done += rendered
            if progress:
                progress(done, total, time.monotonic() - start)
    return done


@contextlib.contextmanager
def _mapper(processes: int) -> Iterator[Callable]:
    if processes <= 1:
        yield map
        return
    # spawn: a forked child of a program that has used jax may hang
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))  # one core a process, not one pool each
    try:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            yield pool.imap_unordered
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
