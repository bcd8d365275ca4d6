"""Adapts a model to your own photos, without labels: from a folder to a model and a report.

    python -m depth_anything_jax.adapt --photos photos \\
        --teacher depth-anything/Depth-Anything-V2-Small-hf --out adapted
    python -m depth_anything_jax.adapt --photos dive.mp4 --photos 'more/*.jpg' --fps 2 \\
        --mask housing.png --teacher runs/teacher --out adapted
    python -m depth_anything_jax.adapt --photos photos --teacher weights.safetensors \\
        --size 98 --steps 60 --out trial
    python -m depth_anything_jax.adapt --photos photos --teacher files:labels \\
        --init_from depth-anything/Depth-Anything-V2-Small-hf --out adapted
    python -m depth_anything_jax.adapt --photos photos --teacher runs/teacher --out noisy \\
        --set perturb.camera.noise.p=0.5 --set perturb.camera.low_light.p=0.5

It finds the photos (and frames of videos), drops near-duplicates, holds some out by scene, has the
teacher label the others (pseudo_label), trains a student that starts from the teacher (train with
configs/adapt.py), chooses a step by how well its predictions agree with themselves, measures what
was forgotten, and writes OUT/model and OUT/report.html. The same command goes on after any
interruption. docs/adapt.md explains the stages and the report.
"""

from __future__ import annotations

import sys
from typing import Any


def main() -> None:
    """The command line; see the module's docstring and --help."""
    from absl import flags, logging

    from depth_anything_jax.checkpoints import weight_flags
    from depth_anything_jax.utils import command_line

    text, number, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    photos = flags.DEFINE_multi_string(
        "photos", None, "folder, glob, image or video", required=True
    )
    teacher = text(
        "teacher", None, "weights, as pseudo_label takes them, or files:FOLDER of labels",
        required=True,
    )  # fmt: skip
    out = text("out", None, "folder of everything that is made", required=True)
    mask = text("mask", "", "image of the photos' size, black where pixels do not count")
    fps = real("fps", 1.0, "frames that are taken of a second of video")
    held_out = real("held_out", 0.1, "share of the photos that is held out, by scene")
    labelled = text("labelled", "", "a source with labels, half of each batch")
    init_from = text("init_from", "", "what the student starts from; else the teacher")
    frozen = text("frozen_encoder", "", "encoder of L_feat; else the student's start")
    size = number("size", 518, "side of the crops and short side of labels, pixels")
    steps = number("steps", 0, "of the training; 0: chosen by the number of photos")
    batch = number("batch_size", 0, "photos in each batch; 0: 8")
    seed = number("seed", 0, "of the split and the training")
    changes = flags.DEFINE_multi_string("set", [], "field of the training's config, NAME=VALUE")
    reference = text("reference", "", "clean images, a source; else rendered scenes")
    evaluated = flags.DEFINE_multi_string("eval", [], "a source with labels to score each step on")
    load, of_weights = weight_flags.define()

    def run(argv: list[str]) -> None:
        from depth_anything_jax.adaptation.plan import Plan
        from depth_anything_jax.adaptation.stages import adapt

        logging.set_verbosity(logging.WARNING)  # Orbax logs thirty lines a checkpoint
        plan = Plan(
            photos=tuple(photos.value), teacher=teacher.value, out=out.value, mask=mask.value,
            labelled=labelled.value, init_from=init_from.value, frozen_encoder=frozen.value,
            reference=reference.value, evaluated=tuple(evaluated.value), size=size.value,
            steps=steps.value, batch_size=batch.value, fps=fps.value, held_out=held_out.value,
            seed=seed.value, fields=tuple(changes.value),
            load=tuple((k, v) for k, v in load().items() if v is not None),
        )  # fmt: skip
        try:
            adapt(plan, lambda line: print(line, flush=True))
        except (ValueError, OSError, ImportError) as error:
            sys.exit(f"{type(error).__name__}: {error}")

    groups: dict[str, list[Any]] = {
        "Photos": [photos, mask, fps, held_out],
        "Teacher": [teacher, *of_weights],
        "Training": [init_from, frozen, labelled, size, steps, batch, seed, changes],
        "Report": [out, reference, evaluated],
    }
    command_line.start(run, doc=__doc__ or "", groups=groups, needs=[photos, teacher, out])


if __name__ == "__main__":
    main()
