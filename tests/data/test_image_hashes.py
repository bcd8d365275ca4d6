"""image_hashes.py: versions of a picture are near, other pictures far, flat ones nothing."""

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import image_hashes
from depth_anything_jax.data.scenes.render import render


@pytest.fixture(scope="module")
def pictures():
    return [render("A", 0, i, 112)["image"] for i in range(6)]


VERSIONS = {
    "smaller": lambda x: cv2.resize(x, (50, 50), interpolation=cv2.INTER_AREA),
    "darker": lambda x: (x * 0.8).astype(np.uint8),
    "jpeg": lambda x: cv2.imdecode(cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_of_a_picture_are_found_and_others_not(pictures, version):
    own = [image_hashes.image_hash(x) for x in pictures]
    other = [image_hashes.image_hash(VERSIONS[version](x)) for x in pictures]
    pairs = image_hashes.near_duplicates(own, other)
    assert [(p.first, p.second) for p in pairs] == [(i, i) for i in range(6)]
    everything = image_hashes.near_duplicates(own, own, most=128)
    assert min(p.bits for p in everything if p.first != p.second) > 2 * image_hashes.NEAR


def test_mirror_images_and_blocks(pictures, monkeypatch):
    own = [image_hashes.image_hash(x) for x in pictures]
    mirrored = [image_hashes.image_hash(x[:, ::-1].copy(), mirrored=True) for x in pictures]
    monkeypatch.setattr(image_hashes, "BLOCK", 4)
    found = image_hashes.near_duplicates(own, mirrored, most=0)
    assert found == [(i, i, 0) for i in range(6)]


def test_flat_pictures_match_nothing():
    flat = image_hashes.image_hash(np.full((30, 40, 3), 90, np.uint8))
    assert flat is None and image_hashes.near_duplicates([flat], [flat]) == []
