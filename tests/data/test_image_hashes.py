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


@pytest.mark.parametrize("most", [0, 8, 11, 20])
def test_looking_up_finds_what_comparing_all_finds(most, monkeypatch):
    """Planted pairs that differ in 0 to 25 bits, and a hash that a third of the images share."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**63, (600, 2), np.int64).astype(np.uint64)
    second = rng.integers(0, 2**63, (900, 2), np.int64).astype(np.uint64)
    for i in range(300):
        bits = np.unpackbits(first[i].view(np.uint8))
        bits[rng.choice(128, i % 26, replace=False)] ^= 1
        second[3 * i] = np.packbits(bits).view(np.uint64)
    first[400:] = second[301]
    second[600::3] = second[301]
    monkeypatch.setattr(image_hashes, "PAIRS", 1000)
    found = image_hashes.near_duplicates([*first, None], [None, *second], most=most)
    all_bits = np.bitwise_count(first[:, None] ^ second[None]).sum(-1)
    expected = [
        (i, j + 1, all_bits[i, j]) for i, j in zip(*np.nonzero(all_bits <= most), strict=True)
    ]
    assert found == expected and len(found) > 10_000


def test_lookups_grow_slower_than_pairs(monkeypatch):
    """Of 40 million pairs of random hashes one in 400 is compared, itself among them."""
    rng = np.random.default_rng(0)
    hashes = list(rng.integers(0, 2**63, (6400, 2), np.int64).astype(np.uint64))
    compared = []
    candidates = image_hashes._candidates

    def counted(*arguments):
        for i, j in candidates(*arguments):
            compared.append(len(i))
            yield i, j

    monkeypatch.setattr(image_hashes, "_candidates", counted)
    found = image_hashes.near_duplicates(hashes, hashes)
    assert [(p.first, p.second) for p in found] == [(i, i) for i in range(6400)]
    assert sum(compared) < 6400**2 / 400
