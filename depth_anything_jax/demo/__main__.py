"""Runs the whole method on rendered scenes, in minutes on two CPU cores: `make demo`.

    python -m depth_anything_jax.demo                     # the table and demo/report.html
    python -m depth_anything_jax.demo --long              # more pixels and steps, three seeds
    python -m depth_anything_jax.demo --controls          # the parts of the method, one by one
    python -m depth_anything_jax.demo --weights=SOURCE    # adds a released model's row
    python -m depth_anything_jax.demo --docs=docs         # table and pictures as Markdown too

It runs the same programs as a user (train, pseudo_label, train), each in its own process, then the
evaluation module. Specific to the demo are the scenes (see data/scenes/source.py), the controls and
the report. demo/stages.py defines the stages and their order, demo/plan.py all sizes.

    teacher    trains on labelled images of domain A (configs/teacher.py:demo)
    labels     the teacher labels domain B
    student    trains on A and the pseudo-labelled B, as in the paper (configs/student.py:demo)
    alone      the same student without unlabelled images, at equal updates and labelled samples
    shuffled   the student on pseudo labels that belong to other images
    controls   on request: students without colour distortion, CutMix or L_feat, and one that is
               aligned to the features of other images; see CONTROLS in demo/plan.py

No run trains on domain C. A second call resumes an interrupted one: programs continue from their
checkpoints, and finished stages are skipped.
"""

# Heavy imports are inside the functions, because the stages run in processes of their own.
from __future__ import annotations

import dataclasses
import sys
from typing import Any

from depth_anything_jax.data.scenes.source import SceneSource
from depth_anything_jax.demo.plan import ABLATION, DOMAINS, LONG, Plan, SPLITS
from depth_anything_jax.demo.progress import Progress
from depth_anything_jax.demo.stages import stages


def scene_sets(plan: Plan) -> list[SceneSource]:
    """All sets of scenes of a demo."""
    train = [SceneSource(d, plan.images, SPLITS["train"], plan.size) for d in "AB"]
    held = [SceneSource(d, plan.held_out, SPLITS[plan.split], plan.size) for d in DOMAINS]
    return [*train, *held]


def demo(plan: Plan, *, weights: str = "", docs: str = "", jobs: int = 0) -> dict[str, Any]:
    """Runs the unfinished stages of a demo, then scores and reports.

    Args:
      plan: sizes and folders.
      weights: a released model to compare with, any source that `pretrained.load` takes.
      docs: a folder for the table and pictures as Markdown; "" writes none.
      jobs: number of programs to run in parallel; 0: chosen for the machine.

    Returns:
      The scores, as returned by `report.score_all`.
    """
    from depth_anything_jax.demo import report

    progress = Progress(plan, stages(plan))
    ran = progress.run(scene_sets(plan), jobs)
    scores = progress.scored(
        lambda tell: report.score_all(plan, weights=weights, tell=tell), [weights], ran
    )
    report.write(plan, scores, progress.marks.read(), weights=weights, docs=docs)
    print(report.table(scores))
    progress.written()
    return scores


def main() -> None:
    """The command line."""
    from absl import app, flags, logging

    from depth_anything_jax.utils import command_line

    long = flags.DEFINE_boolean("long", False, "more pixels and steps, three seeds")
    controls = flags.DEFINE_boolean("controls", False, "each part of the method, three seeds")
    weights = flags.DEFINE_string("weights", "", "a released model to put beside: file, folder, id")
    docs = flags.DEFINE_string("docs", "", "a folder for table and pictures as Markdown")
    folder = flags.DEFINE_string("folder", "", "where the demo lives; else demo, demo-long, …")
    jobs = flags.DEFINE_integer("jobs", 0, "programs at a time; 0: one a core, at most four")
    split = flags.DEFINE_enum("split", "test", ["test", "val"], "val: to choose lengths and rates")

    def run(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax logs what it opens and closes
        if long.value and controls.value:
            raise app.UsageError("--long and --controls are two demos: give one of them")
        plan = LONG if long.value else ABLATION if controls.value else Plan()
        plan = dataclasses.replace(plan, split=split.value, folder=folder.value or plan.folder)
        if jobs.value < 0:
            raise app.UsageError(f"--jobs={jobs.value}: 1 or more, or 0 for what suits the machine")
        scores = demo(plan, weights=weights.value, docs=docs.value, jobs=jobs.value)
        if controls.value:
            from depth_anything_jax.demo import report

            sys.exit(report.broken(scores) or 0)

    groups: dict[str, list[Any]] = {
        "Size": [long, controls, jobs],
        "Output": [folder, docs],
        "Comparison": [weights, split],
    }
    command_line.start(run, doc=__doc__ or "", groups=groups)


if __name__ == "__main__":
    main()
