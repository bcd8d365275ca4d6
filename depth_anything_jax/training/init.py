"""Initialises a run: networks, their weights, the train state and the licence chain."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from depth_anything_jax import models
from depth_anything_jax.checkpoints import licences, orbax_io, pretrained
from depth_anything_jax.checkpoints.bundle import ModelBundle, Weights, bundle_of
from depth_anything_jax.data import transforms
from depth_anything_jax.data.pseudo_labels import join
from depth_anything_jax.models.dtypes import compute_dtype
from depth_anything_jax.parallel import sharding
from depth_anything_jax.parallel.device_programs import DeviceProgram, device_program
from depth_anything_jax.training import optim
from depth_anything_jax.training import step as state
from depth_anything_jax.training.step import Networks, TrainState
from depth_anything_jax.utils import map_kinds, param_paths

# Turns features into metres or disparity; init_parts="decoder" takes all but this.
LAST_LAYER = "decoder/output_conv2_2/"


def networks(config, mesh) -> tuple[Networks, dict[str, Any], dict[str, Any]]:
    """Loads the networks: student, frozen parameters on the mesh, and the run's metadata.

    Raises:
      ValueError: networks do not fit each other, or the teacher has no decoder or needs whole
        images.

    Returns:
      (Networks, {"encoder": …, "teacher": …} where present, metadata: the model's description and
      "licence_chain").
    """
    m = config.model
    dtype = compute_dtype(config.dtype, mesh.devices.flat[0])
    student = student_of(config, dtype)
    meta: dict[str, Any] = {
        "variant": m.variant,
        "version": m.version,
        "head": m.head,
        "max_depth": m.max_depth or None,
        "focal": config.camera.focal or None,
        "licence_chain": [],
    }
    if map_kinds.is_metric_head(m.head):  # the input for which its metres are right
        meta["input"] = transforms.training_input(config.input_size, student.spec).as_json()
    frozen: dict[str, Any] = {}
    encoder = teacher = None
    if config.unlabelled_ratio and config.loss.weights[2]:
        loaded = pretrained.load(config.frozen_encoder, parts="encoder")
        encoder = frozen_encoder_of(config, loaded.variant, dtype)
        frozen["encoder"] = loaded.params["encoder"]
        meta["licence_chain"] = _chain(meta, "frozen encoder", loaded)
        student_dim = frozen["encoder"]["cls_token"].shape[-1]
        if student_dim != models.VARIANTS[m.variant].dim:
            raise ValueError(
                f"frozen_encoder={config.frozen_encoder!r} is {loaded.variant} ({student_dim} "
                f"wide), the student {m.variant} ({models.VARIANTS[m.variant].dim} wide): L_feat "
                "compares features of the same size"
            )
        if encoder.spec != student.spec:
            raise ValueError(
                f"frozen_encoder={config.frozen_encoder!r} is a {encoder.spec.name}, the student's "
                f"encoder a {student.spec.name}: L_feat compares tokens of the same patches"
            )
    if config.unlabelled_ratio and config.teacher == "online":
        loaded = pretrained.load(
            config.teacher_from,
            allow_missing=config.allow_missing or None,
            fill=config.fill_missing,
        )
        if not loaded.input.is_official:
            raise ValueError(
                f"teacher_from={config.teacher_from!r} sees whole images, as "
                f"{loaded.input.as_json()}, and no crops: label with pseudo_label first and use "
                "teacher='records'"
            )
        teacher = bundle_of(loaded, **forward_only(config, dtype)).network
        frozen["teacher"] = loaded.params
        meta["licence_chain"] = _chain(meta, "teacher", loaded)
    if config.unlabelled_ratio and config.teacher in ("records", "files"):
        stored = [join.licences(path) for path in config.data.labels]
        for path, chain in zip(config.data.labels, stored, strict=True):
            licences.check(chain, f"{path}, its card")
        meta["licence_chain"] = licences.merge(meta["licence_chain"], *stored)
    frozen = jax.tree.map(lambda x, d: x.astype(d), frozen, frozen_dtypes(frozen, dtype))
    shardings = sharding.tree_shardings(frozen, mesh)
    return Networks(student, encoder, teacher), jax.device_put(frozen, shardings), meta


def student_of(config, dtype) -> models.DepthAnythingNet:
    """Builds the network that learns."""
    m = config.model
    return models.build(
        m.variant,
        version=m.version,
        head=m.head,
        max_depth=m.max_depth or None,
        **(forward_only(config, dtype) | {"remat": m.remat}),
    )


def student_bundle(config, network, params, meta: dict[str, Any]) -> ModelBundle:
    """Bundles the student with the parameters and metadata of its run."""
    licence = licences.combined(meta["licence_chain"])
    return ModelBundle(
        **{name: meta[name] for name in ("variant", "version", "head", "max_depth", "focal")},
        network=network,
        params=params,
        dtype=network.encoder.dtype,
        licence=None if licence == licences.UNKNOWN else licence,
        source="",
        parts="all",
        metadata=meta,
        input=transforms.training_input(config.input_size, network.spec),
    )


def frozen_encoder_of(config, variant: str, dtype):
    """Builds the encoder of L_feat, which needs the last block alone."""
    return models.build_encoder(variant, taps=(), **forward_only(config, dtype))


def frozen_dtypes(frozen, dtype) -> Any:
    """Returns the dtypes in which frozen parameters are stored.

    An encoder's kernels are stored in the dtype in which they are multiplied: half the memory, the
    same results. All else is used in float32.
    """
    return param_paths.map_with_path(
        lambda path, x: dtype if re.fullmatch(r"(teacher/)?encoder/.*kernel", path) else x.dtype,
        frozen,
    )


def forward_only(config, dtype) -> dict[str, Any]:
    """Returns the options of networks that never learn."""
    m = config.model
    return dict(dtype=dtype, scan=m.scan, remat="none", attention=m.attention)


def _chain(meta: dict[str, Any], role: str, loaded: Weights) -> list[dict[str, Any]]:
    """Extends the licence chain by the history of a network and by the network in its role."""
    history = loaded.metadata["licence_chain"]
    return licences.merge(
        meta["licence_chain"], licences.used(history, role, loaded.source, loaded.licence)
    )


def continued(old: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """Returns the metadata of a resumed run: the checkpoint's licences first, then new ones."""
    chain = licences.merge(old.get("licence_chain", []), meta["licence_chain"])
    return {**meta, "licence_chain": chain}


def init_params(student, config):
    """Returns a function key -> random parameters of the student (float32)."""
    # The fused attention of TPUs would have to divide the single picture over the mesh.
    plain = models.with_plain_attention(student)

    def init(key):
        size = models.VARIANTS[config.model.variant].image_size
        return plain.init(key, jnp.zeros((1, size, size, 3)))["params"]

    return init


class Plan(NamedTuple):
    """The shapes and layout of a run's state.

    Attributes:
      new_state: key -> TrainState with random parameters.
      params: shapes of the parameters.
      tx: the optimiser.
      abstract: shapes of the state with shardings.
      layout: the shardings alone.
    """

    new_state: Any
    params: Any
    tx: Any
    abstract: TrainState
    layout: Any


def plan(student, config, mesh) -> Plan:
    """Plans the shapes and shardings of the state, without arrays."""
    new_params = init_params(student, config)
    params = jax.eval_shape(new_params, jax.random.key(0))
    tx = optim.make(config.optim, params, config.total_steps)

    def new_state(key):
        return state.new_state(new_params(key), tx, ema=config.ema_decay > 0)

    abstract = jax.eval_shape(new_state, jax.random.key(0))
    layout = sharding.tree_shardings(abstract, mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, layout
    )
    return Plan(new_state, params, tx, abstract, layout)


def init_program(new_state, mesh, layout) -> DeviceProgram:
    """Makes the program key -> state."""
    return device_program("train.init", new_state, mesh, out_shardings=layout)


def compile_unoptimised(new_state, mesh, layout):
    """Compiles key -> state over the mesh without optimisation, because it runs once.

    XLA's CPU compiler takes four times longer for its fifty random draws at the default level than
    at 0.
    """
    program = init_program(new_state, mesh, layout)
    cpu = mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if cpu else None
    return program.lower(jax.random.key(0)).compile(compiler_options=options)


def load_initial(
    config, first: TrainState, abstract: TrainState, meta: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    """Puts init_from's weights into the state and their licence into the metadata.

    Raises:
      ValueError: weights of another size or head, or parts that the source does not have.
    """
    source, parts = config.init_from, config.init_parts
    if not source:
        logging.warning(
            "init_from is empty: the encoder starts from random weights, for which "
            "optim.encoder_lr=%g is too low (use optim.decoder_lr=%g or more)",
            config.optim.encoder_lr,
            config.optim.decoder_lr,
        )
        return first, meta
    if parts == "all":
        step = orbax_io.find(source)
        if step is None:
            raise ValueError(
                f"init_parts='all' needs an Orbax folder; init_from={source!r} is none"
            )
        checkpoints = orbax_io.Checkpoints(step.parent)
        old = checkpoints.meta(int(step.name))
        _check_head(
            config, old.get("head", config.model.head), old.get("max_depth"), old.get("focal")
        )
        if differs := _other_version(config, old.get("version")):
            raise ValueError(differs)
        meta = continued(old, meta)
        chain = meta["licence_chain"]
        licence = licences.combined(old.get("licence_chain", []))
        meta["licence_chain"] = licences.extend(chain, "initial weights", source, licence)
        restored = checkpoints.restore(abstract, int(step.name))
        checkpoints.close()
        return restored, meta
    # An encoder does not depend on the tapped blocks; a decoder does.
    loaded = pretrained.load(
        source,
        version=None if parts == "encoder" else config.model.version,
        parts="encoder" if parts == "encoder" else "all",
        allow_missing=config.allow_missing or None,
        fill=config.fill_missing,
    )
    if differs := _other_version(config, loaded.version):
        logging.warning("%s", differs)
    if parts == "params":
        _check_head(config, loaded.head, loaded.max_depth, loaded.focal)
    if parts == "relative" and loaded.head != "relative":
        raise ValueError(
            f"init_from={source!r} has a {loaded.head} head, and init_parts='relative' asks for a "
            "relative network; choose one, or init_parts='encoder'"
        )
    chosen = param_paths.leaves_by_path(loaded.params)
    if parts == "decoder":
        chosen = {p: x for p, x in chosen.items() if not p.startswith((LAST_LAYER, "bins/"))}
    leaves = param_paths.leaves_by_path(first.params)
    have, want = ({p: x.shape for p, x in tree.items()} for tree in (chosen, leaves))
    wrong = [f"  {p} {have[p]} (here {want.get(p)})" for p in have if want.get(p) != have[p]]
    if wrong:
        raise ValueError(
            f"init_from={source!r} ({loaded.variant}) does not fit model.variant="
            f"{config.model.variant!r} in {len(wrong)} tensors; choose weights of that size, or "
            "set model.variant:\n" + "\n".join(wrong)
        )
    params = param_paths.map_with_path(
        lambda path, old: (
            jax.device_put(chosen[path].astype(old.dtype), old.sharding) if path in chosen else old
        ),
        first.params,
    )
    ema = None if first.ema is None else jax.tree.map(jnp.copy, params)
    meta = {**meta, "licence_chain": _chain(meta, "initial weights", loaded)}
    # The moments are zero for any parameters.
    return TrainState(first.step, params, first.opt_state, ema), meta


def _other_version(config, version: str | None) -> str:
    """What to change where weights of one version start a network of the other; else ""."""
    ours = config.model.version
    if version in (None, ours):
        return ""
    v1, v2 = (models.VARIANTS[config.model.variant].taps(v) for v in ("v1", "v2"))
    return (
        f"init_from={config.init_from!r} holds weights of a {version} network, and model.version="
        f"{ours!r} feeds the decoder from other blocks of the encoder (v1 {v1}, v2 {v2}): set "
        f"--config.model.version={version}, unless {ours} is meant"
    )


def _check_head(config, head: str, max_depth: float | None, focal: float | None) -> None:
    """Refuses a decoder of another head or range: same tensors, but another meaning."""
    if head != config.model.head:
        raise ValueError(
            f"init_from={config.init_from!r} has a {head} head, model.head={config.model.head!r}: "
            "its decoder would start with another meaning; take its encoder alone "
            "(init_parts='encoder'), or weights with the same head"
        )
    for field, theirs, ours in (
        ("model.max_depth", max_depth, config.model.max_depth),
        ("camera.focal", focal, config.camera.focal),
    ):
        if head != "relative" and (theirs or 0) != ours:
            other = (
                "start from a relative model (init_parts='relative')"
                if head == "bins"
                else "take all but the last layer (init_parts='decoder')"
            )
            raise ValueError(
                f"init_from={config.init_from!r} was trained with {field}={theirs}, and here it is "
                f"{ours}: the same output would mean other metres; set {field}={theirs or 0}, or "
                f"{other}"
            )
