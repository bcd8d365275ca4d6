"""Metric depth: a relative model learns metres from labelled images (V1's and V2's metric_depth).

    python -m depth_anything_jax.train --config=configs/metric.py:hypersim      # V2 indoors, ViT-S
    python -m depth_anything_jax.train --config=configs/metric.py:vkitti2,vitl  # V2 outdoors
    python -m depth_anything_jax.train --config=configs/metric.py:nyu,head=bins,vitl    # V1
    python -m depth_anything_jax.train --config=configs/metric.py:folder \\
        --config.data.labelled="('rgbd:pairs/manifest.json?splits=train',)" \\
        --config.eval.data="('rgbd:pairs/manifest.json?splits=val',)"     # docs/metric.md
    python -m depth_anything_jax.train --config=configs/metric.py:demo    # rendered scenes

Words, joined by commas: nyu, kitti, hypersim, vkitti2, folder (default) or demo; vits (default),
vitb or vitl (not for demo); head=sigmoid (V2's, default) or bins (V1's); and what it starts from:
    init=encoder   a released relative model's encoder (V2; default of sigmoid)
    init=all       its encoder, decoder and relative output (V1; of bins, always)
    init=decoder   all but its last layer (ours; default of folder)
    init=dinov2    an encoder that has not seen depth
The sets lie under data/ as they are downloaded (docs/benchmarks.md), their lists beside them.

head=sigmoid: SiLog per image, AdamW 5e-6, decoder 5e-5, poly .9, no warm-up, no clip, 120 epochs of
    batches of 32 (V2). Upstream decays biases and norms too, flips a batch as one and pools SiLog
    over a device's batch (--config.loss.silog_pool=batch).
head=bins: ZoeDepth's SiLog, OneCycle 1.61e-4 with encoder and decoder at a fiftieth, clip .1, five
    epochs of batches of 16, rotation and colours, whole images squeezed into 392 x 518 (V1).

Hardware: V2 used 8 GPUs; one accelerator with --config.accumulation=8 (the memory it needs is
    printed before the first step). `demo`: two CPU cores.
Time: not measured but for the demo: .2 s a step on two cores.
Result: the papers' AbsRel in metres, fine-tuned on NYU and on KITTI: V1 ViT-L .056 .046; V2 ViT-S
    .073 .053, ViT-B .063 .048, ViT-L .056 .045. No full run of ours has been scored.
"""

import pathlib
import runpy

COMMON = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))
ENCODERS = {"vits": "small", "vitb": "base", "vitl": "large"}
INITS = ("encoder", "all", "decoder", "dinov2")
# Set -> metres, window, images, where the labels lie, what is scored in between.
SETS = {
    "nyu": (
        10.0, "nyu", 24_231,  # ZoeDepth's list, from BTS
        "rgbd:data/nyu/nyudepthv2_train_files_with_gt.txt?root=data/nyu/sync&fmt=nyu",
        "benchmark:nyu?path=data/nyu",
    ),
    "kitti": (
        80.0, "kb", 23_158,
        "rgbd:data/kitti/kitti_eigen_train_files_with_gt.txt?root=data/kitti/raw"
        "&depth_root=data/kitti/gts&fmt=kitti",
        "benchmark:kitti?path=data/kitti&list_file=data/kitti/eigen_test_files_with_gt.txt",
    ),
    "hypersim": (
        20.0, "none", 59_543,
        "benchmark:hypersim?path=data/hypersim&split=train"
        "&list_file=data/hypersim/metadata_images_split_scene_v1.csv",
        "benchmark:hypersim?path=data/hypersim&split=val"
        "&list_file=data/hypersim/metadata_images_split_scene_v1.csv",
    ),
    "vkitti2": (
        80.0, "none", 19_559,
        "benchmark:vkitti2?path=data/vkitti2&split=list&list_file=data/vkitti2/train.txt",
        "benchmark:vkitti2?path=data/vkitti2&split=v1_test&list_file=data/vkitti2/train.txt",
    ),
}  # fmt: skip


def get_config(arg: str = "folder"):
    """`arg`: words of the module's docstring, joined by commas."""
    words = [w for w in arg.split(",") if w]
    named = dict(w.split("=", 1) for w in words if "=" in w)
    plain = [w for w in words if "=" not in w]
    sets = [w for w in plain if w in (*SETS, "folder", "demo")]
    variants = [w for w in plain if w in ENCODERS]
    head = named.pop("head", "sigmoid")
    init = named.pop("init", "")
    unknown = [w for w in plain if w not in sets + variants] + list(named)
    twice = len(words) > len({w.split("=")[0] for w in words})
    if unknown or twice or len(sets) > 1 or len(variants) > 1 or head not in ("sigmoid", "bins"):
        raise ValueError(
            f"metric.py:{arg}: choose one of {', '.join(SETS)}, folder or demo; one of "
            f"{', '.join(ENCODERS)}; head=sigmoid or bins; init={', '.join(INITS)}"
        )
    name, variant = (sets or ["folder"])[0], (variants or ["vits"])[0]
    if init not in ("", *INITS):
        raise ValueError(f"metric.py:{arg}: init={init}: choose one of {', '.join(INITS)}")
    if name == "demo" and variants:
        raise ValueError(f"metric.py:{arg}: demo has a network of its own: leave {variant} out")
    if head == "bins" and init not in ("", "all"):
        raise ValueError(
            f"metric.py:{arg}: the bins head reads the relative output and starts from all of a "
            "relative model: leave init out"
        )
    if head == "sigmoid" and init == "all":
        raise ValueError(
            f"metric.py:{arg}: a relative output is larger where it is nearer, and under a sigmoid "
            "its last layer would start at the flat end: use init=decoder"
        )
    c = COMMON["get_config"]()
    c.labelled_ratio, c.unlabelled_ratio = 1, 0
    c.loss.weights = (1.0, 0.0, 0.0)
    c.model.head, c.model.variant = head, variant
    (sigmoid if head == "sigmoid" else bins)(c)
    if name == "demo":
        return demo(c, init or ("all" if head == "bins" else "dinov2"))
    relative = {
        "sigmoid": f"depth-anything/Depth-Anything-V2-{ENCODERS[variant].capitalize()}-hf",
        "bins": f"LiheYoung/depth-anything-{ENCODERS[variant]}-hf",
    }[head]
    usual = "all" if head == "bins" else "decoder" if name == "folder" else "encoder"
    start(c, init or usual, relative, f"facebook/dinov2-{ENCODERS[variant]}")
    c.workdir = f"runs/metric_{name}_{variant}_{head}"
    if name == "folder":
        return folder(c)
    c.model.max_depth, c.data.augment.window, images, labelled, scored = SETS[name]
    if head == "bins" and name == "kitti":
        c.data.augment.brightness = (0.9, 1.1)
    c.model.remat = "full"
    c.data.labelled, c.eval.data = (labelled,), (scored,)
    c.data.workers = 8
    epochs = 120 if head == "sigmoid" else 5
    c.total_steps = epochs * images // c.batch_size
    c.eval.every, c.eval.limit = 2000, 500
    return c


def start(c, init, relative, encoder):
    """What the run starts from."""
    c.init_from = encoder if init == "dinov2" else relative
    c.init_parts = {"all": "relative", "decoder": "decoder"}.get(init, "encoder")


def sigmoid(c):
    """V2's fine-tuning (metric_depth/train.py)."""
    c.model.version = "v2"
    c.batch_size = 32  # 4 on each of 8 GPUs
    c.optim.encoder_lr, c.optim.decoder_lr = 5e-6, 5e-5
    c.optim.schedule, c.optim.warmup, c.optim.clip = "poly", 1, 0.0


def bins(c):
    """V1's (ZoeDepth's code, config_zoedepth.json)."""
    c.model.version = "v1"
    c.batch_size = 16
    with c.ignore_type():  # a side of crops becomes height and width
        c.input_size = (392, 518)
    c.loss.silog = "v1"
    c.optim.bins_lr = 1.61e-4
    c.optim.encoder_lr = c.optim.decoder_lr = 1.61e-4 / 50
    c.optim.schedule, c.optim.warmup, c.optim.clip = "onecycle", 1, 0.1
    c.data.augment.rotate = 1.0
    c.data.augment.p = 0.5
    c.data.augment.gamma = c.data.augment.colour = (0.9, 1.1)
    c.data.augment.brightness = (0.75, 1.25)


def folder(c):
    """Your own pairs, a hundred or more: 120 epochs of a hundred images."""
    c.model.max_depth = 20.0
    c.batch_size = 8
    c.total_steps = 1500
    c.eval.every = c.checkpoint.every = 250
    c.log.images = 250
    return c


def demo(c, init):
    """Rendered scenes of domain A, the tiny encoder, minutes on two CPU cores."""
    head = c.model.head
    c.workdir = f"runs/metric_demo_{head}"
    c.compile_effort = -1.0  # a minute's compilation would be most of a minute's run
    c.model.variant, c.model.version = "demo", "v2"
    c.model.scan = False
    c.model.max_depth = 20.0
    start(c, init, "runs/teacher_demo", "demo-encoder")
    c.input_size = 112 if head == "sigmoid" else (112, 112)
    c.batch_size = 8
    c.total_steps = 1200
    c.optim.encoder_lr, c.optim.decoder_lr, c.optim.bins_lr = 2e-5, 2e-3, 2e-3
    c.optim.clip = 1.0
    if head == "sigmoid":
        c.optim.warmup = 50
    c.data.labelled = ("scenes:A?count=2000&size=112",)
    c.eval.data = ("scenes:A?count=200&seed=1&size=112",)
    c.eval.every = c.checkpoint.every = c.log.images = 400
    return c
