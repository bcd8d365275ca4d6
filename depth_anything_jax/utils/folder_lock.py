"""Locks a folder for the one program that writes into it."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Callable, Iterator

from depth_anything_jax.utils.paths import is_remote

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


class FolderInUse(ValueError):
    """Another program writes into the folder."""


@contextlib.contextmanager
def locked(
    folder: str | os.PathLike[str],
    *,
    active: bool = True,
    warn: Callable[[str], None] = lambda text: print(text, flush=True),
) -> Iterator[None]:
    """Makes a folder and holds its lock inside the `with`; the kernel releases it after any end.

    The lock is that of an open file (`flock`): a killed program leaves none, and over NFS it holds
    for all machines. A bucket has no such locks and is not locked. Where a file system has none, a
    line says so. The file stays, because who removes it could remove another program's lock.

    Args:
      folder: a local folder, made where it is missing, or an address.
      active: False on every process but one of a run: nothing is locked.
      warn: receives that line.

    Raises:
      FolderInUse: names the program that holds it, as far as it is known.
      OSError: the folder cannot be made or written to.
    """
    if not active or is_remote(folder) or fcntl is None:
        yield
        return
    path = pathlib.Path(os.path.expanduser(folder)) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().strip() or "another program"
            raise FolderInUse(
                f"{path.parent} is in use by {holder}: two programs would overwrite each other's "
                "files; wait for it, or choose another folder"
            ) from None
        except OSError as error:
            warn(f"{path.parent} cannot be locked ({error.strerror}): start one program there only")
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
