"""Writers that show a run's numbers and pictures: TensorBoard, Weights & Biases.

`logger.Report` writes metrics.jsonl itself and hands the same to each writer. A new one is a class
with the four methods of `Writer`, a field of `config.log` and a line of `open_writers`.
"""

import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

WANDB_RUN = "wandb_run.txt"  # the id of the run, which a resumed one continues


@runtime_checkable
class Writer(Protocol):
    """What a writer does; only process 0 has any."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the numbers of a step."""

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes an RGB picture."""

    def flush(self) -> None:
        """Writes everything so far."""

    def close(self) -> None:
        """Flushes and ends."""


def open_writers(
    folder: pathlib.Path,
    *,
    name: str,
    resumed_from: int | None,
    tensorboard: bool,
    wandb: Mapping[str, Any] | None,
    keep: bool = True,
) -> list[Writer]:
    """Opens the writers of a run.

    Args:
      folder: local, for what they write.
      name: the run's work folder, after which it is called.
      resumed_from: the restored step, or None.
      tensorboard: write event files.
      wandb: the run's configuration: log to Weights & Biases.
      keep: False where `folder` does not outlive the process; wandb's files then lie where it puts
        them by itself.

    Raises:
      ImportError: wandb is not installed.
      ValueError: Weights & Biases lets no run start.
    """
    writers: list[Writer] = []
    if tensorboard:
        writers.append(TensorBoard(folder, resumed_from))
    if wandb is not None:
        writers.append(WeightsAndBiases(folder, name, wandb, keep=keep))
    return writers


class TensorBoard:
    """Writes event files; those of steps after the restored one no longer count."""

    def __init__(self, folder: pathlib.Path, resumed_from: int | None):
        from tensorboardX import SummaryWriter  # only here: half a second of imports

        purge = 0 if resumed_from is None else resumed_from + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the numbers of a step."""
        for name, number in values.items():
            self._writer.add_scalar(name, number, step)

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes an RGB picture."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Writes everything so far."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


class WeightsAndBiases:
    """Logs to one run of Weights & Biases, whose id is kept in the work folder.

    WANDB_PROJECT, WANDB_MODE (offline) and its other variables are wandb's own.
    """

    def __init__(self, folder: pathlib.Path, name: str, config: Mapping[str, Any], *, keep: bool):
        wandb = import_wandb()
        file = folder / WANDB_RUN
        known = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        identity = known or secrets.token_hex(4)
        if not known:  # before the start, so that a run that is killed in it is not begun twice
            file.write_text(identity + "\n", encoding="utf-8")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or "depth_anything_jax",
                name=os.environ.get("WANDB_NAME") or pathlib.PurePath(name).name,
                id=identity,
                resume="allow",
                config=dict(config),
                dir=str(folder) if keep else None,
            )
        except wandb.Error as error:
            raise ValueError(
                f"log.wandb=True: Weights & Biases lets no run start ({error}). Log in with "
                "`wandb login`, or keep everything here with WANDB_MODE=offline"
            ) from error
        self._image = wandb.Image

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the numbers of a step."""
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Logs an RGB picture."""
        self._run.log({name: self._image(picture)}, step=step)

    def flush(self) -> None:
        """Does nothing: a process of wandb's own writes all the time."""

    def close(self) -> None:
        """Uploads the rest and ends the run."""
        self._run.finish()


def import_wandb() -> Any:
    """Imports wandb, which takes a second.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import wandb
        from wandb import init  # noqa: F401  (not in a mere folder `wandb`, which wandb leaves)
    except ImportError as error:
        raise ImportError(
            "log.wandb=True needs wandb: pip install 'depth_anything_jax[wandb]', or go without: "
            "--config.log.wandb=False"
        ) from error
    return wandb
