"""Stage 1: a teacher learns affine-invariant disparity from labelled images (V1 3.1).

    python -m depth_anything_jax.train --config=configs/teacher.py            # ViT-L, the paper's
    python -m depth_anything_jax.train --config=configs/teacher.py:vits       # or vitb
    python -m depth_anything_jax.train --config=configs/teacher.py:vitg,v2    # V2: rendered sets
    python -m depth_anything_jax.train --config=configs/teacher.py:demo       # rendered scenes

Data: V1's six labelled sets (about 1.5 M images) or V2's five (600 thousand), prepared under data/
with tools/prepare_data.py; see docs/data.md. Length: 20 epochs (V1 4.1) at batch 64, which V1 does
not state; V2's ViT-G teacher had 160 000 steps of 64 (V2 section 7).

Hardware: any number of accelerators that divides the batch; on one host with 8 of 16 GB or more use
    --config.accumulation and --config.mesh.fsdp (the memory it needs is printed before the first
    step).
Time: the papers give none for a teacher alone, and no full run has been timed with this code; the
    console's ETA tells after two steps. The demo: about two minutes on two CPU cores.
Result: V1 gives none for its teacher. The nearest that is published is V2's ViT-L on synthetic
    labels alone: AbsRel .081 on KITTI, .048 on NYUv2 (V2 Table 5). No full run of ours has been
    scored. The demo: see the table of `make demo`.
"""

import pathlib
import runpy

COMMON = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))
ENCODERS = {"vits": "small", "vitb": "base", "vitl": "large", "vitg": "giant"}
MIXTURES = COMMON["MIXTURES"]


def get_config(arg: str = "vitl"):
    """`arg`: vits, vitb, vitl (default) or vitg; v2; both joined by a comma; or demo."""
    c = COMMON["get_config"]()
    c.labelled_ratio, c.unlabelled_ratio = 1, 0
    c.loss.weights = (1.0, 0.0, 0.0)
    if arg == "demo":
        return demo(c)
    words = arg.split(",")
    unknown = [w for w in words if w not in (*ENCODERS, "v2")]
    if unknown:
        raise ValueError(
            f"teacher.py:{arg}: {unknown} unknown; choose {', '.join(ENCODERS)}, v2 or demo"
        )
    variant = next((w for w in words if w in ENCODERS), "vitl")
    c.workdir = f"runs/teacher_{variant}" + ("_v2" if "v2" in words else "")
    c.model.variant = variant
    c.model.remat = "full"
    c.init_from = f"facebook/dinov2-{ENCODERS[variant]}"
    c.batch_size = 64
    c.total_steps = 468_750  # 20 epochs (V1 4.1) of 1.5 M images
    c.data.labelled = tuple(f"tfds:data/{name}" for name in MIXTURES["v1_labelled"])
    c.data.workers = 16
    if "v2" in words:
        v2(c)
    return c


def v2(c):
    """V2's teacher: rendered images alone, gradient matching twice as heavy as L_ssi (V2 B.7)."""
    c.model.version = "v2"
    c.loss.gradient_weight = 2.0
    c.total_steps = 160_000  # V2 section 7
    c.data.labelled = tuple(f"tfds:data/{name}" for name in MIXTURES["v2_labelled"])


def demo(c):
    """Rendered scenes of domain A, the tiny encoder, minutes on two CPU cores."""
    c.workdir = "runs/teacher_demo"
    c.compile_effort = -1.0  # a minute's compilation would be most of a minute's run
    c.model.variant, c.model.version = "demo", "v2"
    c.model.scan = False
    c.init_from = "demo-encoder"
    c.input_size = 112
    c.batch_size = 8
    c.total_steps = 1200
    c.optim.encoder_lr, c.optim.decoder_lr, c.optim.warmup = 2e-5, 2e-3, 50
    c.data.labelled = ("scenes:A?count=2000&size=112",)
    c.checkpoint.every = 400
    c.log.images = 400
    return c
