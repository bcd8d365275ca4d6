"""Metric depth: a relative model learns metres from labelled images (V1's and V2's metric_depth).

python -m depth_anything_jax.train --config=configs/metric.py:demo    # rendered scenes
"""

import pathlib
import runpy

COMMON = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))


def get_config(arg: str = "demo"):
    """`arg`: demo."""
    c = COMMON["get_config"]()
    c.labelled_ratio, c.unlabelled_ratio = 1, 0
    c.loss.weights = (1.0, 0.0, 0.0)
    c.model.head = "sigmoid"
    c.optim.schedule, c.optim.warmup, c.optim.clip = "poly", 1, 0.0
    return demo(c)


def demo(c):
    """Rendered scenes of domain A, the tiny encoder, minutes on two CPU cores."""
    c.workdir = "runs/metric_demo"
    c.model.variant, c.model.version = "demo", "v2"
    c.model.scan = False
    c.model.max_depth = 20.0
    c.init_from = "demo-encoder"
    c.input_size = 112
    c.batch_size = 8
    c.total_steps = 1200
    c.optim.encoder_lr, c.optim.decoder_lr, c.optim.warmup = 2e-5, 2e-3, 50
    c.data.labelled = ("scenes:A?count=2000&size=112",)
    c.eval.data = ("scenes:A?count=200&seed=1&size=112",)
    c.eval.every = 400
    c.checkpoint.every = 400
    c.log.images = 400
    return c
