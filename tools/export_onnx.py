"""Exports a checkpoint to ONNX, for any batch and any size in multiples of the patch size.

    python tools/export_onnx.py CKPT DST

CKPT: a run's folder, an Orbax checkpoint, or anything else that `pretrained.load` reads.
DST: a new folder for `model.onnx`, `metadata.json` and `README.md`. Needs the extra [onnx].

JAX builds its resize matrices from known sizes, so the graph is exported by PyTorch: it is the
transformers model with these weights, whose position embedding is interpolated by the official rule
instead of transformers' own. At the end onnxruntime is compared with our model at three sizes.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import shutil
import tempfile
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from depth_anything_jax.checkpoints import export, pretrained
from depth_anything_jax.checkpoints.bundle import Weights, bundle_of
from depth_anything_jax.models import VARIANTS
from depth_anything_jax.models.resize import POSITION_OFFSET
from depth_anything_jax.utils import interpolation

OPSET = 18
HEADS = ("relative", "sigmoid")  # those supported by transformers
TOLERANCE = 1e-4  # of the output's range; float32 of two libraries, 1e-5 to 3e-5 for S and B
PROTOBUF_BYTES = 1.9e9  # 2 GB files cannot be read; larger weights are stored beside the graph
MISSING = "ONNX export needs torch, transformers, onnx, onnxscript and onnxruntime: "
MISSING += "pip install 'depth_anything_jax[onnx]'"
USE = """\
Runs in onnxruntime; batch, height and width are free, both sides multiples of {patch_size}:

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(depth,) = session.run(None, {{"images": images}})  # float32 (batch, 3, height, width)
```
"""


def export_onnx(found: Weights, destination: str) -> dict[tuple[int, int], float]:
    """Writes graph, metadata and card, and compares onnxruntime with our model.

    Args:
      found: weights of `pretrained.load`, with a decoder and a head of HEADS.
      destination: a new or empty folder.

    Returns:
      {(height, width): largest difference as a share of the output's range}.

    Raises:
      FileExistsError: the destination is not empty.
      ImportError: a package of [onnx] is missing.
      ValueError: the head is another one, there is only an encoder, or onnxruntime's output
        differs.
    """
    folder = export.unused(destination, empty=True)
    if found.head not in HEADS:
        raise ValueError(
            f"head={found.head!r}: ONNX export goes through transformers, which has the heads "
            f"{', '.join(HEADS)} only"
        )
    bundle_of(found)  # refuses an encoder alone
    metadata = export.describe_program(found, "NCHW")
    metadata["input"] |= {"name": "images", "shape": ["batch", 3, "height", "width"]}
    metadata["output"] |= {"name": "depth", "shape": ["batch", "height", "width"]}
    program = to_onnx(found)
    program.model.metadata_props["depth_anything_jax"] = json.dumps(metadata)

    folder.mkdir(parents=True, exist_ok=True)
    try:
        size = sum(4 * math.prod(x.shape) for x in jax.tree.leaves(found.params))
        program.save(str(folder / "model.onnx"), external_data=size > PROTOBUF_BYTES)
        errors = compare(found, folder / "model.onnx")
        if not all(error <= TOLERANCE for error in errors.values()):  # NaN is off too
            raise ValueError(
                f"onnxruntime is off by {errors} of the output's range, above {TOLERANCE}; this is "
                "a bug of the converter: nothing is kept"
            )
    except BaseException:
        shutil.rmtree(folder)
        raise
    differences = {f"{h}x{w}": error for (h, w), error in errors.items()}
    metadata["program"] = {"format": "onnx", "opset": OPSET, "difference_from_jax": differences}
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    text = USE.strip().format(patch_size=found.input.encoder.patch_size)
    (folder / "README.md").write_text(export.card(found, metadata, text))
    return errors


def to_onnx(found: Weights) -> Any:
    """Exports the graph as a torch.onnx.ONNXProgram."""
    try:
        import onnxscript  # noqa: F401  (torch.onnx needs it; its own error is less clear)
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error

    with tempfile.TemporaryDirectory() as folder:
        # Loaded by transformers, because layer names depend on its version. Its config allows whole
        # metres only; the module takes any value.
        whole = dataclasses.replace(found, max_depth=found.max_depth and 1.0)
        source = export.export(whole, folder, layout="hf")
        config = transformers.AutoConfig.from_pretrained(source)
        config.backbone_config._attn_implementation = "eager"  # products and a softmax, not fused
        model = transformers.DepthAnythingForDepthEstimation.from_pretrained(
            source, config=config, dtype=torch.float32
        ).eval()
    model.head.max_depth = found.max_depth or 1
    use_official_positions(model)
    refuse_other_sizes(model)

    class Depth(torch.nn.Module):
        """The forward pass of transformers without its int(), which would fix the output's size."""

        def __init__(self):
            super().__init__()
            self.network = model

        def forward(self, images):
            net, size = self.network, images.shape[2:]
            rows, columns = (n // net.config.patch_size for n in size)
            x = net.neck(net.backbone(images).feature_maps, rows, columns)[net.head.head_in_index]
            x = torch.nn.functional.interpolate(
                net.head.conv1(x), size, mode="bilinear", align_corners=True
            )
            x = net.head.conv3(net.head.activation1(net.head.conv2(x)))
            return net.head.activation2(x).squeeze(1) * net.head.max_depth

    dim = torch.export.Dim
    batch, rows, columns = dim("batch"), dim("rows", min=2), dim("columns", min=2)
    # Three different sizes, none of them 0, 1 or the trained one, so that no size is specialised.
    side = found.input.encoder.patch_size
    images = torch.zeros(2, 3, side * 5, side * 7)
    with torch.no_grad():
        return torch.onnx.export(
            Depth().eval(),
            (images,),
            input_names=["images"],
            output_names=["depth"],
            dynamic_shapes={"images": {0: batch, 2: side * rows, 3: side * columns}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )


def use_official_positions(model: Any) -> None:
    """Replaces the position interpolation of a transformers model by DINOv2's, with dynamic sizes.

    The rule is that of `models.resize.resize_position_embedding`: bicubic, scale (n + .1) / grid,
    borders repeated; at exactly the trained grid the table itself, which is the same formula at
    scale 1 without an offset.
    """
    import torch

    embeddings = model.backbone.embeddings
    grid = math.isqrt(embeddings.position_embeddings.shape[1] - 1)

    def kernel(distance: Any) -> Any:
        a = interpolation.CUBIC_A
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * a - 4 * a
        nothing = torch.zeros_like(distance)
        return torch.where(distance <= 1, near, torch.where(distance < 2, far, nothing))

    def interpolate_pos_encoding(self: Any, _: Any, height: int, width: int) -> Any:
        table = self.position_embeddings
        patches = table[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        patches = torch.nn.functional.pad(patches, (2, 2, 2, 2), mode="replicate")[0]
        steps = [torch.arange(n // self.patch_size, dtype=torch.float32) for n in (height, width)]
        counts = [step[-1] + 1 for step in steps]
        trained = (counts[0] == grid) & (counts[1] == grid)
        samples = torch.arange(-2, grid + 2, dtype=torch.float32)
        matrices = []
        for step, count in zip(steps, counts, strict=True):
            scale = torch.where(trained, torch.ones(()), (count + POSITION_OFFSET) / grid)
            position = (step + 0.5) / scale - 0.5
            matrices.append(kernel((position[:, None] - samples).abs()))
        patches = torch.einsum("Hh,dhw,Ww->HWd", matrices[0], patches, matrices[1])
        return torch.cat([table[:, :1], patches.reshape(1, -1, table.shape[-1])], dim=1)

    embeddings.interpolate_pos_encoding = types.MethodType(interpolate_pos_encoding, embeddings)


def refuse_other_sizes(model: Any) -> None:
    """Embeds patches by a reshape, which fails where a side is not a multiple of the patch size.

    The convolution would silently drop the remaining pixels at the border.
    """
    patches = model.backbone.embeddings.patch_embeddings

    def forward(self: Any, images: Any) -> Any:
        weight, side = self.projection.weight, self.projection.kernel_size[0]
        batch, channels, height, width = images.shape
        rows, columns = height // side, width // side
        x = images.reshape(batch, channels, rows, side, columns, side)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
        return x @ weight.reshape(len(weight), -1).T + self.projection.bias

    patches.forward = types.MethodType(forward, patches)


def compare(found: Weights, path: pathlib.Path) -> dict[tuple[int, int], float]:
    """Compares onnxruntime and our model on noise at three sizes: {(height, width): difference}."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = bundle_of(found).network
    params = jax.tree.map(jnp.asarray, found.params)
    grid = VARIANTS[found.variant].grid
    errors = {}
    for batch, rows, columns in ((1, grid, grid), (2, grid, grid + 5), (1, grid // 2 + 1, grid)):
        side = found.input.encoder.patch_size
        size = (side * rows, side * columns)
        images = np.random.default_rng(rows).normal(size=(batch, *size, 3)).astype(np.float32)
        ours = np.asarray(jax.jit(model.apply)({"params": params}, images))
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        (theirs,) = session.run(None, {"images": channels_first})
        if theirs.shape != ours.shape:
            raise ValueError(f"{path}: output {theirs.shape} instead of {ours.shape}")
        errors[size] = float(np.abs(ours - theirs).max() / max(np.ptp(ours), 1e-12))
    return errors


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ckpt")
    parser.add_argument("dst")
    parser.add_argument("--model-version", dest="version", help="v1 or v2, where CKPT lacks it")
    parser.add_argument("--max-depth", "--max_depth", type=float, help="metres, of a metric model")
    args = parser.parse_args(arguments)
    try:
        found = pretrained.load(args.ckpt, version=args.version, max_depth=args.max_depth)
        errors = export_onnx(found, args.dst)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    size = sum(path.stat().st_size for path in pathlib.Path(args.dst).iterdir()) / 1e6
    print(f"{args.dst}: {found.variant}, licence {found.licence or 'unknown'}, {size:.1f} MB")
    for (height, width), off in errors.items():
        print(f"  {height} x {width}: {off:.1e} of the range away from JAX in onnxruntime")


if __name__ == "__main__":
    main()
