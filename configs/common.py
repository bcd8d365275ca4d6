"""Every field of a training run, with its default; teacher.py, student.py, finetune.py start here.

Defaults are the paper's (Depth Anything, arXiv 2401.10891: "V1"; 2406.09414: "V2") and, where the
papers are silent, this project's choices; docs/method.md says which is which. Override any field on
the command line: --config.optim.encoder_lr=1e-5
"""

from ml_collections import ConfigDict

# The papers' mixtures, by the names of `depth_anything_jax.data.training_sets.SETS`, with the
# images that the papers count in thousands: V1 Table 1; V2's five sets of rendered images.
MIXTURES = {
    "v1_labelled": {"blendedmvs": 115, "diml": 927, "hrwsi": 20, "irs": 103, "megadepth": 128,
                    "tartanair": 306},
    "v2_labelled": {"blendedmvs": 115, "hypersim": 60, "irs": 103, "tartanair": 306,
                    "vkitti2": 20},
    "unlabelled": {"bdd100k": 8200, "landmarks": 4100, "imagenet21k": 13100, "lsun": 9800,
                   "objects365": 1700, "openimages": 7800, "places365": 6500, "sa1b": 11100},
}  # fmt: skip


def get_config() -> ConfigDict:
    """All fields; data, teacher and lengths are the variants' business."""
    c = ConfigDict()
    c.seed = 0
    c.workdir = ""
    c.total_steps = 0
    # Images per update over all devices, split labelled : unlabelled; both parts must divide by
    # devices x accumulation. V1 4.1: 1 : 2.
    c.batch_size = 192
    c.labelled_ratio = 1
    c.unlabelled_ratio = 2
    c.accumulation = 1
    # Side of the square training crop, a multiple of the patch size (V1, appendix). Under a bins
    # head (height, width): whole images are brought to it, whatever their shape.
    c.input_size = 518
    c.dtype = "auto"  # bfloat16 on TPUs and GPUs that have it, else float32
    # How hard XLA tries to make the step fast: 0 as it does by itself; -1 compiles it for a TPU up
    # to ten times faster, and it may run slower and need more memory (docs/tpu.md). Not on CPUs.
    c.compile_effort = 0.0
    c.ema_decay = 0.0  # 0: no running average of the parameters

    # Where the student starts. A source is an Orbax folder, a .safetensors or .pth file, a local
    # Hugging Face folder or a hub id. Parts: "encoder", "params" (encoder and decoder), "all"
    # (Orbax only: optimiser and step too); for a metric head on relative weights "decoder" (all but
    # the last layer) and "relative" (all of them, under the bins head). allow_missing: a regex of
    # tensors the file may lack, which become fill_missing: "init" (the initialiser's) or "zeros".
    # Not read when a run goes on.
    c.init_from = ""
    c.init_parts = "encoder"
    c.allow_missing = ""
    c.fill_missing = "init"
    # Pseudo labels: "records" (written by pseudo_label), "files" (a folder of another tool's PNG
    # or NPY), "online" (teacher_from labels the crop inside the step) or "none".
    c.teacher = "none"
    c.teacher_from = ""
    c.frozen_encoder = ""  # L_feat's DINOv2, of the student's size; "" only where its weight is 0

    c.model = ConfigDict()
    c.model.variant = "vits"  # vits, vitb, vitl, vitg; demo
    c.model.version = "v1"  # which blocks feed the decoder: v1 the last four, v2 spread out
    c.model.head = "relative"  # or in metres: "sigmoid", "bins"
    c.model.max_depth = 0.0  # metres, the range of a metric head
    c.model.scan = True
    c.model.remat = "none"  # "none", "dots", "full": what the backward pass computes again
    c.model.attention = "auto"

    c.loss = ConfigDict()
    c.loss.weights = (1 / 3, 1 / 3, 1 / 3)  # labelled, unlabelled, features (V1 3.3: the average)
    c.loss.gradient_weight = 0.0  # V2: 2.0
    c.loss.trim = 0.1  # share of largest residuals left out on unlabelled images (V2 5.2)
    c.loss.trim_per = "sample"  # or "region"
    c.loss.min_valid = 10  # pixels a map needs to contribute
    c.loss.min_region_scale = 0.0  # CutMix regions flatter than this share of the map drop out
    c.loss.sky = True  # sky without a label counts as disparity 0 (V1 3.1)
    c.loss.feat_margin = 0.85  # V1 3.3: tokens at least this similar are left alone
    c.loss.feat_denominator = "image"  # or "global"
    c.loss.feat_input = "student"  # what the frozen encoder sees; "clean"; "shuffled": a control

    # Metric heads, on labels alone: SiLog instead of the affine-invariant loss.
    c.loss.silog = "v2"  # sqrt(mean d² - .5 (mean d)²), or "v1", ZoeDepth's with its factor 10
    c.loss.silog_pool = "image"  # a root for each map; "batch": one for all, as upstream
    c.loss.min_depth = 1e-3  # metres; labels count from here to model.max_depth (V2, ZoeDepth)

    # Pixels of the network's input: a metric model then predicts depth * focal / f, and its metres
    # are right for other focal lengths too; every record needs its camera. 0: metres as they are.
    c.camera = ConfigDict()
    c.camera.focal = 0.0

    c.perturb = ConfigDict()
    c.perturb.distort = True
    c.perturb.colour = ConfigDict()  # UniMatch's strong augmentation (V1#240)
    c.perturb.colour.brightness = c.perturb.colour.contrast = c.perturb.colour.saturation = 0.5
    c.perturb.colour.hue = 0.25
    c.perturb.colour.jitter_p = 0.8
    c.perturb.colour.grey_p = 0.2
    c.perturb.colour.blur_p = 0.5
    c.perturb.colour.blur_sigma = (0.1, 2.0)  # pixels at 518; scales with input_size
    c.perturb.cutmix = ConfigDict()
    c.perturb.cutmix.p = 0.5
    c.perturb.cutmix.size_min, c.perturb.cutmix.size_max = 0.02, 0.4  # of the image's area
    c.perturb.cutmix.ratio_min, c.perturb.cutmix.ratio_max = 0.3, 1 / 0.3  # height / width
    # Another camera, beside the paper's: kinds and units in training/camera_perturb.py. Off.
    c.perturb.camera = ConfigDict()
    c.perturb.camera.fov = ConfigDict({"p": 0.0, "share": (0.5, 1.0)})
    c.perturb.camera.haze = ConfigDict({"p": 0.0, "depth": (0.1, 1.0)})
    c.perturb.camera.defocus = ConfigDict({"p": 0.0, "radius": (0.5, 3.0)})
    c.perturb.camera.motion = ConfigDict({"p": 0.0, "length": (2.0, 16.0)})
    c.perturb.camera.vignetting = ConfigDict({"p": 0.0, "loss": (0.2, 0.8)})
    c.perturb.camera.exposure = ConfigDict({"p": 0.0, "stops": (-2.0, 1.0)})
    c.perturb.camera.low_light = ConfigDict({"p": 0.0, "stops": (1.0, 4.0)})
    c.perturb.camera.low_light.amplified = (0.0, 1.0)  # share of the lost stops
    c.perturb.camera.noise = ConfigDict({"p": 0.0, "shot": (1e-4, 0.012)})
    c.perturb.camera.jpeg = ConfigDict({"p": 0.0, "quality": (10.0, 60.0)})

    c.optim = ConfigDict()
    c.optim.encoder_lr = 5e-6  # V1 4.1; for a pre-trained encoder
    c.optim.decoder_lr = 5e-5
    c.optim.bins_lr = 5e-5  # what a bins head adds; V1: 1.61e-4
    c.optim.schedule = "linear"  # "linear", "poly", "constant", "onecycle" (which moves b1 too)
    c.optim.warmup = 500
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.01
    c.optim.clip = 1.0
    c.optim.freeze = ()  # regexes of parameter paths

    # Sources are "type:path?field=value&…"; see docs/data.md.
    c.data = ConfigDict()
    c.data.labelled = ()
    c.data.unlabelled = ()
    c.data.labels = ()  # one per unlabelled source, for teacher="records" or "files"
    c.data.mix = "size"  # V1 4.1: sets are joined without re-sampling; or "weights"
    c.data.label_resize = "auto"  # "nearest"; "points": one by one; "auto": points where sparse
    # Of labelled images, beside the random crop and flip; see data/augment.py.
    c.data.augment = ConfigDict()
    c.data.augment.window = "none"  # cut first: "nyu" (its border has no depth), "kb" (352 x 1216)
    c.data.augment.rotate = 0.0  # degrees, at most
    c.data.augment.p = 0.0  # probability of the three below
    c.data.augment.gamma = (1.0, 1.0)
    c.data.augment.brightness = (1.0, 1.0)
    c.data.augment.colour = (1.0, 1.0)  # of each channel
    c.data.allow_changed = False  # resume though sources have other records, with a warning
    c.data.workers = 0  # processes that decode; 0: threads of this one
    c.data.threads = 4  # of each worker

    c.mesh = ConfigDict()
    c.mesh.data = -1  # -1: all devices that fsdp leaves
    c.mesh.fsdp = 1

    # An update is skipped where the loss or the gradient is not finite, or where the gradient's
    # norm is more than `spike` times the usual one, the root mean square that Adam remembers (from
    # the 100th update on). After `in_a_row` or `in_all` skipped ones the run stops. Our choice:
    # clipping to optim.clip bounds what a spike does, and norms of ten times that are
    # usual in `make demo`; without clipping 10 to 30 is apt.
    c.guard = ConfigDict()
    c.guard.spike = 1000.0
    c.guard.in_a_row = 10
    c.guard.in_all = 100

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 1000  # steps; 0: not by count. The last step is always saved.
    c.checkpoint.minutes = 0.0  # besides, when so many have passed since the last one; 0: never
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_every = 0
    # Besides, in WORKDIR/best, the state with the best of a score that the run logs, such as
    # "eval/nyu/abs_rel"; "": none.
    c.checkpoint.keep_best = ""

    c.log = ConfigDict()
    c.log.every = 20
    c.log.images = 500  # steps between strips of RGB | label | prediction
    c.log.tensorboard = True
    c.log.wandb = False  # Weights & Biases, extra [wandb]; WANDB_MODE=offline uploads nothing
    c.log.profile = (0, 0)  # first and last step of a JAX profile; equal: none

    c.eval = ConfigDict()
    c.eval.every = 0  # steps; 0: never
    c.eval.data = ()
    c.eval.limit = 0  # images per set; 0: all
    return c
