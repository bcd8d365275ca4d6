"""Exports a checkpoint to PyTorch weights.

    python tools/export_torch.py CKPT DST --layout official|hf

CKPT: a run's folder, an Orbax checkpoint, or anything else that `pretrained.load` reads.
DST: official: a new .safetensors (or .pth) file; hf: a new folder, which transformers'
`from_pretrained` loads. The licence chain is included.
"""

import argparse

from depth_anything_jax.checkpoints import export, pretrained


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ckpt")
    parser.add_argument("dst")
    parser.add_argument("--layout", required=True, choices=export.LAYOUTS)
    parser.add_argument("--model-version", dest="version", help="v1 or v2, where CKPT lacks it")
    parser.add_argument("--max-depth", "--max_depth", type=float, help="metres, of a metric model")
    args = parser.parse_args(arguments)
    try:
        found = pretrained.load(args.ckpt, version=args.version, max_depth=args.max_depth)
        path = export.export(found, args.dst, layout=args.layout)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"{path}: {found.parts} of {found.variant}, licence {found.licence or 'unknown'}")


if __name__ == "__main__":
    main()
