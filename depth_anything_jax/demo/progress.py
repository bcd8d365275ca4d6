"""Runs the steps of a demo (scenes, stages, scores, report), prints progress and records times."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from depth_anything_jax.data.scenes.source import SceneSource, fill_cache
from depth_anything_jax.demo.first_picture import FirstPicture
from depth_anything_jax.demo.plan import Plan
from depth_anything_jax.demo.stages import (
    Marks,
    Stage,
    cores,
    cpu_seconds,
    default_jobs,
    run_stages,
)


class Progress:
    """The progress of one call of a demo, which continues where the last one stopped."""

    def __init__(self, plan: Plan, every: list[Stage]):
        titles = ["scenes", *(stage.title for stage in every), "scores", "report"]
        self._heads = {title: f"[{k}/{len(titles)}] {title}" for k, title in enumerate(titles, 1)}
        self._plan, self._every = plan, every
        self.marks = Marks(plan.folder)
        self._begun = self._clock = time.monotonic()
        self._cpu_begun = self._cpu = cpu_seconds()
        self._picture = FirstPicture(plan.run("teacher", plan.seeds[0]), plan.folder)

    def say(self, title: str, text: str) -> None:
        """Prints a line of a stage."""
        sys.stdout.write(f"{self._heads[title]}: {text}\n")  # one write, so that lines do not mix
        sys.stdout.flush()

    def _tell(self, stage: Stage, line: str) -> None:
        """Prints a line of a program; after the first teacher's, where its picture is."""
        self.say(stage.title, line)
        if (stage.name, stage.seed) == ("teacher", self._plan.seeds[0]):
            if text := self._picture.look():
                self.say(stage.title, text)

    def _mark(self, title: str, command: Sequence[str], seconds: float) -> None:
        """Marks a stage as done; the time since the last one is added to the demo's time."""
        self.marks.set(title, command, seconds)
        now, cpu, before = time.monotonic(), cpu_seconds(), self.marks.read().get("all", {})
        self.marks.set(
            "all",
            [],
            before.get("seconds", 0.0) + now - self._clock,
            cpu_seconds=before.get("cpu_seconds", 0.0) + cpu - self._cpu,
        )
        self._clock, self._cpu = now, cpu

    def run(self, sets: list[SceneSource], jobs: int) -> bool:
        """Renders the scenes and runs the unfinished stages; returns whether there were any."""
        self.say("scenes", ", ".join(s.name for s in sets))
        identity = [str(s.folder) for s in sets]
        _render(sets, lambda text: self.say("scenes", text))
        if not self.marks.done("scenes", identity):
            self._mark("scenes", identity, time.monotonic() - self._begun)
        todo = []
        for stage in self._every:
            if self.marks.done(stage.title, stage.command):
                self.say(stage.title, "already done")
            else:
                todo.append(stage)
        run_stages(
            todo,
            self._plan,
            self._tell,
            lambda stage, seconds: self._mark(stage.title, stage.command, seconds),
            jobs=jobs or default_jobs(),
        )
        return bool(todo)

    def scored(self, score: Callable, identity: list[str], ran: bool) -> Any:
        """Calls `score`, which gets a function that prints lines, and returns its result."""
        start = time.monotonic()
        self.say("scores", f"{self._plan.split} sets")
        scores = score(lambda text: self.say("scores", text))
        if ran or not self.marks.done("scores", identity):
            self._mark("scores", identity, time.monotonic() - start)
        return scores

    def written(self) -> None:
        """Prints the last line."""
        from depth_anything_jax.utils.formatting import duration

        call = duration(time.monotonic() - self._begun)
        minutes = (cpu_seconds() - self._cpu_begun) / 60
        where = self._plan.path("report.html")
        self.say("report", f"{where} written, {call} in this call, {minutes:.1f} CPU minutes")


def _render(sets: list[SceneSource], tell: Callable[[str], None]) -> None:
    from depth_anything_jax.utils.formatting import duration

    def show(done: int, total: int, seconds: float) -> None:
        left = duration(seconds / done * (total - done))
        tell(f"{done}/{total} rendered  {done / seconds:.0f}/s  ETA {left}")

    fill_cache(sets, processes=len(cores()), progress=_sometimes(show))


def _sometimes(show, every: float = 5.0):
    """Calls `show` at most every so many seconds, and at the end."""
    last = [0.0]

    def maybe(done: int, total: int, *rest: Any) -> None:
        now = time.monotonic()
        if now - last[0] >= every or done == total:
            last[0] = now
            show(done, total, *rest)

    return maybe
