"""Finds the photos of an adaptation: image files as they lie, and frames of videos.

Nothing of the images is copied; frames of videos are written to OUT/frames. What was seen of each
file is kept in OUT/photos.jsonl, so that an interrupted scan goes on, and the next one reads new
and changed files only.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from depth_anything_jax.adaptation.identity import write
from depth_anything_jax.cli import inputs
from depth_anything_jax.data import image_hashes
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.inference.predictor import read_ahead
from depth_anything_jax.video import cuts, reader

LOG = "photos.jsonl"
FRAMES = "frames"
JPEG_QUALITY = 95  # of frames; our choice
_TOLD = 500  # photos between two lines of progress


@dataclasses.dataclass(frozen=True)
class Photo:
    """An image file and what was seen of it.

    Attributes:
      root: the folder that its name starts from.
      name: relative to it, with "/".
      scene: of a frame the video and the shot, "" of a photo.
      size: (height, width) of the upright image.
      hash: see `image_hashes`; None of a flat image.
      error: why it cannot be read, or "".
    """

    root: str
    name: str
    scene: str = ""
    size: tuple[int, int] = (0, 0)
    hash: tuple[int, int] | None = None
    error: str = ""

    @property
    def path(self) -> str:
        """Its file."""
        return os.path.join(self.root, self.name)


def find(
    given: Sequence[str], out: str, *, fps: float, tell: Callable[[str], None] = print
) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Finds and reads all photos, and extracts the frames of videos.

    Args:
      given: folders, globs, files.
      out: the adaptation's folder.
      fps: frames a second that are taken of a video.

    Returns:
      The photos in order, frames after files; and (file, reason) of videos that cannot be read.

    Raises:
      ValueError: nothing is there, or paths cannot stand in a source's text.
    """
    try:
        items = inputs.find(given, without=out, tell=tell)
    except FileNotFoundError as error:
        raise ValueError(f"--photos: {error}") from error
    files = [pathlib.Path(x.source) for x in items if not x.video]
    failed: list[tuple[str, str]] = []
    listed: list[Photo] = []
    if files:
        folder = pathlib.Path(given[0]).expanduser()
        root = folder if len(given) == 1 and folder.is_dir() else _common(files)
        root = root.absolute()
        _check_text(str(root))
        listed = [
            Photo(str(root), pathlib.Path(os.path.relpath(f.absolute(), root)).as_posix())
            for f in files
        ]
    for item in items:
        if item.video:
            try:
                listed += list(_frames(item, out, fps, tell))
            except reader.VideoError as error:
                failed.append((item.source, str(error)))
    return list(_seen(listed, out, tell)), failed


def _common(files: Sequence[pathlib.Path]) -> pathlib.Path:
    return pathlib.Path(os.path.commonpath([f.absolute().parent for f in files]))


def _check_text(path: str) -> None:
    if set(path) & set("?&"):
        raise ValueError(
            f"{path}: a path with '?' or '&' cannot stand in a source's text; rename the folder, "
            "or give a link to it under another name"
        )


def _frames(
    item: inputs.Item, out: str, fps: float, tell: Callable[[str], None]
) -> Iterator[Photo]:
    """Extracts frames of a video at a rate, each shot's from its first frame on."""
    name = item.stem.as_posix()
    folder = pathlib.Path(out, FRAMES, name)
    stat = os.stat(item.source)
    identity = [item.source, stat.st_size, stat.st_mtime_ns, fps]
    done = folder / "done.json"
    if not done.exists() or json.loads(done.read_text())["of"] != identity:
        tell(f"{item.source}: frames are extracted")
        folder.mkdir(parents=True, exist_ok=True)
        video, change = reader.Reader(item.source), cuts.Pictures()
        shot, due, names = -1, Fraction(0), []
        for frame in video:
            seen = change(frame.image)
            if seen.cut:
                shot, due = shot + 1, frame.time
            if frame.time >= due and not seen.blank:
                file = f"shot{shot:03d}-{float(frame.time):09.2f}s.jpg"
                (folder / file).write_bytes(formats.encode_jpeg(frame.image, JPEG_QUALITY))
                names.append([file, shot])
                due = frame.time + 1 / Fraction(fps)
        write(done, json.dumps({"of": identity, "frames": names, "problems": video.problems}))
    found = json.loads(done.read_text())
    for problem in found["problems"]:
        tell(f"{item.source}: {problem}")
    root = os.path.abspath(os.path.join(out, FRAMES))
    for file, shot in found["frames"]:
        yield Photo(root, f"{name}/{file}", f"{name}\n{shot}")


def _seen(listed: Sequence[Photo], out: str, tell: Callable[[str], None]) -> Iterator[Photo]:
    """Reads each photo that is not in the log yet, and yields all in order."""
    log = pathlib.Path(out, LOG)
    known: dict[str, dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        try:
            row = json.loads(line)
            known[row["path"]] = row
        except ValueError:  # the last line of a killed scan
            continue

    def read(photo: Photo) -> dict[str, Any]:
        stat = os.stat(photo.path)
        row = {"path": photo.path, "stat": [stat.st_size, stat.st_mtime_ns]}
        old = known.get(photo.path)
        # a failure may be mended by an extra: it is tried again
        if old and "error" not in old and old["stat"] == row["stat"]:
            return old
        try:
            image = formats.read_image(photo.path)
        except (ValueError, OSError) as error:
            return row | {"error": f"{error}"}
        found = image_hashes.image_hash(image)
        return row | {
            "size": image.shape[:2], "hash": None if found is None else [int(x) for x in found],
        }  # fmt: skip

    threads = min(8, os.cpu_count() or 2)
    with log.open("a") as file:
        for count, (photo, row) in enumerate(read_ahead(read, listed, threads=threads), 1):
            if isinstance(row, Exception):
                row = {"path": photo.path, "stat": [], "error": f"{row}"}
            if known.get(photo.path) is not row:
                file.write(json.dumps(row) + "\n")
            if count % _TOLD == 0:
                file.flush()
                tell(f"{count:,} of {len(listed):,} photos read")
            if "error" in row:
                yield dataclasses.replace(photo, error=row["error"])
            else:
                size = (row["size"][0], row["size"][1])
                bits = row["hash"] and (row["hash"][0], row["hash"][1])
                yield dataclasses.replace(photo, size=size, hash=bits)


def bits_of(photo: Photo) -> np.ndarray | None:
    """Returns a photo's hash as `image_hashes` has it."""
    return None if photo.hash is None else np.array(photo.hash, np.uint64)
