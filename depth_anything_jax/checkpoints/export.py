"""Writes weights for PyTorch: the official code's layout, transformers', or a bare DINOv2.

Tensors are written bit-exactly. Version, head, max_depth and licence chain go into the metadata of
the safetensors file, the licence also into a model card beside it. Compiled programs (StableHLO,
ONNX) take their description from here too.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from depth_anything_jax.checkpoints import convert, int8_files, licences, readers
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.models import depth_anything
from depth_anything_jax.utils.choices import one_of
from depth_anything_jax.utils.map_kinds import MapKind

LAYOUTS = ("official", "hf")
_FACTS = ("variant", "version", "head", "max_depth", "focal")
_POSITIONS = (
    "At sizes other than the trained one, transformers interpolates the position embedding without "
    "the official code's offset of 0.1 patches, so its maps differ slightly there."
)


def export(weights: Weights, destination: str, *, layout: str, int8: bool = False) -> pathlib.Path:
    """Writes weights for use in PyTorch.

    Args:
      weights: from `pretrained.load`.
      destination: "official": a new .safetensors or .pth file (.pth needs torch; of an encoder
        alone the names are DINOv2's, of a bins head those of V1's ZoeDepth). "hf": a new or empty
        folder, for `from_pretrained`.
      layout: "official" or "hf".
      int8: write kernels as 8-bit numbers with scales (`int8_files`), which this project reads and
        PyTorch's code does not; of the official layout as .safetensors.
    Returns:
      The file or folder.
    Raises:
      FileExistsError: the destination exists.
      ValueError: another layout or suffix, or a bins head in transformers' layout.
    """
    one_of("layout", layout, LAYOUTS)
    if int8 and (layout != "official" or not destination.endswith(".safetensors")):
        raise ValueError(
            f"{destination} in the {layout} layout: int8 weights are written in the official "
            "layout, to a file that ends in .safetensors"
        )
    path = unused(destination, empty=layout == "hf")
    metadata = describe(weights)
    if layout == "hf":
        _write_hf(weights, path, metadata)
    else:
        _write_official(weights, path, metadata, int8)
    return path


def unused(destination: str, *, empty: bool) -> pathlib.Path:
    """Returns the path of an export after checking that nothing is there, or an `empty` folder.

    Raises:
      FileExistsError: the destination exists.
    """
    path = pathlib.Path(destination)
    if path.exists() and not (empty and path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is there already; choose another name or remove it")
    return path


def describe(weights: Weights) -> dict[str, Any]:
    """Returns the metadata of a checkpoint or an export, with the licence chain."""
    chain = weights.metadata.get("licence_chain", [])
    facts: dict[str, Any] = {name: getattr(weights, name) for name in _FACTS}
    if weights.parts == "all":
        facts["input"] = weights.input.as_json()
    if weights.head == "bins":
        facts["bin_centres"] = weights.bin_centres
    facts |= {"licence": licences.combined(chain), "licence_chain": chain}
    filled = weights.metadata.get("filled")
    return facts | ({"filled": filled} if filled else {})


def describe_program(weights: Weights, layout: str) -> dict[str, Any]:
    """Returns the metadata of a compiled program: its input and output, and those of `describe`.

    Args:
      weights: with a decoder.
      layout: "NHWC" or "NCHW", of the input.
    """
    metric = weights.is_metric
    encoder = weights.input.encoder
    facts = describe(weights)
    facts["input"] |= {  # after the transform: size, keep_aspect, resize
        "layout": layout,
        "dtype": "float32",
        "colours": "RGB",
        "normalisation": "(image / 255 - mean) / std",
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "multiple": encoder.patch_size,
    }
    if weights.input.is_official:
        facts["input"]["size_rule"] = (
            "the short side becomes `size`, the long side keeps the aspect ratio, both rounded to "
            f"multiples of {encoder.patch_size}; OpenCV's INTER_CUBIC, not clipped"
        )
    facts["output"] = {
        "layout": layout.replace("C", ""),
        "dtype": "float32",
        "kind": MapKind.METRIC_DEPTH if metric else MapKind.RELATIVE_INVERSE_DEPTH,
        "unit": "metre" if metric else None,
        "max_depth": weights.max_depth,
        "larger_is": "farther" if metric else "nearer",
    }
    return facts


def own_size(weights: Weights) -> tuple[int, int]:
    """Returns height and width of the input that a network was trained for, of a square image.

    A metric network needs the size it was trained at; a relative one takes any, and at its trained
    size its position embedding is not resized.
    """
    if not weights.is_metric:
        side = depth_anything.VARIANTS[weights.variant].image_size
        return side, side
    size = weights.input.size
    return size if isinstance(size, tuple) else (size, size)


def save_encoder(
    path: str | pathlib.Path,
    encoder: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    dtype: Any = np.float16,
) -> None:
    """Writes an encoder under DINOv2's names, e.g. the package's demo encoder.

    Args:
      path: the .safetensors file; replaced where it exists.
      encoder: Flax parameters (params["encoder"]).
      metadata: JSON values: "variant", "licence", "licence_chain".
      dtype: on disk; `pretrained.load` returns float32.
    """
    tensors = convert.to_torch({"encoder": encoder}, "dinov2")
    _save_safetensors({n: np.asarray(x).astype(dtype) for n, x in tensors.items()}, path, metadata)


def _save_safetensors(tensors: Mapping[str, Any], path: Any, metadata: Mapping[str, Any]) -> None:
    notes = {"format": "pt", readers.METADATA_KEY: json.dumps(metadata)}
    save_file({n: np.ascontiguousarray(x) for n, x in tensors.items()}, str(path), notes)


def _layout_of(weights: Weights, layout: str) -> convert.Layout:
    encoder_only = {"official": "dinov2", "hf": "dinov2-hf"}
    if weights.head == "bins":
        if layout == "hf":
            raise ValueError(
                "transformers has no network for Depth Anything with a bins head (its ZoeDepth "
                f"upsamples the patch grid 16 times, not {weights.input.encoder.patch_size}); "
                "export the official layout instead"
            )
        layout = "zoedepth"
    return convert.LAYOUTS[encoder_only[layout] if weights.parts == "encoder" else layout]


def _write_official(
    weights: Weights, path: pathlib.Path, metadata: dict[str, Any], int8: bool
) -> None:
    names = _layout_of(weights, "official")
    tensors = convert.to_torch(weights.params, names)
    tensors |= convert.constants(names, tensors)
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"{path}: the official layout is written as .safetensors or .pth")
    if path.suffix == ".pth":
        torch = _torch(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({n: torch.from_numpy(np.array(x)) for n, x in tensors.items()}, path)
        # A .pth has no room for metadata: a flat dict of tensors is what the official code loads.
        path.with_name(path.name + ".json").write_text(json.dumps(metadata, indent=2))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _save_safetensors(int8_files.rounded(tensors) if int8 else tensors, path, metadata)
    path.with_name(path.stem + ".README.md").write_text(card(weights, metadata, _remark(weights)))


def _torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"writing {path} needs torch: pip install 'depth_anything_jax[torch]', or name the "
            "file .safetensors"
        ) from error
    return torch


def _write_hf(weights: Weights, folder: pathlib.Path, metadata: dict[str, Any]) -> None:
    tensors = convert.to_torch(weights.params, _layout_of(weights, "hf"))
    config, processor = hf_config(weights), hf_preprocessor(weights)
    folder.mkdir(parents=True, exist_ok=True)
    _save_safetensors(tensors, folder / "model.safetensors", metadata)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    (folder / "README.md").write_text(card(weights, metadata, _remark(weights)))


def hf_config(weights: Weights) -> dict[str, Any]:
    """transformers' config.json: DepthAnythingConfig, or Dinov2Config for an encoder alone."""
    size = depth_anything.VARIANTS[weights.variant]
    backbone: dict[str, Any] = {
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        "hidden_size": size.dim,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "mlp_ratio": 4,  # ViT-G's SwiGLU takes two thirds of it, rounded up to eights
        "use_swiglu_ffn": size.swiglu,
        "image_size": size.image_size,
        "patch_size": size.encoder.patch_size,
        "layer_norm_eps": size.encoder.layer_norm_epsilon,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }
    if weights.parts == "encoder":
        return backbone
    assert weights.version is not None
    taps = [tap + 1 for tap in size.taps(weights.version)]  # hidden state 0 is the embedding
    metres = weights.max_depth or 1
    if metres != int(metres):
        raise ValueError(
            f"max_depth={metres}: transformers' config holds whole metres; export the official "
            "layout instead"
        )
    return {
        "model_type": "depth_anything",
        "architectures": ["DepthAnythingForDepthEstimation"],
        "backbone_config": {
            **backbone,
            "architectures": ["Dinov2Backbone"],
            "out_indices": taps,
            "out_features": [f"stage{tap}" for tap in taps],
            "apply_layernorm": True,
            "reshape_hidden_states": False,
        },
        "patch_size": size.encoder.patch_size,
        "reassemble_hidden_size": size.dim,
        "reassemble_factors": [4, 2, 1, 0.5],
        "neck_hidden_sizes": list(size.out_channels),
        "fusion_hidden_size": size.features,
        "head_in_index": -1,
        "head_hidden_size": 32,
        "depth_estimation_type": "metric" if weights.is_metric else "relative",
        "max_depth": int(metres),
        "dtype": "float32",
    }


def hf_preprocessor(weights: Weights) -> dict[str, Any]:
    """transformers' preprocessor_config.json, as the released ports have it, at its own size."""
    height, width = own_size(weights)
    encoder = weights.input.encoder
    return {
        "image_processor_type": "DPTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "keep_aspect_ratio": True,
        "ensure_multiple_of": encoder.patch_size,
        "resample": 3,  # PIL's bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(encoder.mean),
        "image_std": list(encoder.std),
        "do_pad": False,
        "size_divisor": None,
    }


def _remark(weights: Weights) -> str:
    """A paragraph for the model card of exported weights."""
    if weights.head == "bins":
        return (
            "Tensors have the names of Depth Anything V1's metric code (ZoeDepth). The network's "
            f"input: {json.dumps(weights.input.as_json())}."
        )
    return _POSITIONS


def card(weights: Weights, metadata: Mapping[str, Any], text: str) -> str:
    """Formats the README.md of an export: a model card with its licence.

    Args:
      weights: what was exported.
      metadata: from `describe`.
      text: one paragraph about this export.
    """
    licence = metadata["licence"]
    name = licence.lower() if licences.commercial_use(licence) is not None else "other"
    head = ["---", f"license: {name}", "pipeline_tag: depth-estimation", "---"]
    return "\n".join(head) + "\n\n" + description(weights, metadata, text)


def description(weights: Weights, metadata: Mapping[str, Any], text: str = "") -> str:
    """Formats title, licence chain and filled tensors of a model card; arguments as for `card`."""
    what = f"{weights.variant}, {weights.version}, {weights.head}"
    if weights.max_depth is not None:
        what += f" up to {weights.max_depth:g} m"
    if weights.focal is not None:
        what += f"; metres = output * f / {weights.focal:g}, f in pixels of the network's input"
    if weights.parts == "encoder":
        what = f"DINOv2 encoder, {weights.variant}"
    lines = [
        f"# Depth Anything ({what})",
        "",
        f"Written by depth_anything_jax. {text or _remark(weights)}",
        "",
        licences.note(metadata["licence_chain"]),
    ]
    if "filled" in metadata:
        filled = metadata["filled"]
        names = ", ".join(filled["tensors"])
        lines += ["", f"Missing in the source and filled by {filled['by']}: {names}."]
    return "\n".join(lines) + "\n"
