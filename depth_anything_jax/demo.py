"""The whole method on rendered scenes, in minutes on two CPU cores: `make demo`.

    python -m depth_anything_jax.demo                     # the table and demo/report.html
    python -m depth_anything_jax.demo --long              # more pixels and steps, three seeds
    python -m depth_anything_jax.demo --weights=SOURCE    # adds a released model's row

It runs the programs that a user runs (train, pseudo_label, train), each in its own process, then
the evaluation module. What is its own: the scenes (see data/scenes.py), two controls, the report.

    teacher    learns from labelled images of domain A (configs/teacher.py:demo)
    labels     the teacher labels domain B
    student    learns from A and the labelled B, as the paper says (configs/student.py:demo)
    alone      the same student without unlabelled images, at equal updates and labelled samples
    shuffled   the student on pseudo labels that belong to other images

Domain C is seen by none of them. A second call resumes what the first left: programs continue from
their checkpoints, finished stages are skipped.
"""

# The heavy imports are inside the functions: a stage is a program of its own.
from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from depth_anything_jax.data.scenes import SceneSource, fill_cache
from depth_anything_jax.demo_plan import DOMAINS, LONG, SPLITS, Plan


@dataclasses.dataclass(frozen=True)
class Stage:
    """One program: its name in the demo, its arguments, and what must be there when it is done."""

    name: str
    seed: int
    command: tuple[str, ...]
    workdir: str  # a training run's, which must hold its last step; "" for others
    share: float  # of the demo's time, roughly


def stages(plan: Plan) -> list[Stage]:
    """The programs of a demo, in order."""
    out = []
    unlabelled = plan.source("B", "train", labelled=False)
    for seed in plan.seeds:
        teacher, labels = plan.run("teacher", seed), plan.run("labels", seed)
        common = [
            f"input_size={plan.size}",
            f"seed={seed}",
            f"data.labelled=({plan.source('A', 'train')!r},)",
        ]

        def train(name: str, config: str, share: float, *fields: str, seed=seed, common=common):
            workdir = plan.run(name, seed)
            flags = [f"--config.{field}" for field in (*common, *fields)]
            command = (
                "train",
                f"--config=configs/{config}.py:demo",
                f"--workdir={workdir}",
                *flags,
            )
            return Stage(name, seed, command, workdir, share)

        both = (f"data.unlabelled=({unlabelled!r},)", *plan.student)
        out += [
            train("teacher", "teacher", 0.2, *plan.teacher),
            Stage(
                "labels",
                seed,
                ("pseudo_label", "--checkpoint", teacher, "--data", unlabelled, "--out", labels,
                 "--size", str(plan.size), "--batch_size", "20"),
                "",
                0.05,
            ),
            train("student", "student", 0.3, f"data.labels=({labels!r},)", *both),
            train("shuffled", "student", 0.3, f"data.labels=({labels + '?shuffle=1'!r},)", *both),
            train("alone", "student", 0.15, *plan.student, *alone()),
        ]  # fmt: skip
    return out


def alone() -> tuple[str, ...]:
    """Overrides that take the unlabelled part away and leave the labelled one as it is."""
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
    """Which stages are done, with the command that did them: a changed command runs again."""

    def __init__(self, folder: str):
        self.file = pathlib.Path(folder) / "done.json"

    def read(self) -> dict[str, Any]:
        """All marks, {} before the first."""
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def done(self, name: str, command: Sequence[str]) -> bool:
        """Whether this very stage is done."""
        return self.read().get(name, {}).get("command") == list(command)

    def set(self, name: str, command: Sequence[str], seconds: float) -> None:
        """Marks a stage as done; seconds of interrupted calls are not known."""
        marks = self.read() | {name: {"command": list(command), "seconds": round(seconds, 1)}}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".tmp")
        aside.write_text(json.dumps(marks, indent=1))
        aside.replace(self.file)


def run_stage(stage: Stage, plan: Plan, say) -> None:
    """Runs one program, its lines passed on, and checks that it came to its end.

    Raises:
      SystemExit: it failed or was stopped, with the command that continues.
    """
    command = [sys.executable, "-m", f"depth_anything_jax.{stage.command[0]}", *stage.command[1:]]
    log = pathlib.Path(plan.path("logs", f"{stage.name}-{stage.seed}.log"))
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        # student and shuffled are one program: the second finds it compiled
        "JAX_COMPILATION_CACHE_DIR": os.environ.get(
            "JAX_COMPILATION_CACHE_DIR", os.path.abspath(plan.path("compiled"))
        ),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    }
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                say(line.rstrip())
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it has had the signal too, and saves
            sys.exit(f"stopped in {stage.name}; the same command continues")
    if code:
        sys.exit(f"{stage.name} ended with status {code}; its lines are in {log}")
    if stage.workdir and not _complete(stage.workdir):
        sys.exit(f"{stage.name} was stopped before its last step; the same command continues")


def _complete(workdir: str) -> bool:
    from depth_anything_jax import checkpoint

    step = checkpoint.find(workdir)
    if step is None:
        return False
    checkpoints = checkpoint.Checkpoints(step.parent)
    total = checkpoints.meta(int(step.name))["config"]["total_steps"]
    checkpoints.close()
    return int(step.name) >= total


def scene_sets(plan: Plan) -> list[SceneSource]:
    """All sets of scenes of a demo."""
    train = [SceneSource(d, plan.images, SPLITS["train"], plan.size) for d in "AB"]
    held = [SceneSource(d, plan.held_out, SPLITS[plan.split], plan.size) for d in DOMAINS]
    return [*train, *held]


def _render(plan: Plan) -> None:
    from depth_anything_jax.report import duration

    def show(done: int, total: int, seconds: float) -> None:
        print(
            f"    {done}/{total} scenes  {done / seconds:.0f}/s  "
            f"ETA {duration(seconds / done * (total - done))}",
            flush=True,
        )

    fill_cache(scene_sets(plan), processes=min(2, os.cpu_count() or 1), progress=_sometimes(show))


def _sometimes(show, every: float = 5.0):
    """Calls `show` at most every so many seconds, and at the end."""
    last = [0.0]

    def maybe(done: int, total: int, *rest: Any) -> None:
        now = time.monotonic()
        if now - last[0] >= every or done == total:
            last[0] = now
            show(done, total, *rest)

    return maybe


def numbered(plan: Plan, extra: int) -> Iterator[str]:
    """Titles "[3/8] " of the stages."""
    total = 1 + len(stages(plan)) + extra
    for k in range(1, total + 1):
        yield f"[{k}/{total}]"


def demo(plan: Plan, *, weights: str = "", docs: str = "") -> dict[str, Any]:
    """Runs whatever of a demo is not done yet, then scores and reports.

    Args:
      plan: sizes and folders.
      weights: a released model to put beside, any source that `weights.load` takes.
      docs: a folder for the table and pictures as Markdown; "" writes none.

    Returns:
      The scores, as `demo_report.score_all` gives them.
    """
    from depth_anything_jax import demo_report
    from depth_anything_jax.report import duration

    begun, marks, titles = time.monotonic(), Marks(plan.folder), numbered(plan, 2)
    print(f"{next(titles)} scenes: {', '.join(s.name for s in scene_sets(plan))}", flush=True)
    start = time.monotonic()
    _render(plan)
    identity = [str(s.folder) for s in scene_sets(plan)]
    if not marks.done("scenes", identity):
        marks.set("scenes", identity, time.monotonic() - start)
    for stage in stages(plan):
        title, name = next(titles), f"{stage.name}-{stage.seed}"
        if marks.done(name, stage.command):
            print(f"{title} {name}: done already")
            continue
        print(
            f"{title} {name}: python -m depth_anything_jax.{shlex.join(stage.command)}", flush=True
        )
        start = time.monotonic()
        run_stage(stage, plan, lambda line: print(f"    {line}", flush=True))
        marks.set(name, stage.command, time.monotonic() - start)
    print(f"{next(titles)} scores on {plan.split} sets", flush=True)
    start = time.monotonic()
    scores = demo_report.score_all(plan, weights=weights)
    marks.set("scores", [], time.monotonic() - start)
    print(f"{next(titles)} report", flush=True)
    demo_report.write(plan, scores, marks.read(), weights=weights, docs=docs)
    print(demo_report.table(scores))
    print(f"{plan.path('report.html')} written, {duration(time.monotonic() - begun)} in this call")
    return scores


def main() -> None:
    """The command line."""
    from absl import app, flags

    long = flags.DEFINE_boolean("long", False, "more pixels and steps, three seeds; writes docs/")
    weights = flags.DEFINE_string("weights", "", "a released model to put beside: file, folder, id")
    folder = flags.DEFINE_string("folder", "", "where the demo lives; demo or demo-long")
    split = flags.DEFINE_enum("split", "test", ["test", "val"], "val: to choose lengths and rates")

    def run(argv: list[str]) -> None:
        if argv[1:]:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        plan = LONG if long.value else Plan()
        plan = dataclasses.replace(plan, split=split.value, folder=folder.value or plan.folder)
        demo(plan, weights=weights.value, docs="docs" if long.value else "")

    app.run(run)


if __name__ == "__main__":
    main()
