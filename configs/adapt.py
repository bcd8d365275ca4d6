"""Adapt a model to photos without labels: pseudo labels of a teacher, the paper's perturbations.

    python -m depth_anything_jax.adapt --photos photos --teacher TEACHER --out adapted
    python -m depth_anything_jax.train --config=configs/adapt.py \\
        --config.init_from=TEACHER --config.frozen_encoder=TEACHER \\
        --config.data.unlabelled="('folder:photos',)" --config.data.labels="('labels/photos',)"
    python -m depth_anything_jax.train --config=configs/adapt.py:labelled \\
        --config.data.labelled="('rgbd:pairs/manifest.json',)"  # and the fields above

The program `adapt` (docs/adapt.md) chooses photos, labels them, trains with this config, chooses a
step and writes a report; alone, this config is one training run like any other. `photos`
(default) has pseudo labels only, with the loss of V2's students; `labelled` adds a small labelled
set, half of each batch. The student starts from the teacher's weights, and the teacher's own
encoder is the frozen one of L_feat, which holds the student near it: our choice, no download.
perturb.camera.* adds the noise, blur, light, haze and compression of another camera
(tools/camera_sheet.py draws them).

Hardware: two CPU cores at 98 to 154 pixels; one accelerator at 518 (the memory it needs is printed
    before the first step; --config.accumulation computes a part of the batch at a time).
Time: ViT-S at 98 pixels 2.35 s a step of 4 photos on two CPU cores busy with other work; the
    console's ETA tells after two steps. Not measured on accelerators.
Result: depends on the photos, and is not measured yet. The nearest measurement is a pilot with 174
    photos seen through a poor camera: teacher AbsRel .156, student .151, on clean images .080 to
    .086.
"""

import pathlib
import runpy

COMMON = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))


def get_config(arg: str = "photos"):
    """`arg`: photos (default) or labelled."""
    c = COMMON["get_config"]()
    c.workdir = "runs/adapt"
    c.teacher = "records"
    c.model.variant, c.model.version = "vits", "v2"
    c.init_parts = "params"
    c.total_steps = 1000
    c.optim.warmup = 50
    c.checkpoint.every = c.checkpoint.keep_every = 125
    c.log.images = 250
    if arg == "photos":
        c.labelled_ratio, c.unlabelled_ratio = 0, 1
        c.batch_size = 8
        c.loss.weights = (0.0, 1 / 2, 1 / 2)  # V2's students (B.7), as is the next line
        c.loss.gradient_weight = 2.0
    elif arg == "labelled":
        c.labelled_ratio, c.unlabelled_ratio = 1, 1
        c.batch_size = 16
    else:
        raise ValueError(f"adapt.py:{arg}: choose photos or labelled")
    return c
