"""Torch checkpoints and Flax parameters: ONE table, read in both directions.

Names on the torch side come in two families. "torch" is that of the official Depth Anything V1/V2
code and of DINOv2's own releases, "hf" that of the files `transformers` reads and writes (which are
not always the names of its modules in memory). A *layout* is a family plus the prefixes of encoder
and decoder. Moving a tensor is a transpose, never arithmetic: there and back is bit-exact.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

CONV = (2, 3, 1, 0)  # torch (out, in, h, w) -> Flax (h, w, in, out)
UPSAMPLE = (2, 3, 0, 1)  # torch transposed convolution (in, out, h, w) -> (h, w, in, out)
DENSE = (1, 0)  # torch (out, in) -> (in, out)


class Row(NamedTuple):
    """One leaf. "{}" in the torch names is a block's number; such leaves are stacked.

    Attributes:
      path: of the Flax leaf.
      torch: official name, without prefix.
      hf: transformers' name, without prefix; several: the torch tensor in equal parts, axis 0.
      axes: transposition from torch to Flax (of one block's tensor); None: as it is.
    """

    path: str
    torch: str
    hf: tuple[str, ...]
    axes: tuple[int, ...] | None = None

    @property
    def stacked(self) -> bool:
        """Whether it stands for one tensor of every block."""
        return "{}" in self.torch


def _layer(path: str, torch: str, hf: str | tuple[str, ...], axes: tuple[int, ...]) -> list[Row]:
    hf = (hf,) if isinstance(hf, str) else hf
    return [
        Row(f"{path}/kernel", f"{torch}.weight", tuple(f"{n}.weight" for n in hf), axes),
        Row(f"{path}/bias", f"{torch}.bias", tuple(f"{n}.bias" for n in hf)),
    ]


def _norm(path: str, torch: str, hf: str) -> list[Row]:
    return [
        Row(f"{path}/scale", f"{torch}.weight", (f"{hf}.weight",)),
        Row(f"{path}/bias", f"{torch}.bias", (f"{hf}.bias",)),
    ]


def _encoder() -> list[Row]:
    block, layer = "blocks.{}", "encoder.layer.{}"
    qkv = tuple(f"{layer}.attention.attention.{x}" for x in ("query", "key", "value"))
    return [
        Row("cls_token", "cls_token", ("embeddings.cls_token",)),
        Row("pos_embed", "pos_embed", ("embeddings.position_embeddings",)),
        Row("mask_token", "mask_token", ("embeddings.mask_token",)),
        *_layer("patch_embed", "patch_embed.proj", "embeddings.patch_embeddings.projection", CONV),
        *_norm("blocks/norm1", f"{block}.norm1", f"{layer}.norm1"),
        *_layer("blocks/attn/qkv", f"{block}.attn.qkv", qkv, DENSE),
        *_layer("blocks/attn/proj", f"{block}.attn.proj", f"{layer}.attention.output.dense", DENSE),
        Row("blocks/ls1/gamma", f"{block}.ls1.gamma", (f"{layer}.layer_scale1.lambda1",)),
        *_norm("blocks/norm2", f"{block}.norm2", f"{layer}.norm2"),
        *_layer("blocks/mlp/fc1", f"{block}.mlp.fc1", f"{layer}.mlp.fc1", DENSE),
        *_layer("blocks/mlp/fc2", f"{block}.mlp.fc2", f"{layer}.mlp.fc2", DENSE),
        *_layer("blocks/mlp/w12", f"{block}.mlp.w12", f"{layer}.mlp.weights_in", DENSE),
        *_layer("blocks/mlp/w3", f"{block}.mlp.w3", f"{layer}.mlp.weights_out", DENSE),
        Row("blocks/ls2/gamma", f"{block}.ls2.gamma", (f"{layer}.layer_scale2.lambda1",)),
        *_norm("norm", "norm", "layernorm"),
    ]


def _decoder() -> list[Row]:
    reassemble = "neck.reassemble_stage.layers"
    rows: list[Row] = []
    for i in range(4):
        rows += _layer(f"projects_{i}", f"projects.{i}", f"{reassemble}.{i}.projection", CONV)
    for i, axes in ((0, UPSAMPLE), (1, UPSAMPLE), (3, CONV)):
        name = f"resize_layers_{i}"
        rows += _layer(name, f"resize_layers.{i}", f"{reassemble}.{i}.resize", axes)
    for i in range(1, 5):
        name = f"layer{i}_rn"
        hf = f"neck.convs.{i - 1}.weight"
        rows.append(Row(f"{name}/kernel", f"scratch.{name}.weight", (hf,), CONV))
    for i in range(1, 5):
        name, fusion = f"refinenet{i}", f"neck.fusion_stage.layers.{4 - i}"
        torch = f"scratch.{name}"
        rows += _layer(f"{name}/out_conv", f"{torch}.out_conv", f"{fusion}.projection", CONV)
        for unit, j in ((u, c) for u in (1, 2) for c in (1, 2)):
            inner = f"resConfUnit{unit}"
            hf = f"{fusion}.residual_layer{unit}.convolution{j}"
            rows += _layer(f"{name}/{inner}/conv{j}", f"{torch}.{inner}.conv{j}", hf, CONV)
    rows += _layer("output_conv1", "scratch.output_conv1", "head.conv1", CONV)
    rows += _layer("output_conv2_0", "scratch.output_conv2.0", "head.conv2", CONV)
    rows += _layer("output_conv2_2", "scratch.output_conv2.2", "head.conv3", CONV)
    return rows


TABLE: dict[str, list[Row]] = {"encoder": _encoder(), "decoder": _decoder()}


class Layout(NamedTuple):
    """How a file names its tensors: column of the table, and the prefix of each part it holds."""

    name: str
    family: str
    prefixes: dict[str, str]


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("official", "torch", {"encoder": "pretrained.", "decoder": "depth_head."}),
        Layout("hf", "hf", {"encoder": "backbone.", "decoder": ""}),
        Layout("dinov2", "torch", {"encoder": ""}),
        Layout("dinov2-hf", "hf", {"encoder": ""}),
    )
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
    """Tensors of a checkpoint do not fit; the message lists every one.

    Attributes:
      missing, extra: names; misshaped: {name: (shape in the file, expected shape)}.
    """

    def __init__(
        self,
        source: str,
        missing: Iterable[str] = (),
        extra: Iterable[str] = (),
        misshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
        cure: str = "",
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
        super().__init__(text + (f"\n{cure}" if cure else ""))


def canonical(state: Mapping[str, Any]) -> dict[str, Any]:
    """A flat dict of tensors under the names of the table, whatever a trainer wrapped around them.

    Undone: {"model": …} or {"state_dict": …} around it, "module." before each name
    (DistributedDataParallel), DINOv2's block chunks ("blocks.{chunk}.{block}."), and the names that
    recent transformers use in memory.

    Raises:
      ValueError: two names become one, or a value is no tensor.
    """
    for wrapper in ("model", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): x for name, x in state.items()}
    odd = [name for name, x in state.items() if not hasattr(x, "shape")]
    if odd:
        raise ValueError(
            f"no tensors under {odd[:5]}: give the flat dict of tensors, or a file with it under "
            "'model' or 'state_dict'"
        )
    out: dict[str, Any] = {}
    for name, x in state.items():
        new = re.sub(r"(^|\.)blocks\.\d+\.(\d+)\.", r"\1blocks.\2.", name)
        for pattern, replacement in _IN_MEMORY:
            new = re.sub(pattern, replacement, new)
        if new in out:
            raise ValueError(f"two tensors are called {new!r} (one of them {name!r} in the file)")
        out[new] = x
    for gate in [name for name in out if ".mlp.gate_proj." in name]:
        up = gate.replace("gate_proj", "up_proj")
        if up in out:
            pair = [np.asarray(out.pop(gate)), np.asarray(out.pop(up))]
            out[gate.replace("gate_proj", "weights_in")] = np.concatenate(pair)
    return out


def detect_layout(names: Iterable[str]) -> Layout:
    """The layout that canonical names belong to.

    Raises:
      ValueError: none of the layouts; says what the names look like.
    """
    names = list(names)

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if has("core.core.", "core.prep.", "conditional_log_binomial."):
        raise ValueError(
            "this is a ZoeDepth checkpoint (Depth Anything V1's metric models with bins), another "
            "architecture; V2's metric models are supported"
        )
    if has("pretrained.", "depth_head."):
        return LAYOUTS["official"]
    if has("backbone.", "neck."):
        return LAYOUTS["hf"]
    if has("embeddings.", "encoder.layer."):
        return LAYOUTS["dinov2-hf"]
    if has("cls_token", "pos_embed", "blocks."):
        return LAYOUTS["dinov2"]
    raise ValueError(
        f"tensor names such as {names[:3]} belong to no known layout: official Depth Anything "
        "(pretrained.*, depth_head.*), transformers' (backbone.*, neck.*, head.*), DINOv2 "
        "(cls_token, blocks.*) or transformers' DINOv2 (embeddings.*, encoder.layer.*)"
    )


def part_of(name: str, layout: Layout) -> str:
    """ "encoder" or "decoder": the part that a tensor of this layout belongs to."""
    if "decoder" not in layout.prefixes or name.startswith(layout.prefixes["encoder"]):
        return "encoder"
    return "decoder"


def _names(row: Row, layout: Layout, part: str) -> tuple[str, ...]:
    prefix = layout.prefixes[part]
    return tuple(prefix + n for n in ((row.torch,) if layout.family == "torch" else row.hf))


def depth_of(names: Iterable[str]) -> int:
    """Number of transformer blocks: one more than the highest in the canonical names."""
    found = (re.search(r"(?:blocks|encoder\.layer)\.(\d+)\.", name) for name in names)
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
    """Flax parameters of a torch state dict.

    Args:
      state: {name: tensor or array}, as the file has it (see `canonical`).
      layout: None: detected from the names.
      source: what the error calls it.
    Returns:
      {"encoder": …, "decoder": …} of numpy arrays of the tensors' dtypes, without the decoder where
      the file has none of its tensors.
    Raises:
      TensorMismatch: lists every missing and every superfluous tensor.
    """
    state = canonical(state)
    layout = layout or detect_layout(state)
    depth, swiglu = depth_of(state), is_swiglu(state)
    parts = {part_of(name, layout) for name in state}
    left, missing, params = set(state), [], {}
    for part in sorted(parts, reverse=True):
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


def to_torch(params: Mapping[str, Any], layout: Layout | str) -> dict[str, Any]:
    """A torch state dict of Flax parameters; the inverse of `from_torch`.

    Works on numpy and on (traced) JAX arrays; numpy arrays come out as views. Parts that the layout
    does not have (a decoder in a DINOv2 file) are left out.

    Args:
      params: {"encoder": …} and perhaps "decoder".
    Raises:
      ValueError: a parameter that the table does not know.
    """
    layout = LAYOUTS[layout] if isinstance(layout, str) else layout
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


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a/b": leaf} of nested dicts."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        out |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return out


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of {"a/b": leaf}."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        *folders, name = path.split("/")
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree
