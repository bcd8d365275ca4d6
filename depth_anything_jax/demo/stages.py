"""Defines the demo's stages (programs and their dependencies), and runs them in parallel.

The operations of a small network are too short to use two cores. Independent stages therefore run
in parallel, each on its own cores.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from depth_anything_jax.demo.plan import CONTROLS, Plan

MOST_JOBS = 4  # stages at a time: each holds up to 2 GB, and their order allows few more


@dataclasses.dataclass(frozen=True)
class Stage:
    """One program of the demo: its name, its command, and its dependencies."""

    name: str
    seed: int
    command: tuple[str, ...]
    workdir: str  # a training run's, which must hold its last step; "" for others
    after: tuple[str, ...] = ()  # titles of the stages it waits for

    @property
    def title(self) -> str:
        """Its name with the seed."""
        return f"{self.name}-{self.seed}"


@runtime_checkable
class Folder(Protocol):
    """What lies in a folder, such as the logs of programs."""

    def path(self, *parts: str) -> str:
        """A path below it."""
        ...


def stages(plan: Plan) -> list[Stage]:
    """The programs of a demo, in the order in which they start once their dependencies are done."""
    out = []
    unlabelled = plan.source("B", "train", labelled=False)
    for seed in plan.seeds:
        teacher, labels = plan.run("teacher", seed), plan.run("labels", seed)
        common = [
            f"input_size={plan.size}",
            f"seed={seed}",
            f"data.labelled=({plan.source('A', 'train')!r},)",
        ]

        def train(name: str, config: str, *fields: str, after=(), seed=seed, common=common):
            workdir = plan.run(name, seed)
            flags = [f"--config.{field}" for field in (*common, *fields)]
            command = (
                "train",
                f"--config=configs/{config}.py:demo",
                f"--workdir={workdir}",
                *flags,
            )
            return Stage(name, seed, command, workdir, after)

        both = (f"data.unlabelled=({unlabelled!r},)", *plan.student)
        label = (
            "pseudo_label", "--checkpoint", teacher, "--data", unlabelled, "--out", labels,
            "--size", str(plan.size), "--batch_size", "0" if accelerated() else "20",
        )  # fmt: skip
        made = (f"labels-{seed}",)
        own = f"data.labels=({labels!r},)"
        shuffled = f"data.labels=({labels + '?shuffle=1'!r},)"
        out += [
            train("teacher", "teacher", *plan.teacher),
            train("alone", "student", *plan.student, *alone()),
            Stage("labels", seed, label, "", after=(f"teacher-{seed}",)),
            train("student", "student", own, *both, after=made),
            train("shuffled", "student", shuffled, *both, after=made),
            *(
                train(name, "student", own, *both, *CONTROLS[name], after=made)
                for name in plan.controls
            ),
        ]
    return out


def alone() -> tuple[str, ...]:
    """Config overrides that remove the unlabelled part and keep the labelled part unchanged."""
    import runpy

    from depth_anything_jax import configs

    file = configs.resolve("configs/student.py")
    config = runpy.run_path(file)["get_config"]("demo")
    labelled = config.batch_size // (config.labelled_ratio + config.unlabelled_ratio)
    return (
        f"batch_size={labelled * config.labelled_ratio}",
        "unlabelled_ratio=0",
        "loss.weights=(1.0,0.0,0.0)",
        "teacher=none",
        "data.unlabelled=()",
        "data.labels=()",
    )


class Marks:
    """Records which stages are done and their commands; a changed command runs again."""

    def __init__(self, folder: str):
        self.file = pathlib.Path(folder) / "done.json"

    def read(self) -> dict[str, Any]:
        """Returns all marks; {} before the first."""
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def done(self, name: str, command: Sequence[str]) -> bool:
        """Whether a stage is done with this command."""
        return self.read().get(name, {}).get("command") == list(command)

    def set(self, name: str, command: Sequence[str], seconds: float, **more: float) -> None:
        """Marks a stage as done, with `more` numbers; times of interrupted calls are not known."""
        numbers = {k: round(v, 1) for k, v in {"seconds": seconds, **more}.items()}
        self.add(name, {"command": list(command), **numbers})

    def add(self, name: str, value: dict[str, Any]) -> None:
        """Writes an entry beside the others, whole or not at all."""
        marks = self.read() | {name: value}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".tmp")
        aside.write_text(json.dumps(marks, indent=1))
        aside.replace(self.file)


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_seconds() -> float:
    """User and system time of this process and of the programs that it waited for."""
    return sum(os.times()[:4])


def accelerated() -> bool:
    """Whether a JAX plugin for an accelerator is installed; does not initialise JAX."""
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
    return any(importlib.util.find_spec(name) for name in plugins)


def default_jobs() -> int:
    """Number of parallel stages: one per core, but only one with an accelerator."""
    return 1 if accelerated() else min(len(cores()), MOST_JOBS)


def run_stages(
    todo: Iterable[Stage],
    plan: Folder,
    say: Callable[[Stage, str], None],
    finished: Callable[[Stage, float], None],
    *,
    jobs: int = 1,
) -> None:
    """Runs programs, up to `jobs` in parallel, each as soon as its dependencies are done.

    Args:
      todo: stages; dependencies that are not among them count as done.
      plan: for the folder of logs.
      say: called with each program's command, then with its output lines, from a separate thread.
      finished: called with a stage and its duration in seconds, from this thread.
      jobs: number of programs in parallel; each gets its share of the cores.

    Raises:
      SystemExit: a program failed or was stopped; the others are stopped too, and save their
        state. The message says how to continue.
    """
    waiting, error = list(todo), ""
    shares = [cores()[i::jobs] or cores() for i in range(jobs)]
    running: dict[str, subprocess.Popen] = {}
    results: queue.Queue[tuple[Stage, list[int], float, str]] = queue.Queue()

    def work(stage: Stage, share: list[int], process: subprocess.Popen) -> None:
        begun = time.monotonic()
        try:
            problem = _follow(stage, plan, process, lambda line: say(stage, line))
        except Exception as unexpected:  # any error, because the main thread waits for a result
            problem = f"{stage.title}: {type(unexpected).__name__}: {unexpected}"
        results.put((stage, share, time.monotonic() - begun, problem))

    before = _on_sigterm()
    try:
        while (waiting and not error) or running:
            ahead = {s.title for s in waiting} | set(running)
            ready = [s for s in waiting if not ahead & set(s.after)]
            while shares and ready and not error:
                stage, share = ready.pop(0), shares.pop(0)
                waiting.remove(stage)
                say(stage, f"python -m depth_anything_jax.{shlex.join(stage.command)}")
                running[stage.title] = process = _start(stage, plan, share)
                threading.Thread(target=work, args=(stage, share, process), daemon=True).start()
            stage, share, seconds, problem = results.get()
            del running[stage.title]
            shares.append(share)
            if not problem:
                finished(stage, seconds)
            elif not error:
                error = problem
                _stop(running)
    except (KeyboardInterrupt, SystemExit) as stopped:
        if isinstance(stopped, SystemExit):  # unlike Ctrl-C, it has not reached the programs
            _stop(running)
        for process in running.values():
            process.wait()
        sys.exit("stopped; the same command continues")
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    if error:
        sys.exit(error)


def _start(stage: Stage, plan: Folder, share: Sequence[int]) -> subprocess.Popen:
    """Starts one program on its share of the cores."""
    command = [sys.executable, "-m", f"depth_anything_jax.{stage.command[0]}", *stage.command[1:]]
    log = _log(stage, plan)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
    environment = os.environ | {
        # programs with the same shapes share compiled code
        "JAX_COMPILATION_CACHE_DIR": os.environ.get(
            "JAX_COMPILATION_CACHE_DIR", os.path.abspath(plan.path("compiled"))
        ),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    }
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, share)  # before it starts threads
    return process


def _follow(stage: Stage, plan: Folder, process: subprocess.Popen, say: Callable[[str], None]) -> str:
    """Forwards a program's output; returns "" when it has finished, else an error message."""
    assert process.stdout is not None
    with open(_log(stage, plan), "a", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            say(line.rstrip())
    code = process.wait()
    if code:
        return f"{stage.title} ended with status {code}; its output is in {_log(stage, plan)}"
    if stage.workdir and not _complete(stage.workdir):
        return f"{stage.title} was stopped before its last step; the same command continues"
    return ""


def _log(stage: Stage, plan: Folder) -> pathlib.Path:
    return pathlib.Path(plan.path("logs", f"{stage.title}.log"))


def _stop(running: dict[str, subprocess.Popen]) -> None:
    """Asks programs to save and exit."""
    for process in running.values():
        process.terminate()


def _on_sigterm():
    """Makes SIGTERM raise SystemExit in the main thread; returns the previous handler."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def leave(number, frame):
        raise SystemExit(128 + number)

    return signal.signal(signal.SIGTERM, leave)


def _complete(workdir: str) -> bool:
    from depth_anything_jax.checkpoints import orbax_io

    step = orbax_io.find(workdir)
    if step is None:
        return False
    checkpoints = orbax_io.Checkpoints(step.parent)
    total = checkpoints.meta(int(step.name))["config"]["total_steps"]
    checkpoints.close()
    return int(step.name) >= total
