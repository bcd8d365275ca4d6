"""Converts torch state dicts to Flax parameters and back, by the table in `param_names`.

Tensors are only transposed, so that a round trip is bit-exact.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from depth_anything_jax.checkpoints.param_names import FLAX, LAYOUTS, TABLE, Layout, Row
from depth_anything_jax.models.bins import ATTRACTORS
from depth_anything_jax.utils.encoders import DINOV2
from depth_anything_jax.utils.nested_dicts import flatten, unflatten

# Buffers in ZoeDepth's files: 0 … bins - 1 and bins - 1.
_CONSTANTS = tuple(
    f"conditional_log_binomial.log_binomial_transform.{name}" for name in ("k_idx", "K_minus_1")
)

_WRAPPERS = ("model", "state_dict", "model_state_dict")  # keys of training checkpoints
_MODULES = re.compile(r"(?<![^.])(module|_orig_mod)\.")  # of DistributedDataParallel, torch.compile
_ZOE = (
    "{}: another network. Depth Anything V1's metric models are read in ZoeDepth's own layout "
    "(core.core.*, one domain)"
)
_OTHERS = {  # part of a name: whose it is
    "core.core.pretrained.model.": _ZOE.format(
        "a ZoeDepth checkpoint on MiDaS' BEiT encoder, not on Depth Anything's"
    ),
    "patch_transformer.": _ZOE.format(
        "a ZoeDepth checkpoint for two domains (NK), with a router between two heads"
    ),
    "metric_head.": _ZOE.format(
        "a ZoeDepth checkpoint of transformers, which upsamples the patch grid 16 times and not "
        f"{DINOV2.patch_size} times"
    ),
    "motion_modules.": "a Video-Depth-Anything checkpoint: another network, for frames in time",
    **dict.fromkeys(
        ("backbone.pretrained.", "cam_enc.", "cam_dec.", "da3."),
        "a Depth Anything 3 checkpoint: another network, for any number of views",
    ),
}

# Recent transformers name some modules otherwise in memory than in the files they save.
_IN_MEMORY = (
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.down_proj\.", ".mlp.weights_out."),
)


class TensorMismatch(ValueError):
    """Raised where tensors do not fit the model; the message lists every one.

    Attributes:
      missing, extra: names, in a checkpoint of ours paths.
      misshaped: {name: (shape in the file, expected shape)}.
    """

    def __init__(
        self,
        source: str,
        missing: Iterable[str] = (),
        extra: Iterable[str] = (),
        misshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
        advice: str = "",
    ):
        self.missing, self.extra = list(missing), list(extra)
        self.misshaped = dict(misshaped or {})
        lines = [f"  missing: {name}" for name in self.missing]
        lines += [f"  not part of the model: {name}" for name in self.extra]
        lines += [
            f"  shape of {name}: {have} in the file, {want} in the model"
            for name, (have, want) in self.misshaped.items()
        ]
        count = "1 tensor does" if len(lines) == 1 else f"{len(lines)} tensors do"
        text = f"{source}: {count} not fit\n" + "\n".join(lines)
        super().__init__(text + (f"\n{advice}" if advice else ""))


def canonical(state: Mapping[Any, Any], source: str = "state") -> dict[str, Any]:
    """Renames the tensors of a state dict to the names of the table and removes wrappers.

    Undone: {"model": …}, {"state_dict": …} or {"model_state_dict": …} around it, "module."
    (DistributedDataParallel) and "_orig_mod." (torch.compile) anywhere in names, "model." before
    each (Lightning), in any order; DINOv2's block chunks ("blocks.{chunk}.{block}."), the names
    that recent transformers use in memory, and ZoeDepth's constants (see `constants`).

    Args:
      state: {name: tensor or array}.
      source: its name in errors.

    Raises:
      ValueError: two names become one, a name is not text, or a value is not a tensor.
    """
    while inner := next((state[w] for w in _WRAPPERS if isinstance(state.get(w), Mapping)), None):
        state = inner
    odd = [name for name, x in state.items() if not hasattr(x, "shape")]
    if odd:
        raise ValueError(
            f"{source}: no tensors under {odd[:5]}: give the flat dict of tensors, or a file with "
            "it under 'model' or 'state_dict'"
        )
    unnamed = [name for name in state if not isinstance(name, str)]
    if unnamed:
        raise ValueError(
            f"{source}: tensors are called {unnamed[:5]}, which are not names: save the model's "
            "state_dict()"
        )
    names = {name: _MODULES.sub("", name) for name in state}
    while names and all(name.startswith("model.") for name in names.values()):
        names = {old: name.removeprefix("model.") for old, name in names.items()}
    out: dict[str, Any] = {}
    for name, x in state.items():
        new = names[name]
        if new in _CONSTANTS:
            continue
        new = re.sub(r"(^|\.)blocks\.\d+\.(\d+)\.", r"\1blocks.\2.", new)
        for pattern, replacement in _IN_MEMORY:
            new = re.sub(pattern, replacement, new)
        if new in out:
            raise ValueError(
                f"{source}: two tensors are called {new!r} (one of them {name!r} in the file)"
            )
        out[new] = x
    for gate in [name for name in out if ".mlp.gate_proj." in name]:
        up = gate.replace("gate_proj", "up_proj")
        if up in out:
            pair = [np.asarray(out.pop(gate)), np.asarray(out.pop(up))]
            out[gate.replace("gate_proj", "weights_in")] = np.concatenate(pair)
    return out


def constants(layout: Layout, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the two buffers of ZoeDepth's log-binomial, without which its code refuses a file."""
    if "bins" not in layout.prefixes:
        return {}
    bins = len(state["seed_bin_regressor._net.2.bias"])
    index = np.arange(bins, dtype=np.int64).reshape(1, -1, 1, 1)
    return dict(zip(_CONSTANTS, (index, np.full((1, 1, 1, 1), bins - 1, np.float32)), strict=True))


def bin_centres(state: Mapping[str, Any]) -> str | None:
    """Detects the kind of a bins head's centres, "softplus" or "normed"; None: another head.

    Normed attractors are pairs of numbers, so their last layer has twice the rows.
    """
    names = ("attractors.0._net.2.bias", "bins/attractors_0/net_2/bias")
    last = next((state[name] for name in names if name in state), None)
    if last is None:
        return None
    return "normed" if last.shape[0] == 2 * ATTRACTORS[0] else "softplus"


def detect_layout(names: Iterable[str], source: str = "state") -> Layout:
    """Detects the layout of canonical names.

    Args:
      names: of all tensors.
      source: the file's name in errors.

    Raises:
      ValueError: none of the layouts.
    """
    names = list(names)

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    for part, what in _OTHERS.items():
        if any(f".{part}" in f".{name}" for name in names):
            raise ValueError(f"{source}: this is {what} ({part}*)")
    if has("core.core."):
        return LAYOUTS["zoedepth"]
    if has("pretrained.", "depth_head."):
        return LAYOUTS["official"]
    if has("backbone.", "neck."):
        return LAYOUTS["hf"]
    if has("embeddings.", "encoder.layer."):
        return LAYOUTS["dinov2-hf"]
    if has("cls_token", "pos_embed", "blocks."):
        return LAYOUTS["dinov2"]
    raise ValueError(
        f"{source}: tensor names such as {names[:3]} belong to no known layout: official Depth "
        "Anything (pretrained.*, depth_head.*), ZoeDepth (core.core.*), transformers' (backbone.*, "
        "neck.*, head.*), DINOv2 (cls_token, blocks.*) or transformers' DINOv2 (embeddings.*, "
        "encoder.layer.*)"
    )


def part_of(name: str, layout: Layout) -> str:
    """ "encoder", "decoder" or "bins": the part that a tensor of this layout belongs to."""
    last = list(layout.prefixes)[-1]
    return next((part for part, p in layout.prefixes.items() if name.startswith(p)), last)


def _names(row: Row, layout: Layout, part: str) -> tuple[str, ...]:
    prefix = layout.prefixes[part]
    return tuple(prefix + n for n in ((row.torch,) if layout.family == "torch" else row.hf))


def depth_of(state: Mapping[str, Any]) -> int:
    """Counts the transformer blocks in canonical names, or in stacked parameters."""
    if "encoder/blocks/norm1/scale" in state:
        return len(state["encoder/blocks/norm1/scale"])
    found = (re.search(r"(?:blocks|encoder\.layer)\.(\d+)\.", name) for name in state)
    return max((int(m.group(1)) + 1 for m in found if m), default=0)


def is_swiglu(names: Iterable[str]) -> bool:
    """Whether the blocks have ViT-G's gated feed-forward network."""
    return any(".mlp.w12." in name or ".mlp.weights_in." in name for name in names)


def _rows(part: str, swiglu: bool) -> list[Row]:
    absent = "blocks/mlp/fc" if swiglu else "blocks/mlp/w"
    return [row for row in TABLE[part] if not row.path.startswith(absent)]


def from_torch(
    state: Mapping[str, Any], layout: Layout | None = None, *, source: str = "state"
) -> dict[str, Any]:
    """Converts a torch state dict to Flax parameters.

    Args:
      state: {name: tensor or array}, as the file has it (see `canonical`).
      layout: None: detected from the names.
      source: its name in errors.
    Returns:
      {"encoder": …, "decoder": …, "bins": …} of numpy arrays of the tensors' dtypes, without the
      parts of which the file has no tensor.
    Raises:
      TensorMismatch: lists every missing and every superfluous tensor.
    """
    state = canonical(state, source)
    layout = layout or detect_layout(state, source)
    depth, swiglu = depth_of(state), is_swiglu(state)
    parts = {part_of(name, layout) for name in state}
    left, missing, params = set(state), [], {}
    for part in (part for part in layout.prefixes if part in parts):
        leaves = {}
        for row in _rows(part, swiglu):
            templates = _names(row, layout, part)
            wanted = [[t.format(i) for t in templates] for i in range(depth if row.stacked else 1)]
            flat = [name for group in wanted for name in group]
            left -= set(flat)
            absent = [name for name in flat if name not in state]
            missing += absent
            if not absent:
                blocks = [_to_leaf([state[n] for n in group], row.axes) for group in wanted]
                leaf = np.stack(blocks) if row.stacked else np.ascontiguousarray(blocks[0])
                leaves[row.path] = leaf
        params[part] = unflatten(leaves)
    if missing or left:
        raise TensorMismatch(source, missing, sorted(left))
    return params


def _to_leaf(tensors: list[Any], axes: tuple[int, ...] | None) -> np.ndarray:
    arrays = [np.asarray(t) for t in tensors]
    x = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return x if axes is None else x.transpose(axes)


def to_tree(state: Mapping[str, Any], layout: Layout, *, source: str = "state") -> dict[str, Any]:
    """Nests flat Flax parameters, or converts a torch state dict (`from_torch`)."""
    return unflatten(state) if layout == FLAX else from_torch(state, layout, source=source)


def to_flat(params: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Flattens Flax parameters, named as in a layout."""
    return flatten(params) if layout == FLAX else to_torch(params, layout)


def to_torch(params: Mapping[str, Any], layout: Layout | str) -> dict[str, Any]:
    """Converts Flax parameters to a torch state dict; the inverse of `from_torch`.

    Takes numpy or (traced) JAX arrays; of numpy arrays it returns views. Parts that the layout does
    not have (a decoder in a DINOv2 file) are left out.

    Args:
      params: {"encoder": …} and perhaps "decoder" and "bins".
    Raises:
      ValueError: a parameter that is not in the table, or a bins head in a layout without one.
    """
    layout = LAYOUTS[layout] if isinstance(layout, str) else layout
    if "bins" in params and "decoder" in layout.prefixes and "bins" not in layout.prefixes:
        raise ValueError(
            f"the {layout.name!r} layout has no place for a bins head; use 'zoedepth', which V1's "
            "metric code reads"
        )
    out: dict[str, Any] = {}
    for part in layout.prefixes:
        leaves = flatten(params.get(part, {}))
        for row in TABLE[part]:
            if row.path not in leaves:
                continue
            leaf = leaves.pop(row.path)
            templates = _names(row, layout, part)
            for i in range(leaf.shape[0] if row.stacked else 1):
                x = leaf[i] if row.stacked else leaf
                if row.axes is not None:
                    x = x.transpose([row.axes.index(a) for a in range(len(row.axes))])
                size = x.shape[0] // len(templates)
                for j, template in enumerate(templates):
                    name = template.format(i)
                    out[name] = x if len(templates) == 1 else x[j * size : (j + 1) * size]
        if leaves:
            raise ValueError(f"no torch name is known for the parameters {part}/{sorted(leaves)}")
    return out
