"""Training logger: console lines with ETA, JSONL, pictures, profiles; other writers beside them.

    work folder/
      metrics.jsonl              one object a line: step, time and every scalar; always written
      metrics.superseded.jsonl   lines of steps that a resumed run did again (only if there are any)
      skipped.jsonl              updates that were skipped, and the records of their batches
      strips/NAME_STEP.png       pictures, image | label | prediction
      events.out.tfevents.*      the same for TensorBoard (log_writers.py, W&B too)

A run that resumes from step k continues metrics.jsonl after step k. Lines of an interrupted run
beyond k are moved to the other file, so that each step has one line. This module knows no model,
defines no flags and never waits for the device: scalars are given as numbers.
"""

import contextlib
import json
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from depth_anything_jax.training import log_writers
from depth_anything_jax.training.goodput import Goodput
from depth_anything_jax.utils.formatting import duration
from depth_anything_jax.utils.paths import is_remote

_MIRROR_SECONDS = 60.0  # remote files are replaced whole, so not at every line


class Report:
    """Writes scalars and pictures of one run into its work folder, and prints its step lines.

    The loop reports how it spends its time, and logs when a line is due:

        report = Report(workdir, total_steps=20_000, every=50, resumed_from=None)
        with report.waiting(): batch = next(batches)
        ...
        report.step(examples=48)
        if report.due(step): report.log(step, {"loss": loss})
        report.close()

    Args:
      workdir: a local folder or gs://...; made if missing. Remote files are mirrored once a minute
        and by close(), because object stores cannot append.
      total_steps: the step that ETA counts to.
      every: steps between lines.
      resumed_from: the restored step; None for a fresh start, which supersedes all old lines.
      tensorboard: also write TensorBoard event files.
      wandb: the run's configuration: also log to Weights & Biases.
      active: False on every process but one, where nothing is written or printed.
      show: scalars on the console line, in this order, by the part of their name after the last
        "/"; None shows those without a "/".
      show_positive: scalars shown after them, by their whole name, when they are above 0.
      goodput: of the run, written with each line.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        total_steps: int,
        every: int = 50,
        resumed_from: int | None = None,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | None = None,
        active: bool = True,
        show: Sequence[str] | None = None,
        show_positive: Sequence[str] = (),
        goodput: Goodput | None = None,
        printer: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        if every < 1:
            raise ValueError(f"every is {every} steps between lines; use 1 or more")
        self.total_steps, self.every, self.show = total_steps, every, show
        self.show_positive, self._resumed_from = show_positive, resumed_from
        self._print = printer or (lambda text: print(text, flush=True))
        self._clock, self._active, self._goodput = clock, active, goodput
        self._first_wait: float | None = None  # when the first batch was asked for
        self._not_stepping = 0.0  # seconds since then that were waited or paused
        self._writers: list[log_writers.Writer] = []
        self._remote: epath.Path | None = None
        self._restart_interval()
        self._recent = (0.0, 0.0)  # seconds and steps, older ones weigh less: for ETA
        # Before the first rates: when the first step began, and what was paused and run since.
        self._begun, self._paused_since, self._run = clock(), 0.0, 0
        # The first step compiles and its numbers are awaited: rates are measured after the second.
        self._unsteady = 2
        if not active:
            return
        self._folder = pathlib.Path(os.path.expanduser(os.fspath(workdir)))
        if is_remote(workdir):
            self._remote = epath.Path(workdir)
            self._remote.mkdir(parents=True, exist_ok=True)
            self._scratch = tempfile.TemporaryDirectory(prefix="report-")
            self._folder = pathlib.Path(self._scratch.name)
            for name in ("metrics.jsonl", "metrics.superseded.jsonl", log_writers.WANDB_RUN):
                if (self._remote / name).exists():
                    (self._folder / name).write_bytes((self._remote / name).read_bytes())
        self._folder.mkdir(parents=True, exist_ok=True)
        _supersede(self._folder, resumed_from)
        self._jsonl = open(self._folder / "metrics.jsonl", "a", encoding="utf-8")
        self._mirrored: dict[str, tuple[int, float]] = {}
        self._mirror_at = clock() + _MIRROR_SECONDS
        self._writers = log_writers.open_writers(
            self._folder,
            name=os.fspath(workdir),
            resumed_from=resumed_from,
            tensorboard=tensorboard,
            wandb=wandb,
            keep=self._remote is None,
        )
        if self._remote is not None and (self._folder / log_writers.WANDB_RUN).exists():
            self._mirror()  # so that a run that is killed early has one id at wandb, not two

    # The clock

    def _restart_interval(self) -> None:
        self._since, self._steps, self._examples = self._clock(), 0, 0
        self._waited = self._paused = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        start = self._clock()
        if self._first_wait is None:
            self._first_wait = start
        try:
            yield
        finally:
            self._waited += self._clock() - start
            self._not_stepping += self._clock() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time inside (evaluation, a picture) from steps and waiting."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start
            if self._first_wait is not None:
                self._not_stepping += self._clock() - start
            self._paused_since += self._clock() - start
            if not self._run:  # compiled
                self._begun, self._paused_since = self._clock(), 0.0

    def step(self, examples: int) -> None:
        """Counts one step over `examples` images of the global batch."""
        self._run += 1
        if self._unsteady:
            self._unsteady -= 1
            self._restart_interval()
            return
        self._steps += 1
        self._examples += examples

    def stepping(self) -> float:
        """Seconds in steps since the first batch: neither waiting for data nor paused."""
        if self._first_wait is None:
            return 0.0
        return self._clock() - self._first_wait - self._not_stepping

    def due(self, step: int) -> bool:
        """Whether to log after this step (counted from 1): at each `every`-th, and at the last."""
        return step % self.every == 0 or step == self.total_steps

    def early(self, step: int) -> bool:
        """Whether to print a line only: the second and third step of this start, with an ETA."""
        return step - (self._resumed_from or 0) in (2, 3) and not self.due(step)

    def rates(self) -> dict[str, float]:
        """Returns images_per_second, seconds_per_step and data_wait_share since the last call.

        Empty until the third step.
        """
        elapsed = self._clock() - self._since - self._paused
        steps, examples, waited = self._steps, self._examples, self._waited
        self._restart_interval()
        if steps == 0 or elapsed <= 0:
            return {}
        self._recent = 0.7 * self._recent[0] + elapsed, 0.7 * self._recent[1] + steps
        return {
            "rate/images_per_second": examples / elapsed,
            "rate/seconds_per_step": elapsed / steps,
            "rate/data_wait_share": waited / elapsed,
        }

    # The output

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the scalars of a step and the rates to the files, and prints the console line."""
        rates = self.rates()
        share = {"rate/goodput": self._goodput.share(self.stepping())} if self._goodput else {}
        self.scalars(step, {**values, **rates, **share})
        self.line(step, values, rates)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line of scalars to metrics.jsonl and to each writer.

        Raises:
          ValueError: a value that is not a single number, by name.
        """
        numbers = {name: _number(name, value) for name, value in values.items()}
        if not self._active:
            return
        # JSON has no NaN: such values are written as strings that float() reads.
        row = {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
        self._jsonl.write(json.dumps({"step": step, "time": round(time.time(), 3), **row}) + "\n")
        self._jsonl.flush()
        for writer in self._writers:
            writer.scalars(step, numbers)
        if self._remote is not None and self._clock() >= self._mirror_at:
            self._mirror()

    def images(self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        """Write RGB pictures to strips/NAME_STEP.png ("/" becomes "-") and to each writer."""
        if not self._active:
            return
        from PIL import Image

        (self._folder / "strips").mkdir(exist_ok=True)
        for name, picture in pictures.items():
            file = self._folder / "strips" / f"{name.replace('/', '-')}_{step:08d}.png"
            Image.fromarray(picture).save(file)
            for writer in self._writers:
                writer.image(step, name, picture)

    def line(
        self, step: int, values: Mapping[str, Any], rates: Mapping[str, float] | None = None
    ) -> None:
        """Print one line: step, share done, scalars, rates and the time to go."""
        if not self._active:
            return
        shown = self.show if self.show is not None else [k for k in values if "/" not in k]
        parts = [
            f"{k.rpartition('/')[2]} {_number(k, values[k]):.4g}" for k in shown if k in values
        ]
        positive = [k for k in self.show_positive if values.get(k, 0) > 0]
        parts += [f"{k} {_number(k, values[k]):.4g}" for k in positive]
        width = len(f"{self.total_steps:,}")
        head = f"step {step:>{width},}/{self.total_steps:,} {step / self.total_steps:4.0%}"
        tail = []
        if rates:
            tail = [
                f"{rates['rate/images_per_second']:.3g} img/s",
                f"{rates['rate/seconds_per_step']:.3g} s/step",
                f"data {rates['rate/data_wait_share']:.0%}",
            ]
        seconds, steps = self._recent
        if not steps and self._run:  # the newest step may still run
            seconds = self._clock() - self._begun - self._paused_since
            steps = max(1, self._run - 1)
        if steps and step < self.total_steps:
            tail.append(f"ETA {duration((self.total_steps - step) * seconds / steps)}")
        self._print("  ".join([head, *parts] + (["|", *tail] if tail else [])))

    def text(self, message: str) -> None:
        """Print a message once, from the active process only."""
        if self._active:
            self._print(message)

    def skipped(self, skip: Mapping[str, Any]) -> None:
        """Append an update that was skipped to skipped.jsonl, and print a line."""
        if not self._active:
            return
        with open(self._folder / "skipped.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({k: str(v) if v != v else v for k, v in skip.items()}) + "\n")
        first = "; ".join(f"{part} {', '.join(k[:3])} …" for part, k in skip["keys"].items())
        self._print(
            f"step {skip['step']}: no update, the gradient is "
            f"{'a spike' if skip['why'] == 'spike' else 'not finite'} ({first}); skipped.jsonl"
        )

    def flush(self) -> None:
        """Write everything so far to the work folder."""
        if not self._active:
            return
        for writer in self._writers:
            writer.flush()
        if self._remote is not None:
            self._mirror()

    def close(self) -> None:
        """Flush and close the files; the report cannot be used afterwards."""
        if not self._active:
            return
        self._jsonl.close()
        for writer in self._writers:
            writer.close()
        if self._remote is not None:
            self._mirror()
            self._scratch.cleanup()
        self._active = False

    def _mirror(self) -> None:
        assert self._remote is not None
        for file in sorted(p for p in self._folder.rglob("*") if p.is_file()):
            name, stat = file.relative_to(self._folder).as_posix(), file.stat()
            state = (stat.st_size, stat.st_mtime)
            if self._mirrored.get(name) != state:
                (self._remote / name).parent.mkdir(parents=True, exist_ok=True)
                (self._remote / name).write_bytes(file.read_bytes())
                self._mirrored[name] = state
        self._mirror_at = self._clock() + _MIRROR_SECONDS


def _number(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"scalar {name!r} has shape {array.shape}; reduce it to one number")
    return float(array.reshape(()))


def _supersede(folder: pathlib.Path, resumed_from: int | None) -> None:
    """Move lines beyond the restored step, and a truncated one, out of metrics.jsonl."""
    file = folder / "metrics.jsonl"
    if not file.exists():
        return
    kept: list[str] = []
    moved: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            keep = resumed_from is not None and json.loads(line)["step"] <= resumed_from
        except (ValueError, KeyError, TypeError):
            keep = False
        (kept if keep else moved).append(line + "\n")
    if not moved:
        return
    # This copy first: a kill between the two writes duplicates lines but loses none.
    with open(folder / "metrics.superseded.jsonl", "a", encoding="utf-8") as aside:
        aside.writelines(moved)
    temporary = folder / "metrics.jsonl.tmp"
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, file)


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the rows of a work folder's metrics.jsonl in the order written; NaN becomes a float.

    Raises:
      FileNotFoundError: the folder has no metrics.jsonl.
    """
    rows = []
    for line in (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows.append({k: float(v) if isinstance(v, str) else v for k, v in row.items()})
    return rows


class ProfileWindow:
    """Records a JAX profile of a window of steps on request; `tensorboard` with xprof shows it.

    Args:
      workdir: the trace goes to workdir/plugins/profile.
      first, last: the steps to record, counted like the loop's; None: no profile.

    Raises:
      ValueError: only one of the two, or a last step before the first.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], first: int | None = None, last: int | None = None
    ):
        if (first is None) != (last is None) or not (first or 0) <= (last or 0):
            raise ValueError(f"profile window ({first}, {last}): give the first and the last step")
        self._workdir = os.fspath(workdir)
        self._window = range(0) if first is None or last is None else range(first, last + 1)
        self._running = False

    def before(self, step: int) -> None:
        """Starts and stops the trace at the window's edges; call it before each step."""
        inside = step in self._window
        if self._running and not inside:
            self.close()
        elif inside and not self._running:
            import jax

            jax.profiler.start_trace(self._workdir)
            self._running = True

    def close(self) -> None:
        """Stop a running trace; harmless otherwise."""
        if self._running:
            import jax

            jax.profiler.stop_trace()
            self._running = False
