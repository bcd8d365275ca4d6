"""Tells damaged steps of a checkpoint from steps that cannot be read at the moment."""

import errno
import json
import os
import re
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

STATE = "state"
METADATA = ("_CHECKPOINT_METADATA", f"{STATE}/_METADATA")
_INDEX = f"{STATE}/manifest.ocdbt"
# Errors that say nothing about what the files hold: rights, limits, a drive that does not answer.
_PASSING = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EMFILE", "ENFILE", "EIO", "ETIMEDOUT", "ESTALE")
    if hasattr(errno, name)
}


class DamagedCheckpoint(ValueError):
    """A step is not whole: its files were truncated, lost or only partly copied."""


def problem_of(step: epath.Path) -> str:
    """Returns what is wrong with the metadata files of a step, "" if nothing."""
    for name in METADATA:
        try:
            json.loads((step / name).read_text())
        except FileNotFoundError:
            return f"{name} is missing"
        except ValueError:
            return f"{name} is not JSON"
    return ""


def error(step: epath.Path, problem: str) -> DamagedCheckpoint:
    """Makes the error about a damaged step."""
    return DamagedCheckpoint(
        f"checkpoint {step} is not whole ({problem}), as after a full disk or an interrupted copy; "
        "where an older step lies beside it, name that one"
    )


def unopened(step: epath.Path) -> DamagedCheckpoint:
    """Makes the error about a step whose arrays Orbax cannot open, which hides the reason.

    Raises:
      OSError: they cannot be read at the moment.
    """
    try:
        (step / _INDEX).read_bytes()
    except OSError as reason:
        if _passing(reason) is not None:
            raise
    return error(step, "its arrays cannot be opened")


def read(step: epath.Path, load: Callable[[], Any]) -> Any:
    """Calls `load`; an error of Orbax or TensorStore then names the step.

    Raises:
      OSError: the step cannot be read at the moment, and may be whole.
      DamagedCheckpoint: any other error.
    """
    try:
        return load()
    except (MemoryError, jax.errors.JaxRuntimeError, ConnectionError, TimeoutError):
        raise
    except Exception as reason:
        number = _passing(reason)
        if number is None:
            problem = f"its arrays cannot be read: {type(reason).__name__}"
            raise error(step, problem) from reason
        raise OSError(
            number,
            f"{os.strerror(number)}: the checkpoint may be whole and is left as it is; make it "
            "readable and start the same command again",
            os.fspath(step),
        ) from reason


def _passing(reason: Exception) -> int | None:
    """Returns the number of an error of `_PASSING`, by whichever library it was raised."""
    stated = re.search(r"os_error_code='(\d+)'", str(reason))  # TensorStore's ValueError
    number = reason.errno if isinstance(reason, OSError) else int(stated[1]) if stated else None
    return number if number in _PASSING else None
