"""Shipped configs of tiny networks, for programs that run whole."""

import runpy

from depth_anything_jax import configs, models

SIZE = 28


TINY = models.Variant(32, 4, 2, 64, 8, (8, 8, 16, 16), (0, 1, 2, 3), grid=2)


SMALL = {
    "input_size": SIZE, "total_steps": 2, "optim.warmup": 1, "model.variant": "tiny",
    "init_from": "", "data.labelled": (f"scenes:A?count=6&size={SIZE}",), "data.workers": 0,
    "checkpoint.every": 2, "log.every": 1, "log.images": 2, "log.tensorboard": False,
    "eval.every": 2, "eval.data": (f"scenes:C?count=2&size={SIZE}",), "eval.limit": 0,
}  # fmt: skip


def shipped(name, variant, **fields):
    c = runpy.run_path(str(configs.folder() / f"{name}.py"))["get_config"](variant)
    c.update_from_flattened_dict({**SMALL, **fields})
    return c
