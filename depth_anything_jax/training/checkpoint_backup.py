"""Backs up a run's checkpoints to a mounted drive that may lose files, fill up or go away.

    python -m depth_anything_jax.train … --workdir=runs/student --mirror=/mnt/drive/student

A run works on the machine's own disk, which a notebook service deletes with the machine. A mounted
Drive is no place to work in: files that are written twice never arrive, folders of many files fail,
the mount drops. So it receives each finished checkpoint as one file that is written once,

    step_00001000.21504000.3f…c2.tar       step, bytes, SHA-256
      run.json                             the run's settings, which identify it
      metrics.jsonl                        its curves (and wandb_run.txt, the id of its W&B run)
      checkpoints/1000/…                   Orbax's files

under a temporary name, which is then changed. The newest two are kept. A run that starts restores
the newest intact one unless its work folder has a newer one, so that the same command continues on
another machine. TensorBoard's files and pictures are not mirrored: the curves are in
metrics.jsonl. Nor are pseudo labels, which the mirrored teacher makes again.

A thread does the work: the run waits for the mirror only at its end, and its errors stop no run.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from depth_anything_jax.checkpoints import mirror_archives, orbax_io
from depth_anything_jax.checkpoints.mirror_archives import METADATA, PART, Archive, archives
from depth_anything_jax.training.log_writers import WANDB_RUN
from depth_anything_jax.utils.paths import is_remote

KEEP = 2  # the newest, and one more in case the Drive loses it
# Stored as well.
_BESIDE = ("metrics.jsonl", "metrics.superseded.jsonl", WANDB_RUN)


class Mirror:
    """The mirror of one run: call `restore` before the run reads its checkpoints, then `start`.

    Args:
      folder: the mirror, made if only its last part is missing; "" for none.
      workdir: the run's work folder.
      active: False on every process but one, where the methods do nothing.
      tell: receives the messages, from the thread too; default: print.
      poll: seconds between two searches for a new checkpoint.

    Raises:
      ValueError: a folder or work folder that is not local, or a file.
      FileNotFoundError: the folder that should hold the mirror is not there.
    """

    def __init__(
        self,
        folder: str,
        workdir: str,
        *,
        active: bool = True,
        tell: Callable[[str], None] | None = None,
        poll: float = 1.0,
    ):
        self._active = bool(folder) and active
        if not self._active:
            return
        for name, path in (("mirror", folder), ("workdir", workdir)):
            if is_remote(path):
                raise ValueError(
                    f"{name}={path}: a mirror is a mounted folder beside a local work folder; a "
                    "bucket keeps what it is given, so work there directly: "
                    "--workdir=gs://BUCKET/NAME, without --mirror"
                )
        self.folder, self._workdir = (
            pathlib.Path(os.path.abspath(os.path.expanduser(p))) for p in (folder, workdir)
        )
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"mirror={folder}: this is a file; name a folder")
        if not self.folder.parent.is_dir():
            # Created, it would lie on the machine's own disk instead of the Drive.
            raise FileNotFoundError(
                f"mirror={folder}: there is no folder {self.folder.parent}; mount the Drive first, "
                "or make that folder"
            )
        self.folder.mkdir(exist_ok=True)
        self._tell, self._poll = tell or functools.partial(print, flush=True), poll
        self._checked: dict[str, str] = {}  # file name: result of `verify`
        self._done = self._failed = -1  # newest mirrored step, last failed step
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def restore(self, check: Callable[[dict[str, Any]], None]) -> int | None:
        """Restores the newest intact checkpoint unless the work folder has one that is as new.

        Args:
          check: called with the metadata that the run which wrote the mirror gave to `start`;
            raises where this is another run.

        Returns:
          The restored step, or None.
        """
        if not self._active:
            return None
        for rest in self._workdir.glob("restoring-*"):  # of a start that was killed here
            shutil.rmtree(rest, ignore_errors=True)
        local = self._newest_local()
        latest = -1 if local is None else int(local.name)
        for archive in archives(self.folder):
            try:
                if archive.step <= latest:
                    problem = "is truncated" if archive.is_truncated() else ""
                else:
                    problem = self._verify(archive)
                metadata = {} if problem else archive.read_metadata()
            except (OSError, tarfile.TarError, ValueError) as error:
                problem = f"cannot be read ({type(error).__name__}: {error})"
            if problem:
                self._tell(f"mirror: {archive.path} {problem}; looking for an older one")
                continue
            check(metadata)
            self._done = archive.step
            if archive.step <= latest:
                return None
            self._unpack(archive)
            self._tell(f"mirror: step {archive.step:,} is restored from {archive.path}")
            return archive.step
        return None

    def fetch(self, step: int) -> bool:
        """Puts its copy in the place of a step of the work folder whose arrays are damaged.

        `restore` looks at names and metadata alone. The damaged step stays beside it as
        STEP.damaged, and the curves, which may be newer, stay as they are.

        Returns:
          Whether there is an intact copy.
        """
        for archive in archives(self.folder) if self._active else ():
            if archive.step == step:
                try:
                    problem = self._verify(archive)
                except OSError as error:
                    problem = f"cannot be read ({type(error).__name__}: {error})"
                if not problem:
                    self._unpack(archive, curves=False)
                    self._tell(
                        f"mirror: step {step:,} was damaged and is restored from {archive.path}"
                    )
                    return True
                self._tell(f"mirror: {archive.path} {problem}")
        return False

    def start(self, metadata: Mapping[str, Any]) -> None:
        """Starts the thread that copies every finished checkpoint to the mirror.

        Args:
          metadata: identifies the run; JSON values.
        """
        if not self._active:
            return
        self._metadata = json.dumps(dict(metadata)).encode()
        self._thread = threading.Thread(target=self._watch, name="mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Mirrors the last checkpoint, retries a failed one, and ends the thread."""
        if self._active and self._thread is not None:
            self._closing.set()
            self._thread.join()
            self._thread = None

    # Called in the thread

    def _watch(self) -> None:
        while True:
            closing = self._closing.wait(self._poll)
            self._mirror_newest(closing)
            if closing:
                return

    def _mirror_newest(self, last: bool) -> None:
        """Mirrors the newest checkpoint; a failed one is tried again only at the `last` call."""
        step = -1
        try:
            newest = self._newest_local()
            step = -1 if newest is None else int(newest.name)
            if newest is None or step <= self._done or (step == self._failed and not last):
                return
            begun = time.monotonic()
            size = self._write(newest)
        except Exception as error:  # no failure of the mirror may stop the run
            self._failed = step
            there = f"step {self._done:,}" if self._done >= 0 else "nothing"
            self._tell(
                f"mirror: step {step:,} is not in {self.folder} ({type(error).__name__}: {error}); "
                + (f"it holds {there}" if last else "the next checkpoint is tried again")
            )
            return
        self._done = step
        seconds = time.monotonic() - begun
        self._tell(f"mirror: step {step:,}, {size / 1e6:,.1f} MB in {seconds:.1f} s")
        try:
            self._prune()
        except OSError as error:
            self._tell(f"mirror: older files stay in {self.folder} ({error})")

    def _newest_local(self) -> pathlib.Path | None:
        # Orbax gives a step its final name once all of it is written.
        found = orbax_io.find(self._workdir / "checkpoints")
        return None if found is None else pathlib.Path(found)

    def _write(self, source: pathlib.Path) -> int:
        step = int(source.name)
        part = self.folder / f"step_{step:08d}.tar{PART}"
        with contextlib.ExitStack() as stack:
            # All are opened before any is read: the run may delete the step before a slow Drive
            # has received it, and open files stay readable.
            files = []
            for path in sorted(p for p in source.rglob("*") if p.is_file()):
                inside = path.relative_to(source).as_posix()
                file = stack.enter_context(open(path, "rb"))
                files.append((f"checkpoints/{source.name}/{inside}", file))
            for name in _BESIDE:
                if (self._workdir / name).is_file():
                    files.append((name, stack.enter_context(open(self._workdir / name, "rb"))))
            try:
                with open(part, "wb") as raw:
                    out = _Counted(raw)
                    with tarfile.open(fileobj=cast(Any, out), mode="w|") as tar:
                        tar.addfile(
                            _member(METADATA, len(self._metadata)), io.BytesIO(self._metadata)
                        )
                        for name, file in files:
                            tar.addfile(_member(name, os.fstat(file.fileno()).st_size), file)
                    raw.flush()
                    os.fsync(raw.fileno())
                arrived = part.stat().st_size
                if arrived != out.size:
                    raise OSError(f"{part} has {arrived:,} of {out.size:,} bytes")
                name = f"step_{step:08d}.{out.size}.{out.digest.hexdigest()}.tar"
                os.rename(part, self.folder / name)
            except BaseException:
                with contextlib.suppress(OSError):
                    part.unlink()
                raise
        self._checked[name] = ""
        return out.size

    def _prune(self) -> None:
        """Removes all but the newest intact archives, and partial files of killed runs."""
        kept: set[int] = set()
        for archive in archives(self.folder):
            if len(kept) < KEEP and archive.step not in kept and not self._verify(archive):
                kept.add(archive.step)
            else:
                archive.path.unlink()
        for rest in self.folder.glob(f"step_*.tar{PART}"):
            rest.unlink()

    def _verify(self, archive: Archive) -> str:
        """Calls `Archive.verify` once for each file."""
        name = archive.path.name
        if name not in self._checked:
            self._checked[name] = archive.verify()
        return self._checked[name]

    # Called in the caller's thread

    def _unpack(self, archive: Archive, *, curves: bool = True) -> None:
        checkpoints = self._workdir / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        aside = pathlib.Path(tempfile.mkdtemp(prefix="restoring-", dir=self._workdir))
        mirror_archives.unpack(archive.path, aside)
        for name in _BESIDE:
            if curves and (aside / name).exists():
                os.replace(aside / name, self._workdir / name)
        step = checkpoints / str(archive.step)
        if step.exists():  # what `find` passed over is not whole
            os.rename(step, checkpoints / orbax_io.free_name(checkpoints, f"{step.name}.damaged"))
        # Last, because a start that is killed before this line restores again.
        os.rename(aside / "checkpoints" / step.name, step)
        shutil.rmtree(aside)


class _Counted:
    """Writes to a file and keeps the size and SHA-256 of all that was written."""

    def __init__(self, file: BinaryIO):
        self._file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Writes like a file; returns the number of bytes."""
        self._file.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Makes a tar header without names of user or machine."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, int(time.time())
    return info
