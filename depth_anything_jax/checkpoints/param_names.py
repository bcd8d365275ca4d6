"""Table of every parameter's Flax path and its names in PyTorch files; and their layouts.

`convert` uses it in both directions. Names on the torch side come in two families. "torch" is that
of the official Depth Anything V1/V2 code, of ZoeDepth's and of DINOv2's own releases, "hf" that of
the files `transformers` reads and writes (which are not always the names of its modules in memory).
A *layout* is a family plus the prefixes of the parts.
"""

from typing import NamedTuple

CONV = (2, 3, 1, 0)  # torch (out, in, h, w) -> Flax (h, w, in, out)
UPSAMPLE = (2, 3, 0, 1)  # torch transposed convolution (in, out, h, w) -> (h, w, in, out)
DENSE = (1, 0)  # torch (out, in) -> (in, out)


class Row(NamedTuple):
    """One parameter. "{}" in the torch names is a block's number; such leaves are stacked.

    Attributes:
      path: of the Flax leaf.
      torch: official name, without prefix.
      hf: transformers' name, without prefix; several: the torch tensor in equal parts, axis 0;
        empty: transformers has no such tensor.
      axes: transposition from torch to Flax (of one block's tensor); None: as it is.
    """

    path: str
    torch: str
    hf: tuple[str, ...]
    axes: tuple[int, ...] | None = None

    @property
    def stacked(self) -> bool:
        """Whether it has one tensor per block."""
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


def _bins() -> list[Row]:
    """Of the metric-bins head; see LAYOUTS for why transformers has no name for it."""

    def mlp(path: str, torch: str) -> list[Row]:
        return [
            row for i in (0, 2) for row in _layer(f"{path}net_{i}", f"{torch}._net.{i}", (), CONV)
        ]

    rows = [*_layer("conv2", "conv2", (), CONV)]
    for name in ("seed_bin_regressor", "seed_projector"):
        rows += mlp(f"{name}/", name)
    for name in ("projectors", "attractors"):
        for i in range(4):
            rows += mlp(f"{name}_{i}/", f"{name}.{i}")
    name = "conditional_log_binomial"
    for i in (0, 2):
        rows += _layer(f"{name}/mlp_{i}", f"{name}.mlp.{i}", (), CONV)
    return rows


TABLE: dict[str, list[Row]] = {"encoder": _encoder(), "decoder": _decoder(), "bins": _bins()}


class Layout(NamedTuple):
    """How a file names its tensors: column of the table, and the prefix of each part it holds.

    A tensor belongs to the first part whose prefix its name has.
    """

    name: str
    family: str
    prefixes: dict[str, str]


# Our own checkpoints: a name is the parameter's path, and no column of the table is needed.
FLAX = Layout("flax", "flax", {"encoder": "encoder/", "decoder": "decoder/", "bins": "bins/"})
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("official", "torch", {"encoder": "pretrained.", "decoder": "depth_head."}),
        # V1's metric models, in ZoeDepth's code. transformers' ZoeDepth cannot hold them: it
        # upsamples the patch grid 16 times, where Depth Anything does it to the image's size.
        Layout(
            "zoedepth",
            "torch",
            {"encoder": "core.core.pretrained.", "decoder": "core.core.depth_head.", "bins": ""},
        ),
        Layout("hf", "hf", {"encoder": "backbone.", "decoder": ""}),
        Layout("dinov2", "torch", {"encoder": ""}),
        Layout("dinov2-hf", "hf", {"encoder": ""}),
    )
}
