"""Exports a checkpoint to StableHLO: a program for CPU, CUDA and TPU, independent of this package.

    python tools/export_stablehlo.py CKPT DST [--size 518 | --height H --width W]

CKPT: a run's folder, an Orbax checkpoint, or anything else that `pretrained.load` reads.
DST: a new folder. `model.stablehlo` is for one image size and any batch; the parameters are stored
beside it in `params.safetensors`, because constants of 100 MB (ViT-S) to 1.3 GB (ViT-L) in a
program slow down every compiler, and a program of 2 GB cannot be written. `metadata.json` describes
input and output; `README.md` shows how to run it.
"""

import argparse
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from depth_anything_jax.checkpoints import export, pretrained
from depth_anything_jax.checkpoints.bundle import Weights, bundle_of
from depth_anything_jax.utils import nested_dicts

PLATFORMS = ("cpu", "cuda", "tpu")
# Inserted by jax into a program with a symbolic batch; removed once the batch is known.
ALLOWED_CALLS = {"shape_assertion"}
USE = """\
Runs with jax, flatbuffers and safetensors alone, on CPU, CUDA and TPU:

```python
import jax.export
from safetensors.numpy import load_file

with open("model.stablehlo", "rb") as file:
    program = jax.export.deserialize(file.read())
depth = program.call(load_file("params.safetensors"), images)  # float32 {shape}
```
"""


def export_stablehlo(found: Weights, destination: str, size: tuple[int, int]) -> pathlib.Path:
    """Writes program, parameters, metadata and card.

    Args:
      found: weights of `pretrained.load`, with a decoder.
      destination: a new or empty folder.
      size: height and width of the images, multiples of the patch size; a bins head has only one
        size.

    Raises:
      FileExistsError: the destination is not empty.
      ValueError: a side is not a multiple of the patch size, the size is not the bins head's, or
        there is only an encoder.
    """
    folder = export.unused(destination, empty=True)
    # "einsum" and scan are plain operations, available on all platforms, without custom kernels.
    # The exporting machine decides how `models` implements resizes and the last layer, which does
    # not change the result.
    model = bundle_of(found, attention="einsum").network
    found.input.encoder.patch_grid(*size)
    if not found.input.keep_aspect and size != found.input.size:
        height, width = export.own_size(found)
        raise ValueError(
            f"size {size[0]}x{size[1]}: every input of this network is {height}x{width} pixels; "
            "leave the size out"
        )
    params = {n: np.ascontiguousarray(x) for n, x in nested_dicts.flatten(found.params).items()}

    def depth(params: dict[str, Any], images: Any) -> Any:
        return model.apply({"params": nested_dicts.unflatten(params)}, images)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)
    # By default a TPU multiplies in bfloat16: equal numbers on all platforms need "highest".
    with jax.default_matmul_precision("highest"):
        program = jax.export.export(jax.jit(depth), platforms=PLATFORMS)(params, images)
    refuse_custom_calls(program.mlir_module())

    metadata = export.describe_program(found, "NHWC")
    metadata["input"] |= {"shape": ["batch", *size, 3]}
    metadata["output"] |= {"shape": ["batch", *size]}
    metadata["program"] = {
        "format": "jax.export",
        "jax": jax.__version__,
        "calling_convention_version": program.calling_convention_version,
        "platforms": list(program.platforms),
        "matmul_precision": "highest",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.stablehlo").write_bytes(program.serialize())
    save_file(params, str(folder / "params.safetensors"), {"format": "np"})
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    text = USE.strip().format(shape=f"(batch, {size[0]}, {size[1]}, 3)")
    (folder / "README.md").write_text(export.card(found, metadata, text))
    return folder


def refuse_custom_calls(module: str) -> None:
    """Checks that a program has no custom calls, which are not available on every platform.

    Raises:
      ValueError: it has some; the message names them.
    """
    calls = set(re.findall(r'custom_call\s+@"?([^\s"(]+)', module)) - ALLOWED_CALLS
    if calls:
        raise ValueError(
            f"the program calls {', '.join(sorted(calls))}, which not every platform has; "
            "implement it with plain operations"
        )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ckpt")
    parser.add_argument("dst")
    parser.add_argument("--size", type=int, help="side of a square; else what it was trained for")
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--model-version", dest="version", help="v1 or v2, where CKPT lacks it")
    parser.add_argument("--max-depth", "--max_depth", type=float, help="metres, of a metric model")
    args = parser.parse_args(arguments)
    if (args.height is None) != (args.width is None) or None not in (args.size, args.height):
        parser.error("give --size, or --height and --width")
    try:
        found = pretrained.load(args.ckpt, version=args.version, max_depth=args.max_depth)
        size = export.own_size(found)
        if args.size is not None:
            size = (args.size, args.size)
        elif args.height is not None:
            size = (args.height, args.width)
        folder = export_stablehlo(found, args.dst, size)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(folder.iterdir())}
    files = ", ".join(f"{name} {megabytes:.1f} MB" for name, megabytes in sizes.items())
    print(f"{folder}: {found.variant}, licence {found.licence or 'unknown'}: {files}")


if __name__ == "__main__":
    main()
