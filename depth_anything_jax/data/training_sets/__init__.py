"""The training sets of Depth Anything V1 and V2, read as they are downloaded.

`SETS` is the only table of them: its names are types of sources (`hypersim:DIR`, `data.registry`),
what tools/prepare_data.py takes, and the rows of docs/data.md.
"""

from __future__ import annotations

from depth_anything_jax.data.training_sets.base import TrainingSet
from depth_anything_jax.data.training_sets.bdd100k import BDD100K
from depth_anything_jax.data.training_sets.blendedmvs import BlendedMVS
from depth_anything_jax.data.training_sets.diml import DIML
from depth_anything_jax.data.training_sets.hrwsi import HRWSI
from depth_anything_jax.data.training_sets.hypersim import Hypersim
from depth_anything_jax.data.training_sets.imagenet21k import ImageNet21K
from depth_anything_jax.data.training_sets.irs import IRS
from depth_anything_jax.data.training_sets.landmarks import Landmarks
from depth_anything_jax.data.training_sets.lsun import LSUN
from depth_anything_jax.data.training_sets.megadepth import MegaDepth
from depth_anything_jax.data.training_sets.objects365 import Objects365
from depth_anything_jax.data.training_sets.openimages import OpenImages
from depth_anything_jax.data.training_sets.places365 import Places365
from depth_anything_jax.data.training_sets.sa1b import SA1B
from depth_anything_jax.data.training_sets.tartanair import TartanAir
from depth_anything_jax.data.training_sets.vkitti2 import VKITTI2

SETS: dict[str, type[TrainingSet]] = {
    reader.set_name: reader
    for reader in (
        BlendedMVS,
        DIML,
        HRWSI,
        Hypersim,
        IRS,
        MegaDepth,
        TartanAir,
        VKITTI2,
        BDD100K,
        ImageNet21K,
        Landmarks,
        LSUN,
        Objects365,
        OpenImages,
        Places365,
        SA1B,
    )  # fmt: skip
}

# Images that the papers count, in thousands: V1 Table 1; V2's section 7 for Hypersim and Virtual
# KITTI 2. `configs/common.py` has them by mixture.
COUNTS = {
    "bdd100k": 8200,
    "blendedmvs": 115,
    "diml": 927,
    "hrwsi": 20,
    "hypersim": 60,
    "imagenet21k": 13100,
    "irs": 103,
    "landmarks": 4100,
    "lsun": 9800,
    "megadepth": 128,
    "objects365": 1700,
    "openimages": 7800,
    "places365": 6500,
    "sa1b": 11100,
    "tartanair": 306,
    "vkitti2": 20,
}


def papers_count(name: str) -> str:
    """Says how many images the papers count of a set, "" of others."""
    return f"the papers count {COUNTS[name]:,} thousand" if name in COUNTS else ""
