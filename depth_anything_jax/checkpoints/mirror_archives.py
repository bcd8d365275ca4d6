"""Reads checkpoints from a mirror, the folder of single-file archives that `train --mirror` fills.

`training/checkpoint_backup.py` describes and writes the archives. Here a mirror serves as a source
of weights: the newest intact archive is unpacked into a temporary folder, which is removed
afterwards, and nothing is written into the mirror.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import re
import tarfile
import tempfile
from typing import Any, BinaryIO, cast

from absl import logging

from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.checkpoints.damaged_steps import DamagedCheckpoint
from depth_anything_jax.utils.paths import is_remote

METADATA = "run.json"  # the first member of an archive
PART = ".part"  # behind the name of an archive that is being written
_NAME = re.compile(r"step_(\d+)\.(\d+)\.([0-9a-f]{64})\.tar")


@dataclasses.dataclass(frozen=True)
class Archive:
    """A checkpoint in a mirror, as described by its file name."""

    path: pathlib.Path
    step: int
    size: int
    digest: str

    def is_truncated(self) -> bool:
        """Whether its length is not the one in its name."""
        return self.path.stat().st_size != self.size

    def verify(self) -> str:
        """Reads all of it and returns what is wrong, "" if it is intact.

        Raises:
          OSError: it cannot be read; its content may still be intact.
        """
        if self.is_truncated():
            return f"has {self.path.stat().st_size:,} of its {self.size:,} bytes"
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return "" if digest == self.digest else f"has the SHA-256 {digest[:8]}…, not its name's"

    def read_metadata(self) -> dict[str, Any]:
        """Reads the settings of the run that wrote it.

        Raises:
          OSError, tarfile.TarError, ValueError: it cannot be read.
        """
        with tarfile.open(self.path, "r:") as tar:
            member = tar.next()  # the first one, so that nothing else of the file is read
            if member is None or member.name != METADATA:
                raise ValueError(f"{self.path.name} does not start with {METADATA}")
            return json.load(cast(BinaryIO, tar.extractfile(member)))


def _archive(path: pathlib.Path) -> Archive | None:
    match = _NAME.fullmatch(path.name)
    return Archive(path, int(match[1]), int(match[2]), match[3]) if match else None


def archives(folder: pathlib.Path) -> list[Archive]:
    """Lists the files of a mirror that have the name of a checkpoint, newest first."""
    found = [archive for path in folder.iterdir() if (archive := _archive(path))]
    return sorted(found, key=lambda a: (-a.step, a.path.name))


def unpack(path: pathlib.Path, folder: str | os.PathLike[str]) -> None:
    """Unpacks an archive into a folder: checkpoints/STEP, and the curves beside it."""
    if not hasattr(tarfile, "data_filter"):
        raise RuntimeError(
            f"Python {platform.python_version()} cannot unpack {path} safely (tarfile "
            "has no filters); use 3.11.4 or newer"
        )
    with tarfile.open(path, "r:") as tar:
        tar.extractall(folder, filter="data")


def load_params(source: str | os.PathLike[str]) -> tuple[dict, dict[str, Any]]:
    """Loads parameters and metadata of an Orbax checkpoint, a mirror or one of its archives.

    Of a mirror it is the newest archive that is intact; newer ones are named in a warning.

    Raises:
      FileNotFoundError: there is none of these.
      DamagedCheckpoint: the archive, all archives of a mirror, or the newest step are damaged.
      OSError: an archive does not fit into the temporary folder.
    """
    path = pathlib.Path(os.path.expanduser(source))
    if is_remote(source) or (path / "checkpoints").is_dir():
        return orbax_io.load_params(source)
    if path.is_file():
        return _load(path)
    problems = []
    for archive in archives(path) if path.is_dir() else ():
        try:
            found = _load(archive.path)
        except DamagedCheckpoint as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logging.warning("%s; step %d of %s is used", problem, archive.step, path)
        return found
    if problems:
        raise DamagedCheckpoint(
            f"no archive of the mirror {path} can be used:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\nCopy one of them again from where it is whole"
        )
    try:
        return orbax_io.load_params(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{_hint(path)}") from error


def _hint(folder: pathlib.Path) -> str:
    """Says what a folder without a checkpoint has to do with mirrors, "" if nothing."""
    if any(folder.glob(f"step_*.tar{PART}")):
        return f". The first checkpoint of the mirror {folder} has not fully arrived yet"
    inside = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    mirrors = [str(p) for p in inside if any(map(_archive, p.iterdir()))]
    return f". It holds mirrors of runs; name one: {', '.join(mirrors)}" if mirrors else ""


def _load(path: pathlib.Path) -> tuple[dict, dict[str, Any]]:
    """Loads one archive; the name of a renamed one tells no checksum, so it is unpacked as it is.

    Raises:
      DamagedCheckpoint: its bytes are not those that were written, or are not given.
      OSError: it does not fit into the temporary folder.
    """
    archive = _archive(path)
    try:
        problem = archive.verify() if archive else ""
    except OSError as error:  # its drive may give it another time
        problem = f"cannot be read ({type(error).__name__}: {error})"
    if problem:
        raise DamagedCheckpoint(f"{path} {problem}")
    with tempfile.TemporaryDirectory(prefix="depth-anything-mirror-") as folder:
        try:
            unpack(path, folder)
            return orbax_io.load_params(folder)
        except FileNotFoundError as error:
            raise DamagedCheckpoint(
                f"{path} holds no checkpoint; a mirror's archives are called "
                "step_STEP.BYTES.SHA256.tar"
            ) from error
        except OSError as error:
            size = path.stat().st_size
            raise OSError(
                error.errno,
                f"{error.strerror or error}: unpacking {path} takes {size / 1e6:,.0f} MB in "
                f"{tempfile.gettempdir()}; make room there, or set TMPDIR to another folder",
            ) from error
        except (tarfile.TarError, ValueError) as error:
            reason = str(error).partition(";")[0].replace(folder, path.name)
            raise DamagedCheckpoint(f"{path} is damaged ({reason})") from error
