"""Converts torch weights to an Orbax checkpoint.

    python tools/import_torch.py SRC DST [--model-version v1|v2] [--max-depth METRES]
                                 [--allow-missing REGEX [--fill init|zeros]]

SRC: a .safetensors, .pth or .bin file, a folder of transformers', or a Hugging Face id.
DST: a new folder, for `--config.init_from`, `--checkpoint` and `pretrained.load`.
"""

import argparse

from depth_anything_jax.checkpoints import export, orbax_io, pretrained


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("src")
    parser.add_argument("dst")
    parser.add_argument("--model-version", dest="version", help="v1 or v2, where SRC lacks it")
    parser.add_argument("--variant", help="size, where the shapes do not tell")
    parser.add_argument("--max-depth", "--max_depth", type=float, help="metres, of a metric model")
    parser.add_argument(
        "--allow-missing", "--allow_missing", metavar="REGEX", help="missing tensors to fill"
    )
    parser.add_argument("--fill", default="init", choices=pretrained.FILLS, help="what with")
    args = parser.parse_args(arguments)
    try:
        found = pretrained.load(
            args.src,
            version=args.version,
            variant=args.variant,
            max_depth=args.max_depth,
            allow_missing=args.allow_missing,
            fill=args.fill,
        )
        metadata = export.describe(found)
        orbax_io.save_params(args.dst, found.params, metadata)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"{args.dst}: {found.parts} of {found.variant}, licence {metadata['licence']}")
    for name in metadata.get("filled", {}).get("tensors", []):
        print(f"  filled by {args.fill}: {name}")


if __name__ == "__main__":
    main()
