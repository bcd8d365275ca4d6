"""Draws what the camera perturbations do to photos: a sheet to choose their ranges by.

    python tools/camera_sheet.py --out camera.png photos/a.jpg photos/b.jpg
    python tools/camera_sheet.py --out camera.png --side 518 --perturb "noise.shot=(0.001,0.05)" \
        photos/a.jpg

A row for each photo: the crop, then each kind of training/camera_perturb.py alone, with the ranges
of configs/common.py or those that --perturb gives, and all kinds together.
"""

from __future__ import annotations

import argparse
import ast
import pathlib
import runpy
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from depth_anything_jax import configs
from depth_anything_jax.data import transforms
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.training.camera_perturb import RANGES
from depth_anything_jax.visualization import contact_sheets


def ranges(changes: Sequence[str]) -> ConfigDict:
    """Returns perturb.camera of the shipped configs with changes "kind.range=(low, high)"."""
    config = runpy.run_path(str(configs.folder() / "common.py"))["get_config"]()
    camera = config.perturb.camera
    for change in changes:
        name, equals, value = change.partition("=")
        kind, _, field = name.partition(".")
        if not equals or field not in camera.get(kind, {}):
            known = ", ".join(f"{k}.{n}" for k, names in RANGES.items() for n in names)
            raise ValueError(
                f"--perturb {change!r}: write kind.range=(least, most), where kind.range is one of "
                f"{known}"
            )
        camera[kind][field] = ast.literal_eval(value)
    return camera


def sheet(images: Sequence[np.ndarray], camera: ConfigDict, *, seed: int = 0) -> np.ndarray:
    """Draws square crops in [0, 1] (h, w, 3), a row each: as they are, by kind, by all kinds."""
    import jax.numpy as jnp

    from depth_anything_jax.training import camera_perturb, perturb

    batch = jnp.asarray(np.stack(images))
    keys = perturb.example_keys(seed, 0, len(images))

    def seen(names: Sequence[str]) -> np.ndarray:
        x = batch
        kinds: dict[str, Any] = {n: {**camera[n], "p": 1.0} for n in names}
        if "fov" in kinds:
            x = camera_perturb.narrow(keys, {"image": x}, **kinds.pop("fov"))["image"]
        x = camera_perturb.camera(keys, x, **kinds)
        return np.round(255 * np.asarray(x)).astype(np.uint8)

    columns = [("as it is", "", seen(()))]
    for kind, names in RANGES.items():
        words = ", ".join(f"{n} {camera[kind][n][0]:g} to {camera[kind][n][1]:g}" for n in names)
        columns.append((kind, words, seen((kind,))))
    columns.append(("all of them", "", seen(tuple(RANGES))))
    rows = [
        contact_sheets.row(
            *(contact_sheets.tile(x[i], title, words) for title, words, x in columns)
        )
        for i in range(len(images))
    ]
    return np.concatenate(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="+", help="image files")
    parser.add_argument("--out", required=True, help="the PNG")
    parser.add_argument("--side", type=int, default=224, help="pixels of the crop in the middle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--perturb", action="append", default=[], metavar="KIND.RANGE=(LOW,HIGH)", help="a range"
    )
    options = parser.parse_args(argv)
    crops = []
    for path in options.photos:
        image = formats.decode_image(formats.read_bytes(path), path)
        height, width = image.shape[:2]
        scale = options.side / min(height, width)
        image = transforms.resize_image(image, round(height * scale), round(width * scale))
        top, left = ((n - options.side) // 2 for n in image.shape[:2])
        crops.append(image[top : top + options.side, left : left + options.side].clip(0, 1))
    drawn = sheet(crops, ranges(options.perturb), seed=options.seed)
    pathlib.Path(options.out).write_bytes(formats.encode_png(drawn))


if __name__ == "__main__":
    main()
