"""Exports a checkpoint to PyTorch weights.

    python tools/export_torch.py CKPT DST --layout official|hf
    python tools/export_torch.py CKPT DST --layout hf --card --scores scores

CKPT: a run's folder or mirror, an Orbax checkpoint, or what else `pretrained.load` reads.
DST: official: a new .safetensors (or .pth) file; hf: a new folder, which transformers'
`from_pretrained` loads. The licence chain is included.

With --card the folder is ready for the Hugging Face Hub: its README.md is a model card with
licence, lineage, base model and, with --scores, the results of `evaluate --out`. Nothing is
uploaded; the line that does so is printed.
"""

import argparse
import pathlib

from depth_anything_jax.checkpoints import export, model_card, pretrained
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.evaluation.report import model_index, tables


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
    parser.add_argument(
        "--int8", action="store_true", help="8-bit kernels: a quarter as large; for this project"
    )
    parser.add_argument("--card", action="store_true", help="write a model card for the Hub")
    parser.add_argument("--scores", help="for --card: the folder of evaluate --out")
    parser.add_argument(
        "--scored-as", help="which candidate of --scores this is, where it has several; else CKPT"
    )
    parser.add_argument(
        "--base-model",
        action="append",
        default=[],
        metavar="OWNER/NAME",
        help="for --card: what CKPT was trained from, where its lineage names no released model",
    )
    args = parser.parse_args(arguments)
    if args.card and args.layout != "hf":
        parser.error("--card is for --layout hf")
    if not args.card and (args.scores or args.scored_as or args.base_model):
        parser.error("--scores, --scored-as and --base-model are for --card")
    try:
        found = pretrained.load(args.ckpt, version=args.version, max_depth=args.max_depth)
        text = _card(found, args) if args.card else ""  # before anything is written
        path = export.export(found, args.dst, layout=args.layout, int8=args.int8)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"{path}: {found.parts} of {found.variant}, licence {found.licence or 'unknown'}")
    if text:
        (path / "README.md").write_text(text, encoding="utf-8")
        print(f"to upload it: {model_card.UPLOAD.format(folder=path)}")


def _card(found: Weights, args: argparse.Namespace) -> str:
    rows = model_index.read(args.scores, args.scored_as or args.ckpt) if args.scores else []
    return model_card.card(
        found,
        pathlib.PurePath(args.dst).name,
        base_model=args.base_model,
        results=model_index.results(rows),
        scores=tables.table(rows) if rows else "",
    )


if __name__ == "__main__":
    main()
