"""Stage 3: a fresh student learns from labels and from a teacher's pseudo labels (V1 3.2, 3.3).

    python -m depth_anything_jax.train --config=configs/student.py        # ViT-S, V1 as written
    python -m depth_anything_jax.train --config=configs/student.py:vitb   # or vits, vitl
    python -m depth_anything_jax.train --config=configs/student.py:v2     # V2: pseudo labels only
    python -m depth_anything_jax.train --config=configs/student.py:vitl,v2
    python -m depth_anything_jax.train --config=configs/student.py:demo   # after teacher.py:demo

Data: the labelled sets of teacher.py and eight unlabelled ones (62 M images) under data/, the
latter labelled once by the best teacher:

    python -m depth_anything_jax.pseudo_label --checkpoint runs/teacher_vitl \\
        --data tfds:data/sa1b --out labels/sa1b

Length: one sweep over the unlabelled images at 64 labelled + 128 unlabelled a step (V1 states the
sweep, not the batch); V2 states 192 x 480 000.

Hardware: any number of accelerators that divides both parts of the batch (--config.accumulation,
    --config.mesh.fsdp where memory is short; the memory it needs is printed before the first step).
Time: V1's authors trained ViT-L about 10 days on 128 V100 (V1#214). No full run has been timed with
    this code; the console's ETA tells after two steps. The demo: about five minutes on two cores.
Result: the papers' AbsRel on KITTI and NYUv2 (V1 Table 2, V2 Table 2), under a protocol that was
    not published: V1 ViT-S .080 .053, ViT-B .080 .046, ViT-L .076 .043; V2 ViT-S .078 .053, ViT-B
    .078 .049, ViT-L .074 .045. No full run of ours has been scored. The demo: see `make demo`.
"""

import pathlib
import runpy

COMMON = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))
ENCODERS = {"vits": "small", "vitb": "base", "vitl": "large"}
MIXTURES = COMMON["MIXTURES"]


def get_config(arg: str = "vits"):
    """`arg`: vits (default), vitb or vitl; v2; both joined by a comma; or demo."""
    c = COMMON["get_config"]()
    c.teacher = "records"
    if arg == "demo":
        return demo(c)
    words = arg.split(",")
    unknown = [w for w in words if w not in (*ENCODERS, "v2")]
    if unknown:
        raise ValueError(
            f"student.py:{arg}: {unknown} unknown; choose {', '.join(ENCODERS)}, v2 or demo"
        )
    variant = next((w for w in words if w in ENCODERS), "vits")
    c.workdir = f"runs/student_{variant}" + ("_v2" if "v2" in words else "")
    c.model.variant = variant
    c.model.remat = "full"
    c.init_from = c.frozen_encoder = f"facebook/dinov2-{ENCODERS[variant]}"  # V1#224: same size
    c.total_steps = 484_375  # 62 M unlabelled images at 128 a step
    c.data.labelled = tuple(f"tfds:data/{name}" for name in MIXTURES["v1_labelled"])
    c.data.unlabelled = tuple(f"tfds:data/{name}" for name in MIXTURES["unlabelled"])
    c.data.labels = tuple(f"labels/{name}" for name in MIXTURES["unlabelled"])
    c.data.workers = 16
    if "v2" in words:
        v2(c)
    return c


def v2(c):
    """V2's students: pseudo labels alone, gradient matching twice as heavy as L_ssi (V2 B.7)."""
    c.model.version = "v2"
    c.labelled_ratio, c.unlabelled_ratio = 0, 1
    c.data.labelled = ()
    c.loss.weights = (0.0, 1 / 2, 1 / 2)
    c.loss.gradient_weight = 2.0
    c.total_steps = 480_000  # V2 section 7


def demo(c):
    """Domain A labelled, domain B with the demo teacher's labels; minutes on two CPU cores."""
    c.workdir = "runs/student_demo"
    c.compile_effort = -1.0  # a minute's compilation would be most of a minute's run
    c.model.variant, c.model.version = "demo", "v2"
    c.model.scan = False
    c.init_from = c.frozen_encoder = "demo-encoder"
    c.input_size = 112
    c.batch_size = 12
    c.total_steps = 1000
    c.optim.encoder_lr, c.optim.decoder_lr, c.optim.warmup = 2e-5, 2e-3, 50
    c.loss.feat_margin = 0.98  # the student stays near its encoder: at .85 no token is left
    c.data.labelled = ("scenes:A?count=2000&size=112",)
    c.data.unlabelled = ("scenes:B?count=2000&size=112&labelled=False",)
    c.data.labels = ("runs/labels_demo",)
    c.checkpoint.every = 500
    c.log.images = 500
    return c
