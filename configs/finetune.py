"""Fine-tune released weights: repair one missing tensor, or adapt to a folder of one's own.

    python -m depth_anything_jax.train --config=configs/finetune.py:repair \\
        --config.init_from=weights.safetensors \\
        --config.data.labelled="('rgbd:pairs/manifest.json',)"
    python -m depth_anything_jax.train --config=configs/finetune.py:folder \\
        --config.init_from=depth-anything/Depth-Anything-V2-Small-hf \\
        --config.data.labelled="('rgbd:pairs/manifest.json',)"

`repair` freezes everything but decoder/resize_layers_3/kernel, fills it with zeros and trains it
alone with Adam at 1e-3 (crops of 364 pixels, batch 1). `folder` trains encoder and decoder with the
paper's rates at 518 pixels, on relative depth; the pairs are described in docs/data.md.

Hardware: `repair` two CPU cores; `folder` one accelerator (the memory it needs is printed before
    the first step; --config.accumulation=8 computes one image at a time).
Time: `repair` about 4 minutes (.4 s a step, measured; a second beside other work). `folder`: 5000
    steps of 8 crops, not measured; the console's ETA tells after two steps.
Result: `repair`, measured on 84 pairs: AbsRel .309 -> .107 on NYU frames of other scenes
    (docs/real.md). `folder`: not measured, it depends on the pairs. Hold scenes out and score
    them before and after with `python -m depth_anything_jax.evaluate`.
"""

import pathlib
import runpy

COMMON = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))


def get_config(arg: str = "folder"):
    """`arg`: repair or folder (default)."""
    c = COMMON["get_config"]()
    c.labelled_ratio, c.unlabelled_ratio = 1, 0
    c.loss.weights = (1.0, 0.0, 0.0)
    c.model.variant, c.model.version = "vits", "v2"
    c.init_parts = "params"
    if arg == "repair":
        c.workdir = "runs/repair"
        c.allow_missing = r"depth_head\.resize_layers\.3\.weight"
        # What random weights add outside the span of a few pairs, no gradient ever takes away.
        c.fill_missing = "zeros"
        c.optim.freeze = (r"(?!decoder/resize_layers_3/kernel).*",)
        c.optim.decoder_lr = 1e-3
        c.optim.weight_decay = 0.0
        c.optim.clip = 0.0
        c.optim.warmup = 10
        c.input_size = 364
        c.batch_size = 1
        c.total_steps = 500
        c.checkpoint.every = 100
        c.log.images = 100
    elif arg == "folder":
        c.workdir = "runs/finetune"
        c.batch_size = 8
        c.total_steps = 5000
        c.optim.warmup = 100
    else:
        raise ValueError(f"finetune.py:{arg}: choose repair or folder")
    return c
