"""Loads weights from torch and safetensors files, the Hugging Face Hub and Orbax checkpoints.

`load` returns parameters and their description, `load_pretrained` a model that is ready to run.
Tensors are compared with the model's, and one error lists every missing, superfluous or mis-shaped
one: by the file's own names, or by the paths of an Orbax checkpoint.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from depth_anything_jax.checkpoints import convert, licences, readers, weight_metadata
from depth_anything_jax.checkpoints.bundle import ModelBundle, Weights, bundle_of
from depth_anything_jax.models import depth_anything
from depth_anything_jax.parallel.device_programs import DeviceProgram, data_mesh, device_program
from depth_anything_jax.utils.choices import one_of

FILLS = ("init", "zeros")


def load(
    source: str,
    *,
    version: str | None = None,
    variant: str | None = None,
    max_depth: float | None = None,
    parts: str | None = None,
    allow_missing: str | None = None,
    fill: str = "init",
) -> Weights:
    """Loads the weights of a file, a folder, a Hub repository, or the package.

    Args:
      source: .safetensors, .pth, .ckpt or .bin file; folder of transformers' or an Orbax
        checkpoint (of a run or of `tools/import_torch.py`); what a run's --mirror wrote, the folder
        or one file; "owner/name" on the Hugging Face Hub; "demo-encoder".
      version: "v1" or "v2", where neither config.json nor metadata nor a known name states it.
      variant: size, where the shapes do not determine it.
      max_depth: metres; a head of unknown kind is then metric.
      parts: "encoder" reads the encoder only; "all" requires a decoder; None: whatever the source
        has.
      allow_missing: regex; missing tensors with a match in their name (as the error lists it) are
        filled, which is logged and noted in the metadata.
      fill: "init" (the model's initialiser, seed 0) or "zeros".

    Raises:
      FileNotFoundError: nothing there, or no network; the message says what to put where.
      ImportError: a torch file, and torch is not installed.
      convert.TensorMismatch: lists every missing, superfluous and mis-shaped tensor.
      ValueError: a property of the weights is unknown, an argument contradicts them, or a file is
        damaged; the message names it.
    """
    one_of("fill", fill, FILLS)
    one_of("parts", parts, (None, "all", "encoder"))
    one_of("version", version, (None, *depth_anything.VERSIONS))
    one_of("variant", variant, (None, *depth_anything.VARIANTS))
    if max_depth is not None:
        weight_metadata.check({"max_depth": max_depth}, source)
    found = readers.find(source)
    state = found.state
    layout = found.layout or convert.detect_layout(state, source)
    if parts is None:
        held = {convert.part_of(name, layout) for name in state}
        parts = "all" if "decoder" in held else "encoder"
    if parts == "encoder":
        state = {n: x for n, x in state.items() if convert.part_of(n, layout) == "encoder"}
    elif "decoder" not in layout.prefixes:
        raise ValueError(f"{source} holds an encoder alone; ask for parts='encoder'")

    authoritative = weight_metadata.authoritative(found.hints)
    variant = variant or weight_metadata.first(authoritative, "variant")
    variant = variant or _infer_variant(source, state)
    one_of(f"{source}: variant", variant, tuple(depth_anything.VARIANTS))
    centres = None if parts == "encoder" else convert.bin_centres(state)
    if layout.name == "zoedepth":
        hint = {"origin": "ZoeDepth's layout", "authoritative": False, "version": "v1"}
        found.hints.append(hint)  # only V1's code writes it
    facts = weight_metadata.facts(source, found.hints, variant, version, max_depth, parts, centres)
    focal = weight_metadata.first(authoritative, "focal")
    filled = _fill(source, state, layout, variant, parts, allow_missing, fill, centres)
    _refuse_other_numbers(source, state)
    params = jax.tree.map(_at_least_float32, convert.to_tree(state, layout, source=source))

    chain = _chain(found)
    metadata = {**found.metadata, "layout": layout.name, "licence_chain": chain}
    if filled:
        metadata["filled"] = {"by": fill, "tensors": filled}
    licence = licences.combined(chain)
    licences.show(licence, source)
    known = None if licence == licences.UNKNOWN else licence
    return Weights(
        params=params,
        variant=variant,
        licence=known,
        source=source,
        parts=parts,
        metadata=metadata,
        focal=focal if facts["head"] != "relative" else None,
        bin_centres=centres,
        **facts,
    )


def load_pretrained(
    source: str,
    *,
    version: str | None = None,
    variant: str | None = None,
    max_depth: float | None = None,
    allow_missing: str | None = None,
    fill: str = "init",
    dtype: Any = jnp.float32,
    **build_kwargs: Any,
) -> ModelBundle:
    """Loads a model and its parameters: `model, params = load_pretrained(source)`, and then
    `model.apply({"params": params}, images)` predicts depth.

    Args:
      source, version, variant, max_depth, allow_missing, fill: as for `load`.
      dtype: compute dtype; the parameters stay float32.
      **build_kwargs: of `models.depth_anything.build`: scan, remat, attention.

    Returns:
      The bundle, which also has the input transform (`bundle.input(photo)`), the kind of output,
      licence and metadata. The parameters are on jax's first device.

    Raises:
      ValueError: the source holds an encoder alone.
      Exception: all that `load` raises.
    """
    found = load(
        source,
        version=version,
        variant=variant,
        max_depth=max_depth,
        allow_missing=allow_missing,
        fill=fill,
    )
    bundle = bundle_of(found, dtype=dtype, **build_kwargs)
    return dataclasses.replace(bundle, params=jax.tree.map(jnp.asarray, bundle.params))


def expected_tensors(
    variant: str,
    layout: convert.Layout | str,
    parts: str = "all",
    bin_centres: str | None = None,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns {name: shape and dtype} of all parameters of a size, named as in a layout."""
    name = layout if isinstance(layout, str) else layout.name
    return dict(_expected(depth_anything.VARIANTS[variant], name, parts, bin_centres))


@functools.cache
def _expected(
    size: depth_anything.Variant, layout: str, parts: str, bin_centres: str | None
) -> dict[str, Any]:
    def initial(key: Any) -> dict[str, Any]:
        return _initial(key, size, layout, parts, bin_centres)

    return jax.eval_shape(initial, jax.random.key(0))


def _initial(
    key: Any, size: depth_anything.Variant, layout: str, parts: str, bin_centres: str | None
) -> dict[str, Any]:
    """Initialises parameters, named as in a layout."""
    images = jnp.zeros((1, size.image_size, size.image_size, 3))
    if parts == "encoder":
        encoder = depth_anything.build_encoder(size, attention="einsum")
        params = {"encoder": encoder.init(key, images)["params"]}
    else:
        bins = bin_centres is not None or layout == "zoedepth"
        model = depth_anything.build(
            size,
            head="bins" if bins else "relative",
            max_depth=10.0 if bins else None,  # no shape depends on it
            bin_centres=bin_centres,
            attention="einsum",  # see init.init_params
        )
        params = model.init(key, images)["params"]
    return convert.to_flat(params, convert.LAYOUTS.get(layout, convert.FLAX))


def _fill(
    source: str,
    state: dict[str, Any],
    layout: convert.Layout,
    variant: str,
    parts: str,
    allow_missing: str | None,
    fill: str,
    bin_centres: str | None,
) -> list[str]:
    """Compares `state` with the model's tensors, fills allowed gaps, and returns their names."""
    expected = expected_tensors(variant, layout, parts, bin_centres)
    shapes = {name: tuple(x.shape) for name, x in expected.items()}
    missing = [name for name in expected if name not in state]
    filled = [n for n in missing if allow_missing and re.search(allow_missing, n)]
    missing = [n for n in missing if n not in filled]
    extra = sorted(name for name in state if name not in expected)
    misshaped = {
        name: (tuple(x.shape), shapes[name])
        for name, x in state.items()
        if name in shapes and tuple(x.shape) != shapes[name]
    }
    if missing or extra or misshaped:
        names = "" if layout == convert.FLAX else f" in the {layout.name} layout"
        advice = f"(compared with {variant!r}{names})"
        if missing:
            advice += "\nto fill missing tensors give allow_missing=REGEX (--allow-missing REGEX)"
        if any("register_tokens" in name for name in extra):
            advice += "\nDINOv2 with registers is another encoder; Depth Anything does not use it"
        raise convert.TensorMismatch(source, missing, extra, misshaped, advice)
    if not filled:
        return filled
    logging.warning("%s: missing, filled by %s: %s", source, fill, ", ".join(filled))

    if fill == "zeros":
        state.update({name: np.zeros(shapes[name], np.float32) for name in filled})
    else:
        mesh = data_mesh(jax.local_devices()[:1])
        program = fill_program(filled, mesh, variant, layout.name, parts, bin_centres)
        state.update(jax.device_get(program(jax.random.key(0))))
    return filled


def _refuse_other_numbers(source: str, state: Mapping[str, Any]) -> None:
    """Weights are finite real numbers; integers are quantised ones without their scales."""
    for name, x in state.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{source}: {name} is {x.dtype}; weights are floating-point numbers, and quantised "
                "ones are not read: save them as float16 or float32"
            )
        bad = x.size - np.count_nonzero(np.isfinite(x))
        if bad:
            raise ValueError(
                f"{source}: {bad} of {x.size} numbers of {name} are NaN or infinite; the file is "
                "damaged, or the training diverged: take an earlier checkpoint"
            )


def fill_program(
    names: Sequence[str], mesh, variant: str, layout: str, parts: str, bin_centres: str | None
) -> DeviceProgram:
    """key -> {name: random tensor}: only the tensors of `names` are computed."""

    def initial(key):
        size = depth_anything.VARIANTS[variant]
        tensors = _initial(key, size, layout, parts, bin_centres)
        return {name: tensors[name] for name in names}

    return device_program("weights.fill", initial, mesh)


def _infer_variant(source: str, state: Mapping[str, Any]) -> str:
    """Finds the variant by width and number of blocks."""
    width = next((x.shape[-1] for n, x in state.items() if n.endswith("cls_token")), None)
    depth = convert.depth_of(state)
    sizes = depth_anything.VARIANTS.items()
    fits = [name for name, v in sizes if (v.dim, v.depth) == (width, depth)]
    if len(fits) == 1:
        return fits[0]
    known = ", ".join(f"{name} {v.dim} x {v.depth}" for name, v in sizes)
    raise ValueError(
        f"{source}: width {width} and {depth} blocks are those of {fits or 'no variant'} "
        f"(width x blocks: {known}); pass variant"
    )


def _chain(found: readers.Found) -> list[dict[str, Any]]:
    """Returns the licence chain of the metadata, else one link that combines all known licences."""
    chain = weight_metadata.first(found.hints, "licence_chain")
    if chain:
        return [dict(link) for link in chain]
    said = [hint["licence"] for hint in found.hints if hint.get("licence")]
    return licences.extend([], "weights", found.name, licences.combine(said))


def _at_least_float32(x: np.ndarray) -> np.ndarray:
    return x if x.dtype.itemsize >= 4 else x.astype(np.float32)
