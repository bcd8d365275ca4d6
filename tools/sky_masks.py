"""Makes sky masks for RGB-D pairs: depth labels lack the sky, which V1 sets to the farthest (3.1).

    python tools/sky_masks.py --source rgbd:data/megadepth --out data/megadepth_sky
    python tools/sky_masks.py --source "rgbd:pairs?scenes=park" --out park_sky \
        --model runs/segformer --batch_size 8
    python tools/prepare_data.py --source "rgbd:data/megadepth_sky?outside=True" --out data \
        --name megadepth

A semantic segmentation model of transformers (the [torch] extra; a hub id or a local folder)
classifies every pixel of a label as sky or not. The default is the paper's SegFormer, fine-tuned on
ADE20K by its authors, whose licence does not allow commercial use; any other model with a class
"sky" can be used. The masks are written to OUT with a manifest.json of all pairs, to be read as
rgbd:OUT?outside=True: images and labels are not moved, so they lie outside OUT. Pairs that have a
mask, or whose label marks the sky itself (sky_above), are listed unchanged. Where a label is valid,
training uses it and ignores the mask (loss.sky).

The same command continues after an interruption. Pairs that cannot be read are reported and left
out of the manifest; the exit status is then 3.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from depth_anything_jax.data import registry
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources import manifest
from depth_anything_jax.data.sources.files import RGBDSource

MODEL = "nvidia/segformer-b5-finetuned-ade-640-640"  # V1 3.1 names SegFormer, not its size
CARD = "card.json"
Segment = Callable[[Sequence[np.ndarray], Sequence[tuple[int, int]]], list[np.ndarray]]


def load_model(source: str, label: str, device: str) -> Segment:
    """Loads a model as (RGB images uint8, sizes (h, w)) -> bool masks, True where `label` is.

    Raises:
      SystemExit: PyTorch is missing, there is no such model, or it has no class `label`.
    """
    try:
        import torch
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
    except ImportError as error:
        raise SystemExit(
            f"sky masks need PyTorch and transformers ({error}): pip install "
            "'depth_anything_jax[torch]'"
        ) from error
    try:
        processor = AutoImageProcessor.from_pretrained(source)
        model = AutoModelForSemanticSegmentation.from_pretrained(source).eval().to(device)
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"--model {source}: {error}\nWithout a network, download the model's folder elsewhere "
            "(config.json, preprocessor_config.json, model.safetensors) and give its path"
        ) from error
    names = {int(i): name for i, name in model.config.id2label.items()}
    found = [i for i, name in names.items() if label in (x.strip() for x in name.split(","))]
    if not found:
        known = ", ".join(list(names.values())[:20])
        raise SystemExit(f"--label {label!r}: {source} has no such class; it has {known} …")

    def segment(images, sizes):
        inputs = processor(images=list(images), return_tensors="pt").to(device)
        with torch.inference_mode():
            outputs = model(**inputs)
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=list(sizes))
        return [np.isin(m.cpu().numpy(), found) for m in maps]

    return segment


def mask_name(entry: manifest.Entry) -> str:
    """Returns the path of an image's mask, relative to OUT."""
    parts = [p for p in pathlib.PurePath(entry.rgb).parts if p not in ("/", "..", ".")]
    return str(pathlib.PurePosixPath("masks", *parts)) + ".png"


def moved(entry: manifest.Entry, root: str, out: pathlib.Path, **changes: Any) -> dict[str, Any]:
    """Returns an entry's fields for a manifest in `out`; its paths were relative to `root`."""

    def path(relative: str | None) -> str | None:
        if relative is None:
            return None
        return os.path.relpath(os.path.join(os.path.abspath(root), relative), out.resolve())

    paths = {name: path(getattr(entry, name)) for name in ("rgb", "depth", "valid", "sky")}
    return manifest.to_fields(dataclasses.replace(entry, **{**paths, **changes}))


def needs_mask(entry: manifest.Entry) -> bool:
    """Whether an entry has neither a sky mask nor a label that marks the sky."""
    return entry.sky is None and not entry.label_format.tells_sky


def read_pairs(
    source: RGBDSource, todo: Sequence[int], errors: dict[int, str]
) -> Iterator[tuple[int, np.ndarray, tuple[int, int]]]:
    """Yields (index, image, size of its label) for readable pairs; adds the others to `errors`."""
    for index in todo:
        try:
            record = source[index]
            view = source.entries[index].view
            if view.orientation == "stored" or view.crop:
                raise ValueError(
                    "label_orientation=stored and label_crop are not supported; turn or pad the "
                    "label file"
                )
        except Exception as error:  # a broken file must not prevent processing the others
            errors[index] = f"{type(error).__name__}: {error}"
            print(f"left out: {source.key(index)}: {errors[index]}", flush=True)
            continue
        yield index, record["image"], record["valid"].shape


def write_masks(
    source: RGBDSource,
    out: pathlib.Path,
    segment: Segment,
    *,
    batch_size: int,
    tell: Callable[[str], None] = print,
) -> dict[int, str]:
    """Writes the missing masks; returns the errors of pairs that could not be read, by index."""
    errors: dict[int, str] = {}
    wanted = [i for i, entry in enumerate(source.entries) if needs_mask(entry)]
    todo = [i for i in wanted if not (out / mask_name(source.entries[i])).is_file()]
    tell(
        f"{len(source)} pairs: {len(source) - len(wanted)} need no mask, "
        f"{len(wanted) - len(todo)} masks exist, {len(todo)} to make"
    )
    start = shown = time.monotonic()
    done = 0
    batch: list[tuple[int, np.ndarray, tuple[int, int]]] = []

    def flush() -> None:
        nonlocal done, shown
        indices, images, sizes = zip(*batch, strict=True)
        for index, mask in zip(indices, segment(images, sizes), strict=True):
            target = out / mask_name(source.entries[index])
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(f".{target.name}.tmp")
            aside.write_bytes(formats.encode_png(mask.astype(np.uint8) * 255))
            aside.replace(target)
        done += len(batch)
        batch.clear()
        now = time.monotonic()
        if now - shown >= 5 or done == len(todo):
            shown, rate = now, done / (now - start)
            tell(f"{done}/{len(todo)} masks  {rate:.2f}/s  ETA {(len(todo) - done) / rate:.0f} s")

    for pair in read_pairs(source, todo, errors):
        batch.append(pair)
        if len(batch) == batch_size:
            flush()
    if batch:
        flush()
    return errors


def write_manifest(source: RGBDSource, out: pathlib.Path, errors: dict[int, str]) -> dict[str, Any]:
    """Writes manifest.json of all pairs except those in `errors`; returns counts for the card."""
    rows, shares = [], []
    for index, entry in enumerate(source.entries):
        if index in errors:
            continue
        if needs_mask(entry):
            name = mask_name(entry)
            shares.append(float(formats.read_mask(out / name).mean()))
            rows.append(moved(entry, source.root, out, sky=name))
        else:
            rows.append(moved(entry, source.root, out))
    if not rows:
        raise SystemExit(f"none of the {len(source)} pairs could be read: no manifest written")
    aside = out / "manifest.json.tmp"
    aside.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    aside.replace(out / "manifest.json")
    return {
        "pairs": len(rows),
        "masks": len(shares),
        "with_sky": sum(s > 0 for s in shares),
        "mean_share": round(float(np.mean(shares)), 4) if shares else 0.0,
        "left_out": {source.key(i): error for i, error in errors.items()},
    }


def check_folder(out: pathlib.Path, identity: dict[str, Any]) -> None:
    """Checks that a folder is new, or was begun by the same command.

    Raises:
      SystemExit: it holds other files, or masks of another model.
    """
    card = out / CARD
    if card.is_file():
        old = json.loads(card.read_text())
        differ = [k for k in identity if old.get(k) != identity[k]]
        if differ:
            text = "; ".join(f"{k} {old.get(k)!r}, now {identity[k]!r}" for k in differ)
            raise SystemExit(f"{out} was begun with another {text}. Use another --out")
    elif out.is_dir() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty and holds no {CARD}; choose another --out")


def main(argv: list[str] | None = None) -> None:
    """Makes the masks; exits with 1 and a message where nothing can be made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="rgbd:PATH or pairs:PATH (docs/data.md)")
    parser.add_argument("--out", required=True, help="folder for masks and manifest")
    parser.add_argument("--model", default=MODEL, help="hub id or folder (default: %(default)s)")
    parser.add_argument("--label", default="sky", help="the class's name (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=1, help="images at a time")
    parser.add_argument("--device", default="cpu", help="PyTorch's name of it: cpu, cuda, …")
    options = parser.parse_args(argv)
    if options.batch_size < 1:
        parser.error(f"--batch_size {options.batch_size}: use 1 or more")
    try:
        source = registry.make(registry.parse(options.source))
    except (ValueError, OSError) as error:
        raise SystemExit(f"--source {options.source}: {error}") from error
    if not isinstance(source, RGBDSource) or not source.labelled:
        raise SystemExit(
            f"--source {options.source}: masks can only be made for labels in files; give rgbd:… "
            "or pairs:…, without slice= and labelled=False"
        )
    out = pathlib.Path(options.out).expanduser()
    names = [mask_name(e) for e in source.entries if needs_mask(e)]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise SystemExit(f"--source {options.source}: two pairs share an image, {twice[6:-4]}")
    identity = {"source": options.source, "model": options.model, "label": options.label}
    check_folder(out, identity)
    cv2.setNumThreads(1)  # PyTorch has the cores
    segment = load_model(options.model, options.label, options.device) if names else None
    out.mkdir(parents=True, exist_ok=True)
    if not (out / CARD).is_file():  # after loading the model, whose name may have been wrong
        (out / CARD).write_text(json.dumps(identity, indent=1) + "\n")
    errors = write_masks(source, out, segment, batch_size=options.batch_size) if segment else {}
    counts = write_manifest(source, out, errors)
    (out / CARD).write_text(json.dumps({**identity, **counts}, indent=1, ensure_ascii=False) + "\n")
    print(
        f"{out}: {counts['masks']} masks, {counts['with_sky']} of them with sky "
        f"({counts['mean_share']:.1%} of the pixels); read it as "
        f"rgbd:{options.out}?outside=True"
    )
    if errors:
        print(f"{len(errors)} of {len(source)} pairs were left out: see {out / CARD}")
        sys.exit(3)


if __name__ == "__main__":
    main()
