"""The train state and the training step: section 3 of the paper as one jit-compiled function.

A metric head learns in the same step, from labels alone, by SiLog.

`make_train_step` follows the order of the paper: labels and perturbations of the whole batch, the
number of contributing maps, then forward and backward per microbatch, one update. Losses are
(sum, count); the counts are known from the labels before the backward pass, so
that microbatches and devices add up to exactly the gradient of the whole batch.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from depth_anything_jax.losses import relative, silog
from depth_anything_jax.models.outputs import canonical_ratio, focal_length, is_metric
from depth_anything_jax.models.outputs import disparity as disparity_of
from depth_anything_jax.parallel.device_programs import DeviceProgram, device_program, replicated
from depth_anything_jax.training import camera_perturb, optim, perturb
from depth_anything_jax.utils import map_kinds
from depth_anything_jax.utils.encoders import EncoderSpec


@flax.struct.dataclass
class TrainState:
    """What a checkpoint saves: the next update's number (int32), parameters, optimiser, average.

    The data position is `step` itself: example i of step s is number s * batch_size + i.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any = None


@dataclasses.dataclass(frozen=True)
class Networks:
    """The student and, where the method needs them, the two networks that never learn.

    Attributes:
      student: (b, h, w, 3) normalised images -> depth, and features on request; its `spec`
        describes its encoder, and the frozen one's.
      frozen_encoder: DINOv2 for the feature alignment; its parameters are frozen["encoder"].
      teacher: labels the clean crop inside the step, normalised as its own `spec` says; its
        parameters are frozen["teacher"].
    """

    student: nn.Module
    frozen_encoder: nn.Module | None = None
    teacher: nn.Module | None = None


class Output(NamedTuple):
    """The networks' outputs for one part of a batch.

    Attributes:
      depth: the student's map (b, h, w).
      tokens: its last block's patch tokens after the final LayerNorm (b, n, d).
      frozen_tokens: the frozen encoder's, of unlabelled images; None without that encoder.
    """

    depth: jax.Array
    tokens: jax.Array
    frozen_tokens: jax.Array | None = None


def new_state(params, tx: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """Makes a state at step 0; the average is a copy, because donation forbids shared buffers."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


def make_train_step(networks: Networks, tx: optax.GradientTransformation, config):
    """Returns the update, ready for jit: (state, frozen, batch) -> (state, metrics).

    Args:
      config: fields seed, batch_size, accumulation, ema_decay, model.head, model.max_depth,
        camera.focal, loss.*, perturb.*, teacher, optim.freeze, optim.b2, guard.spike (see
        configs/common.py).

    The batch holds "labelled" and/or "unlabelled", each a dict of arrays over the whole global
    batch: image (b, s, s, 3) float32 in about [0, 1], disparity (b, s, s) (for a metric head
    depth), valid and sky (b, s, s) bool, shift_known (b,) bool; and where camera.focal is set,
    camera (b, 4): fx, fy, cx, cy in pixels of the image. Metrics are float32 scalars, whole-batch
    means.
    """
    loss, accumulation = config.loss, config.accumulation
    weights = dict(zip(("labelled", "unlabelled", "features"), loss.weights, strict=True))

    def step(state: TrainState, frozen, batch):
        # 1. Inputs and labels of the student, on the whole batch.
        inputs = step_inputs(networks, config, state.step, frozen, batch)
        # 2. How many maps contribute, from the labels alone.
        inputs = {part: with_statistics(x, loss) for part, x in inputs.items()}
        counts = {part: _count_maps(x, loss) for part, x in inputs.items()}
        microbatches = split(inputs, accumulation)
        trainable = optim.trainable(state.params, (*optim.UNUSED, *config.optim.freeze))
        if networks.frozen_encoder is not None and "unlabelled" in inputs:
            counts["features"] = _count_features(
                networks, state.params, frozen, microbatches, inputs, loss
            )

        # 3. Forward and backward, a microbatch at a time.
        def forward(params, inputs):
            params = jax.tree.map(
                lambda p, t: p if t else jax.lax.stop_gradient(p), params, trainable
            )
            parts = loss_parts(networks, params, frozen, inputs, loss)
            means = {k: out.sum / jnp.maximum(counts[k], 1) for k, out in parts.items()}
            return sum(weights[k] * mean for k, mean in means.items()), (means, parts)

        def forward_and_backward(inputs):
            (total, aux), grads = jax.value_and_grad(forward, has_aux=True)(state.params, inputs)
            return total, aux, grads

        if accumulation == 1:
            sums = forward_and_backward(_first(microbatches))
        else:
            shapes = jax.eval_shape(forward_and_backward, _first(microbatches))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            sums, _ = jax.lax.scan(
                lambda carry, x: (jax.tree.map(jnp.add, carry, forward_and_backward(x)), None),
                zeros,
                microbatches,
            )
        total, (means, parts), grads = sums

        # 4. One update, or none where the gradient is not finite or a spike.
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - config.ema_decay)
        norms = optim.group_norms(grads, "grad_norm")
        keep, skips = optim.guard(norms, total, state.opt_state, config)
        new = TrainState(state.step, params, opt_state, ema)
        new = jax.tree.map(lambda x, old: jnp.where(keep, x, old), new, state)
        metrics = {"loss/total": total}
        for name, out in parts.items():
            metrics[f"loss/{name}"] = means[name]
            metrics |= {f"{name}/{k}": s / jnp.maximum(n, 1) for k, (s, n) in out.logs.items()}
        metrics |= norms | optim.group_norms(updates, "update_norm") | skips
        return new.replace(step=state.step + 1), metrics

    return step


def step_inputs(networks: Networks, config, step, frozen, batch) -> dict[str, dict[str, Any]]:
    """Prepares inputs and labels of a step for the whole batch, by part."""
    inputs, encoder = {}, networks.student.spec
    if "labelled" in batch and map_kinds.is_metric_head(config.model.head):
        inputs["labelled"] = metric_inputs(batch["labelled"], config, encoder)
    elif "labelled" in batch:
        inputs["labelled"] = labelled_inputs(batch["labelled"], encoder, use_sky=config.loss.sky)
    if "unlabelled" in batch:
        seen = batch["unlabelled"]
        if networks.teacher is not None:
            seen = label_online(networks.teacher, frozen["teacher"], seen, config.accumulation)
        keys = perturb.example_keys(config.seed, step, seen["image"].shape[0])
        inputs["unlabelled"] = unlabelled_inputs(seen, keys, config, encoder)
    return inputs


def labelled_inputs(batch, encoder: EncoderSpec, *, use_sky: bool) -> dict[str, jax.Array]:
    """Prepares labelled images, undistorted as in the paper, and labels scaled to 0-1."""
    label, valid = relative.prepare_label(
        batch["disparity"], batch["valid"], batch["sky"], batch["shift_known"], use_sky=use_sky
    )
    return {"image": perturb.normalise(batch["image"], encoder), "label": label, "valid": valid}


def metric_inputs(batch, config, encoder: EncoderSpec) -> dict[str, jax.Array]:
    """Prepares undistorted images and depth in metres (canonical where camera.focal is set)."""
    ratio = None
    if config.camera.focal:
        focal = focal_length(batch["camera"])
        ratio = canonical_ratio(focal, config.camera.focal)
    depth, valid = silog.depth_label(
        batch["depth"],
        batch["valid"],
        ratio,
        min_depth=config.loss.min_depth,
        max_depth=config.model.max_depth,
    )
    return {"image": perturb.normalise(batch["image"], encoder), "depth": depth, "valid": valid}


def unlabelled_inputs(batch, keys, config, encoder: EncoderSpec) -> dict[str, jax.Array]:
    """Applies the paper's perturbation S and CutMix to images and teacher labels (section 3.2).

    Every image is distorted on its own, then mixed with the one before it in the global batch: the
    partner's pixels and label fill the box (mask True).
    """
    p = config.perturb
    other = dict(p.get("camera", {}))  # configs from before it have none
    if (fov := other.pop("fov", {})) and fov.p:
        batch = camera_perturb.narrow(keys, batch, **fov)
    label, valid = relative.prepare_label(
        batch["disparity"],
        batch["valid"],
        batch["sky"],
        batch["shift_known"],
        use_sky=config.loss.sky,
    )
    colour_keys, box_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    clean = batch["image"]
    strong = perturb.colour(colour_keys, clean, **p.colour) if p.distort else clean
    if any(kind.p for kind in other.values()):
        strong = camera_perturb.camera(keys, strong, **other)
    mask = perturb.cutmix_masks(box_keys, *clean.shape[1:3], **p.cutmix)

    def mixed(x):
        return perturb.mix(x, perturb.partner(x), mask)

    inputs = {
        "image": perturb.normalise(mixed(strong), encoder),
        "label": mixed(label),
        "valid": mixed(valid),
        "mask": mask,
    }
    if config.loss.feat_input == "clean":
        inputs["frozen_image"] = perturb.normalise(mixed(clean), encoder)
    elif config.loss.feat_input == "shuffled":
        # A control: another image, half a batch away, whose partner is another one too.
        inputs["frozen_image"] = jnp.roll(inputs["image"], clean.shape[0] // 2, axis=0)
    return inputs


def label_online(teacher: nn.Module, params, batch, accumulation: int) -> dict[str, Any]:
    """Labels the unlabelled batch with the frozen teacher's disparity of each clean crop."""

    def predict(images):
        return disparity_of(teacher, params, perturb.normalise(images, teacher.spec))

    disparity = unsplit(jax.lax.map(predict, split(batch["image"], accumulation)))
    everywhere = jnp.ones(disparity.shape, bool)
    return {
        **batch,
        "disparity": disparity,
        "valid": everywhere,
        "sky": ~everywhere,
        "shift_known": jnp.full(disparity.shape[0], is_metric(teacher)),
    }


def loss_parts(networks: Networks, params, frozen, inputs, loss) -> dict[str, relative.LossSum]:
    """Computes L_l, L_u and L_feat of one microbatch, by name, as (sum, count)."""
    return losses_of(outputs_of(networks, params, frozen, inputs), inputs, loss)


def losses_of(outputs: dict[str, Output], inputs, loss) -> dict[str, relative.LossSum]:
    """Computes the losses of the networks' outputs for these inputs."""
    parts = {}
    if "labelled" in inputs and "depth" in inputs["labelled"]:
        x = inputs["labelled"]
        parts["labelled"] = silog.silog(
            outputs["labelled"].depth,
            x["depth"],
            x["valid"],
            form=loss.silog,
            pool=loss.silog_pool,
            min_valid=loss.min_valid,
        )
    elif "labelled" in inputs:
        x = inputs["labelled"]
        parts["labelled"] = relative.affine_invariant(
            outputs["labelled"].depth,
            x["label"],
            x["valid"],
            min_valid=loss.min_valid,
            gradient_weight=loss.gradient_weight,
            statistics=x.get("statistics"),
        )
    if "unlabelled" in inputs:
        x = inputs["unlabelled"]
        parts["unlabelled"] = relative.affine_invariant_by_region(
            outputs["unlabelled"].depth,
            x["label"],
            x["valid"],
            x["mask"],
            trim=loss.trim,
            trim_per=loss.trim_per,
            min_valid=loss.min_valid,
            min_region_scale=loss.min_region_scale,
            gradient_weight=loss.gradient_weight,
            statistics=x.get("statistics"),
        )
        if outputs["unlabelled"].frozen_tokens is not None:
            parts["features"] = _alignment(outputs["unlabelled"], loss)
    return parts


def outputs_of(networks: Networks, params, frozen, inputs) -> dict[str, Output]:
    """Runs the networks on one microbatch; the student in one pass over both parts.

    The parts are interleaved in the ratio of their sizes rather than laid end to end, so that
    every device's rows stay on it.
    """
    sizes = {part: x["image"].shape[0] for part, x in inputs.items()}
    units = math.gcd(*sizes.values())

    def grouped(x):
        return x.reshape(units, -1, *x.shape[1:])

    images = jnp.concatenate([grouped(x["image"]) for x in inputs.values()], axis=1)
    depth, features = networks.student.apply(
        {"params": params}, images.reshape(-1, *images.shape[2:]), return_features=True
    )
    ends = np.cumsum([n // units for n in sizes.values()])[:-1]

    def by_part(x):
        pieces = jnp.split(grouped(x), ends, axis=1)
        return {k: v.reshape(-1, *v.shape[2:]) for k, v in zip(sizes, pieces, strict=True)}

    depth, tokens = by_part(depth), by_part(features.tokens)
    given = {part: Output(depth[part], tokens[part]) for part in sizes}
    if networks.frozen_encoder is not None and "unlabelled" in inputs:
        x = inputs["unlabelled"]
        image = x.get("frozen_image", x["image"])
        target = networks.frozen_encoder.apply({"params": frozen["encoder"]}, image).tokens
        target = jax.lax.stop_gradient(target)
        given["unlabelled"] = given["unlabelled"]._replace(frozen_tokens=target)
    return given


def _alignment(output: Output, loss) -> relative.LossSum:
    return relative.feature_alignment(
        output.tokens,
        output.frozen_tokens,
        margin=loss.feat_margin,
        denominator=loss.feat_denominator,
    )


def with_statistics(x, loss) -> dict[str, Any]:
    """Adds the label statistics of the relative losses to one part's inputs."""
    if "depth" in x:
        return x
    statistics = relative.label_statistics(
        x["label"],
        x["valid"],
        x.get("mask"),
        min_valid=loss.min_valid,
        min_region_scale=loss.min_region_scale if "mask" in x else 0.0,
    )
    return {**x, "statistics": statistics}


def _count_maps(x, loss) -> jax.Array:
    """Counts the contributing maps of one part's inputs."""
    if "depth" in x:
        return silog.contributing_maps(x["valid"], pool=loss.silog_pool, min_valid=loss.min_valid)
    return relative.contributing_maps(x["statistics"])


def _count_features(networks, params, frozen, microbatches, inputs, loss):
    """Computes L_feat's count for the whole batch: images, or kept tokens by a forward pass."""
    if loss.feat_denominator == "image":
        return jnp.float32(inputs["unlabelled"]["image"].shape[0])

    def count(x):
        given = outputs_of(networks, params, frozen, {"unlabelled": x})
        return _alignment(given["unlabelled"], loss).count

    return jax.lax.map(count, microbatches["unlabelled"]).sum()


def split(tree, parts: int):
    """Splits (b, …) into microbatches (parts, b / parts, …) without moving rows between devices."""
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree
    )


def unsplit(tree):
    """Reverses `split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def _first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def jit_train_step(step, mesh, state_shardings) -> DeviceProgram:
    """Makes the step a program with the state's layout pinned and its buffers donated."""
    return device_program(
        "train.step", step, mesh, donate=0, out_shardings=(state_shardings, replicated(mesh))
    )
