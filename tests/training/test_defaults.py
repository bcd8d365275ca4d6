"""Defaults that the papers leave open, as the project's specification states them."""

import inspect
import runpy

import pytest

from depth_anything_jax import configs
from depth_anything_jax.losses import relative
from depth_anything_jax.training import optim, perturb

THIRD = 1 / 3
COMMON = {
    "batch_size": 192, "labelled_ratio": 1, "unlabelled_ratio": 2, "accumulation": 1,
    "input_size": 518, "ema_decay": 0.0,
    "optim.encoder_lr": 5e-6, "optim.decoder_lr": 5e-5, "optim.schedule": "linear",
    "optim.warmup": 500, "optim.b1": 0.9, "optim.b2": 0.999, "optim.eps": 1e-8,
    "optim.weight_decay": 0.01, "optim.clip": 1.0, "optim.freeze": (),
    "loss.weights": (THIRD, THIRD, THIRD), "loss.gradient_weight": 0.0, "loss.trim": 0.1,
    "loss.trim_per": "sample", "loss.min_valid": 10, "loss.min_region_scale": 0.0,
    "loss.sky": True, "loss.feat_margin": 0.85, "loss.feat_denominator": "image",
    "loss.feat_input": "student",
    "perturb.distort": True, "perturb.colour.brightness": 0.5, "perturb.colour.contrast": 0.5,
    "perturb.colour.saturation": 0.5, "perturb.colour.hue": 0.25, "perturb.colour.jitter_p": 0.8,
    "perturb.colour.grey_p": 0.2, "perturb.colour.blur_p": 0.5,
    "perturb.colour.blur_sigma": (0.1, 2.0), "perturb.cutmix.p": 0.5,
    "perturb.cutmix.size_min": 0.02, "perturb.cutmix.size_max": 0.4,
    "perturb.cutmix.ratio_min": 0.3, "perturb.cutmix.ratio_max": 1 / 0.3,
}  # fmt: skip
# Of the runs that the papers describe: what they change.
RUNS = {
    ("student", "vits"): {},
    ("student", "vitl,v2"): {
        "labelled_ratio": 0, "unlabelled_ratio": 1, "loss.weights": (0.0, 0.5, 0.5),
        "loss.gradient_weight": 2.0,
    },
    ("teacher", "vitl"): {
        "batch_size": 64, "labelled_ratio": 1, "unlabelled_ratio": 0,
        "loss.weights": (1.0, 0.0, 0.0),
    },
}  # fmt: skip


def value(config, path):
    for name in path.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_the_shipped_runs_have_the_defaults(name, variant):
    c = runpy.run_path(str(configs.folder() / f"{name}.py"))["get_config"](variant)
    expected = COMMON | RUNS[name, variant]
    assert {path: value(c, path) for path in expected} == expected


@pytest.mark.parametrize(
    ("function", "prefix", "renamed"),
    [
        (perturb.draw_colour, "perturb.colour", {}),
        (perturb.draw_boxes, "perturb.cutmix", {}),
        (relative.affine_invariant_by_region, "loss", {}),
        (relative.feature_alignment, "loss", {"margin": "feat_margin",
                                              "denominator": "feat_denominator"}),
        (relative.cosines, "loss", {"margin": "feat_margin"}),
    ],
)  # fmt: skip
def test_functions_have_the_same_defaults(function, prefix, renamed):
    """So that a caller who leaves one out gets what a run gets."""
    compared = 0
    for name, parameter in inspect.signature(function).parameters.items():
        path = f"{prefix}.{renamed.get(name, name)}"
        if parameter.default is not inspect.Parameter.empty and path in COMMON:
            assert parameter.default == COMMON[path], (function.__name__, name)
            compared += 1
    assert compared


def test_constants_that_are_no_fields():
    assert relative.MIN_DEVIATION == 1e-6 and relative.GRADIENT_SCALES == 4
    assert (perturb.BRIGHTNESS, perturb.CONTRAST, perturb.SATURATION, perturb.HUE) == (0, 1, 2, 3)
    assert perturb.BLUR_SIZE == 518 and perturb.BLUR_SIGMA == (0.1, 2.0)
    assert set(optim.UNUSED) == {"encoder/mask_token", "decoder/refinenet4/resConfUnit1/.*"}
