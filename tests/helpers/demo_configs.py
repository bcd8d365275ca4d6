"""configs/student.py:demo, shortened."""

import runpy

from depth_anything_jax import configs


def small_student(**fields):
    """Ten steps at 28 pixels."""
    c = runpy.run_path(str(configs.folder() / "student.py"))["get_config"]("demo")
    c.update_from_flattened_dict({"input_size": 28, "total_steps": 10, "optim.warmup": 2, **fields})
    return c


def careful_student(**fields):
    """Adam's first update is rate * sign(gradient), and where the true gradient is zero (a key's
    bias) the sign is rounding noise: small rates keep it out of later losses."""
    rates = {"optim.encoder_lr": 1e-6, "optim.decoder_lr": 1e-5}
    return small_student(**{"batch_size": 24, **rates, **fields})
