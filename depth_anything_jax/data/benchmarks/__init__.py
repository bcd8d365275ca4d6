"""Evaluation sets as they are downloaded: `make(name, folder)`, a sequence of records (`base`).

A reader accepts its set's original layout only and checks how many images the split has, so that
no number comes from a half-unpacked copy. What each one looks for: docs/benchmarks.md.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

from depth_anything_jax.data.benchmarks.base import BenchmarkError, Card, Reader
from depth_anything_jax.data.benchmarks.indoor import SUNRGBD, TUM, IBims, ScanNet
from depth_anything_jax.data.benchmarks.kitti import KITTI
from depth_anything_jax.data.benchmarks.moge import MoGe
from depth_anything_jax.data.benchmarks.nyu import NYU
from depth_anything_jax.data.benchmarks.points import DA2K, DIW
from depth_anything_jax.data.benchmarks.rendered import VKITTI2, Hypersim, Sintel
from depth_anything_jax.data.benchmarks.scanned import DDAD, DIODE, ETH3D
from depth_anything_jax.data.benchmarks.stereo import DIML, Middlebury
from depth_anything_jax.data.sources.base import Source
from depth_anything_jax.utils.choices import did_you_mean

READERS: dict[str, type[Reader]] = {
    reader.name: reader
    for reader in (
        NYU,
        KITTI,
        Sintel,
        ETH3D,
        DIODE,
        DDAD,
        DIML,
        IBims,
        SUNRGBD,
        Hypersim,
        VKITTI2,
        ScanNet,
        TUM,
        Middlebury,
        DIW,
        DA2K,
        MoGe,
    )  # fmt: skip
}


def cards() -> dict[str, Card]:
    """The cards of all sets, by the name that `make` takes."""
    return {name: reader.card for name, reader in READERS.items()}


def make(name: str, folder: str | os.PathLike[str], **options: Any) -> Source:
    """A reader of an evaluation set.

    Args:
      name: a key of READERS.
      folder: where the set lies.
      **options: the reader's own, such as split, list_file or partial.

    Raises:
      BenchmarkError: an unknown name or option (naming the nearest one), a layout that is not
        there, or too few images.
    """
    if name not in READERS:
        raise BenchmarkError(
            f"unknown evaluation set {name!r}"
            + (did_you_mean(name.lower(), READERS) or f": one of {', '.join(READERS)}")
        )
    parameters = inspect.signature(READERS[name]).parameters
    takes = [option for option in parameters if option != "folder"]
    for option in options:
        if option not in takes:
            raise BenchmarkError(
                f"{name} has no option {option!r}"
                + (did_you_mean(option, takes) or f": it takes {', '.join(takes)}")
            )
    for option in takes:
        if parameters[option].default is inspect.Parameter.empty and option not in options:
            raise BenchmarkError(f"{name} needs the option {option!r}: {READERS[name].card.split}")
    return READERS[name](folder, **options)
