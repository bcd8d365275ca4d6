"""Faults to put into the live code: what a reader might get wrong, each a few words of source.

A mutation replaces one fragment of one function's source text by another and hangs the result into
its module until the test ends. No file is touched.
"""

import importlib
import inspect
import sys
import textwrap
from typing import Any, NamedTuple

from flax.linen.module import wrap_method_once

PACKAGE = "depth_anything_jax"


class Mutation(NamedTuple):
    where: str  # "module.function" or "module.Class:method"
    old: str  # a fragment that stands there once
    new: str


def apply(mutation: Mutation, monkeypatch) -> None:
    """Hangs the mutated function into its module, and into those that imported it.

    Raises:
      AssertionError: the fragment does not stand there exactly once: the code has changed, and the
        mutation has to follow.
    """
    name, _, function = mutation.where.rpartition(".")
    module = importlib.import_module(f"{PACKAGE}.{name}")
    *holder, function = function.split(":")
    target = getattr(module, holder[0]) if holder else module
    present = getattr(target, function)
    monkeypatch.setattr(target, function, present)  # noted now: a decorator may set it below
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(present)))
    count = source.count(mutation.old)
    assert count == 1, f"{mutation.where} holds {mutation.old!r} {count} times, not once: renew it"
    made: dict[str, Any] = {}
    code = compile(source.replace(mutation.old, mutation.new), mutation.where, "exec")
    exec(code, vars(module), made)
    (new,) = made.values()
    if inspect.isclass(target):
        new = wrap_method_once(new)
    monkeypatch.setattr(target, function, new)
    if not holder:
        _replace_imported(present, new, monkeypatch)


def _replace_imported(old: Any, new: Any, monkeypatch) -> None:
    """Replaces a function where another module, or a table of one, holds it under its own name."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in (PACKAGE, "tests"):
            continue
        for key, value in list(vars(module).items()):
            if value is old:
                monkeypatch.setattr(module, key, new)
            elif type(value) is dict and not key.startswith("__"):
                for k in [k for k, v in value.items() if v is old]:
                    monkeypatch.setitem(value, k, new)


TWIN = {
    # --- CutMix and normalisation
    "CutMix labels by the inverted mask": Mutation(
        "training.step.unlabelled_inputs",
        '"label": mixed(label)',
        '"label": perturb.mix(label, perturb.partner(label), ~mask)',
    ),
    "partner's label not swapped": Mutation(
        "training.step.unlabelled_inputs", '"label": mixed(label)', '"label": label'
    ),
    "partner's valid pixels not swapped": Mutation(
        "training.step.unlabelled_inputs", '"valid": mixed(valid)', '"valid": valid'
    ),
    "partner's pixels undistorted": Mutation(
        "training.step.unlabelled_inputs",
        "perturb.normalise(mixed(strong), encoder)",
        "perturb.normalise(perturb.mix(strong, perturb.partner(clean), mask), encoder)",
    ),
    "the other neighbour's label": Mutation(
        "training.step.unlabelled_inputs",
        '"label": mixed(label)',
        '"label": perturb.mix(label, perturb.partner(label, -1), mask)',
    ),
    "whole-image normalisation": Mutation(
        "losses.relative.affine_invariant_by_region",
        "pred, label, valid, mask, *how",
        "pred, label, valid, None, *how[:-1], None",
    ),
    "image not normalised": Mutation(
        "training.step.unlabelled_inputs",
        "perturb.normalise(mixed(strong), encoder)",
        "mixed(strong)",
    ),
    # --- the loss of a map
    "prediction's scale detached": Mutation(
        "losses.relative._map_loss",
        "jnp.where(flat, MIN_DEVIATION, deviation)",
        "lax.stop_gradient(jnp.where(flat, MIN_DEVIATION, deviation))",
    ),
    "prediction's median detached": Mutation(
        "losses.relative._map_loss",
        "p = (pred - _spread(median, mask))",
        "p = (pred - _spread(lax.stop_gradient(median), mask))",
    ),
    "upper median": Mutation(
        "losses.relative._statistics",
        "masked_median(x[:, None], regions, 2)",
        "-masked_median(-x[:, None], regions, 2)",
    ),
    "trimming before normalisation": Mutation(
        "losses.relative._map_loss",
        "    used = jnp.any(regions, axis=1)\n",
        "    used = jnp.any(regions, axis=1)\n"
        "    away = jnp.where(used, _absolute(raw - label), 0)\n"
        "    number = jnp.sum(used, axis=PIXELS, dtype=jnp.int32)\n"
        "    most = kth_smallest(away, used, number - _share(number, trim))\n"
        "    regions, trim = regions & (away <= most[:, None, None])[:, None], 0.0\n"
        "    used = jnp.any(regions, axis=1)\n",
    ),
    "no trimming": Mutation("losses.relative._reduce", "    if trim:", "    if False:"),
    "the threshold itself trimmed": Mutation(
        "losses.relative._reduce", "ranked > _spread", "ranked >= _spread"
    ),
    "trimmed region by region": Mutation(
        "losses.relative._reduce", 'if trim_per == "sample":', 'if trim_per == "never":'
    ),
    "regions not weighted by their share": Mutation(
        "losses.relative._reduce",
        "weight * total / jnp.maximum(stay, 1)",
        "total / jnp.maximum(stay, 1)",
    ),
    "mean over pixels, not over maps": Mutation(
        "losses.relative._reduce",
        "weight * total / jnp.maximum(stay, 1)",
        "weight * total * len(total) / jnp.sum(stay)",
    ),
    "a map of eight pixels counts": Mutation("losses.relative._decide", "n < min_valid", "n < 1"),
    "labelled images trimmed too": Mutation(
        "training.step.losses_of",
        "            min_valid=loss.min_valid,\n            gradient_weight=loss.gradient_weight,\n"
        '            statistics=x.get("statistics"),\n        )\n    if',
        "            min_valid=loss.min_valid, trim=loss.trim,\n        )\n    if",
    ),
    # --- sky
    "sky and invalid swapped": Mutation(
        "losses.relative.prepare_label",
        "sky = sky & ~valid",
        "valid, sky = valid & ~sky, ~valid & ~sky",
    ),
    "sky before scaling everywhere": Mutation(
        "losses.relative.prepare_label", "sky & shift_known[:, None, None]", "sky"
    ),
    "sky left out": Mutation("losses.relative.prepare_label", ", valid | sky", ", valid | far"),
    # --- features
    "margin reversed": Mutation(
        "losses.relative.cosines",
        "~(lax.stop_gradient(cosine) > margin)",
        "lax.stop_gradient(cosine) > margin",
    ),
    "dropped tokens stay in the denominator": Mutation(
        "losses.relative.feature_alignment", "jnp.maximum(active, 1)", "cosine.shape[1]"
    ),
    "frozen encoder sees the clean image": Mutation(
        "training.step.unlabelled_inputs", 'config.loss.feat_input == "clean"', "True"
    ),
    "frozen encoder follows the student": Mutation(
        "training.step.outputs_of",
        'networks.frozen_encoder.apply({"params": frozen["encoder"]}',
        'networks.frozen_encoder.apply({"params": params["encoder"]}',
    ),
    # --- colour
    "jitter in one order": Mutation(
        "training.perturb._jitter",
        "order = factors.order",
        "order = jnp.sort(factors.order, axis=1)",
    ),
    "labelled images distorted": Mutation(
        "training.step.labelled_inputs",
        'perturb.normalise(batch["image"], encoder)',
        'perturb.normalise(perturb._grey(batch["image"]) + 0 * batch["image"], encoder)',
    ),
    # --- the step
    "losses added, not averaged": Mutation(
        "training.step.make_train_step", "weights[k] * mean for", "mean for"
    ),
    "average of the parameters the wrong way": Mutation(
        "training.step.make_train_step", "1 - config.ema_decay", "config.ema_decay"
    ),
    "average of the old parameters": Mutation(
        "training.step.make_train_step",
        "optax.incremental_update(params, ema",
        "optax.incremental_update(state.params, ema",
    ),
    # --- the optimiser
    "learning-rate groups swapped": Mutation(
        "training.optim.make",
        'config[f"{g}_lr"]',
        'config[{"encoder": "decoder_lr", "decoder": "encoder_lr"}[g]]',
    ),
    "decay on biases": Mutation("training.optim.make", 'path.endswith("/kernel")', "True"),
    "no decay": Mutation("training.optim.make", "(config.weight_decay)", "(0.0)"),
    "decay not multiplied by the rate": Mutation(
        "training.optim.make",
        "        _scale_by_tree(rates),\n",
        "        _scale_by_tree(rates),\n"
        "        optax.masked(optax.add_decayed_weights(config.weight_decay), decay),\n",
    ),
    "decay inside Adam": Mutation(
        "training.optim.make",
        "        adam,\n"
        "        optax.masked(optax.add_decayed_weights(config.weight_decay), decay),\n",
        "        optax.masked(optax.add_decayed_weights(config.weight_decay), decay),\n"
        "        adam,\n",
    ),
    "clip per group": Mutation(
        "training.optim.make",
        "optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()",
        "*(optax.masked(optax.clip_by_global_norm(config.clip),"
        " jax.tree.map(lambda x, g=g: x == g, groups(params))) for g in GROUPS)",
    ),
    "clip by value": Mutation(
        "training.optim.make",
        "optax.clip_by_global_norm(config.clip) if",
        "optax.clip(config.clip) if",
    ),
    "no clip": Mutation("training.optim.make", "if config.clip else", "if False else"),
    "moments swapped": Mutation(
        "training.optim.make",
        "(config.b1, config.b2, config.eps)",
        "(config.b2, config.b1, config.eps)",
    ),
    "warm-up late by one": Mutation(
        "training.optim.schedule", "1.0, (i + 1) / warmup", "1.0, i / warmup"
    ),
    "rate ends late by one": Mutation(
        "training.optim.schedule", "(total_steps - 1 - i)", "(total_steps - i)"
    ),
}

BLUR = {  # at 28 pixels its sigma is at most a tenth of one: nothing
    "blur before jitter": Mutation(
        "training.perturb.apply_colour",
        "    images = _jitter(images, factors)\n",
        "    scale = min(images.shape[1:3]) / BLUR_SIZE\n"
        "    sigma = factors.sigma.astype(images.dtype) * scale\n"
        "    images = _blur(images, factors.blur, sigma, max_sigma * scale)\n"
        "    factors = factors._replace(blur=factors.blur & False)\n"
        "    images = _jitter(images, factors)\n",
    ),
    "blur not scaled with the crop": Mutation(
        "training.perturb.apply_colour", "min(images.shape[1:3]) / BLUR_SIZE", "1.0"
    ),
}

V2 = {
    "no gradient term": Mutation("losses.relative._map_loss", "if gradient_weight:", "if False:"),
    "gradient term unweighted": Mutation(
        "losses.relative._map_loss", "gradient_weight * matching", "matching"
    ),
    "gradient pairs across the box": Mutation(
        "losses.relative._gradient_term", " & (m[:, :, 1:] == m[:, :, :-1])", ""
    ),
    "three scales": Mutation(
        "losses.relative._gradient_term", "range(GRADIENT_SCALES)", "range(3)"
    ),
    "gradient term over each scale's pairs": Mutation(
        "losses.relative._gradient_term",
        "jnp.sum(v, axis=(1, 2), dtype=jnp.int32)",
        "jnp.sum(right, axis=(1, 2), dtype=jnp.int32)",
    ),
}

ONLINE = {
    "teacher sees the distorted image": Mutation(
        "training.step.step_inputs",
        'label_online(networks.teacher, frozen["teacher"], seen, config.accumulation)',
        'label_online(networks.teacher, frozen["teacher"], seen | {"image": perturb.colour('
        "jax.vmap(jax.random.split, out_axes=1)(perturb.example_keys(config.seed, step, "
        'len(seen["image"])))[0], seen["image"])}, config.accumulation)'
        ' | {"image": seen["image"]}',
    ),
    "teacher labels rows out of order": Mutation("training.step.unsplit", "x.swapaxes(0, 1)", "x"),
}

ACCUMULATED = {
    "mean of means under accumulation": Mutation(
        "training.step.make_train_step",
        "out.sum / jnp.maximum(counts[k], 1)",
        "out.sum / jnp.maximum(out.count, 1) / accumulation",
    ),
    "only the last microbatch": Mutation(
        "training.step.make_train_step",
        "(jax.tree.map(jnp.add, carry, forward_and_backward(x)), None)",
        "(jax.tree.map(lambda _, new: new, carry, forward_and_backward(x)), None)",
    ),
}

MODEL = {
    "features from before the final norm": Mutation(
        "models.vit.ViT:__call__",
        "tokens=normed[self.depth - 1]",
        "tokens=tapped[self.depth - 1]",
    ),
    "features of the last block but one": Mutation(
        "models.vit.ViT:__call__",
        "tokens=normed[self.depth - 1]",
        "tokens=normed[[self.depth - 1, self.depth - 1, *self.taps][-2]]",
    ),
}

# Seen by a test of their own: {name: (mutation, "test module.function", its arguments)}.
NAMED = {
    "label shifted by one pixel": (
        Mutation(
            "data.transforms.apply_geometry",
            "window(nearest(values, geometry.height, geometry.width))",
            "window(np.roll(nearest(values, geometry.height, geometry.width), 1, 1))",
        ),
        "data.test_transforms.test_image_and_label_share_crop_and_flip",
        {},
    ),
    "label not flipped with its image": (
        Mutation(
            "data.transforms.apply_geometry",
            "window(nearest(values, geometry.height, geometry.width))",
            "nearest(values, geometry.height, geometry.width)[rows, columns].copy()",
        ),
        "data.test_transforms.test_image_and_label_share_crop_and_flip",
        {},
    ),
    "sky and valid swapped in the crop": (
        Mutation(
            "data.transforms.apply_geometry",
            "nearest(values,",
            "nearest(record[{'sky': 'valid', 'valid': 'sky'}.get(field, field)],",
        ),
        "data.test_transforms.test_image_and_label_share_crop_and_flip",
        {},
    ),
    "sky and invalid swapped in the label": (
        TWIN["sky and invalid swapped"],
        "losses.test_relative.test_labels_equal_the_formulas",
        {"x64": None, "use_sky": True},
    ),
    "1:2 turned round": (
        Mutation(
            "training.config_checks.batch_sizes",
            '{"labelled": part * ratio[0], "unlabelled": part * ratio[1]}',
            '{"labelled": part * ratio[1], "unlabelled": part * ratio[0]}',
        ),
        "training.test_config_checks.test_student_labels_must_pair_with_sources",
        {},
    ),
    "whole gradient to every tie at the median": (
        Mutation(
            "losses.order_statistics.masked_median:jvp", "share / jnp.maximum(ties, 1)", "share"
        ),
        "losses.test_relative.test_affine_invariant_equals_the_formulas_on_hostile_maps",
        {"x64": None, "config": "paper"},
    ),
    "a flat prediction skipped": (
        Mutation(
            "losses.relative._map_loss",
            "jnp.where(used, p - d, 0)",
            "jnp.where(used & (_spread(flat + 0.0, mask) == 0), p - d, 0)",
        ),
        "losses.test_relative.test_loss_by_region_equals_the_formulas_on_hostile_maps",
        {"x64": None, "config": "paper"},
    ),
    "no clamp of the prediction's scale": (
        Mutation(
            "losses.relative._map_loss", "jnp.where(flat, MIN_DEVIATION, deviation)", "deviation"
        ),
        "losses.test_relative.test_loss_by_region_equals_the_formulas_on_hostile_maps",
        {"x64": None, "config": "paper"},
    ),
    # The twin cannot: at the one pixel of the median it cancels, and other zeros are rare.
    "one-sided |x| at 0": (
        Mutation(
            "losses.relative._absolute",
            "x * lax.stop_gradient(jnp.sign(x))",
            "jnp.where(x >= 0, x, -x)",
        ),
        "losses.test_relative.test_loss_by_region_equals_the_formulas_on_hostile_maps",
        {"x64": None, "config": "default and gradient term"},
    ),
}
