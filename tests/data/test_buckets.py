"""Buckets: lengths are compared by how much they stretch an image, in either direction."""

import itertools
import math

import numpy as np
import pytest

from depth_anything_jax.data import buckets, transforms


def stretch(shapes, lengths):
    return sum(min(abs(math.log(b / max(s))) for b in lengths) for s in shapes)


def test_the_nearest_bucket_is_the_one_that_stretches_least():
    """602 pixels go to 882 (× 1.47), not to 406 (÷ 1.48), which is nearer by 84 pixels."""
    assert transforms.network_size(300, 602, 300, patch_size=14)[1] == 602
    assert buckets.label_shape(300, 602, 300, [406, 882], patch_size=14)[1] == 882
    assert buckets.label_shape(602, 300, 300, [406, 882], patch_size=14)[0] == 882
    assert buckets.label_shape(300, 602, 300, [406, 826, 882], patch_size=14)[1] == 826


def test_lengths_are_chosen_by_their_ratio_too():
    """11 patches go to 5, a factor of 2.2; from 2 to 5 it is less far, and a factor of 2.5."""
    assert buckets.choose([(14, 14 * n) for n in (2, 5, 5, 11)], 2) == [28, 70]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_lengths_chosen_stretch_least_of_all(k):
    rng = np.random.default_rng(k)
    shapes = [(14, 14 * int(n)) for n in rng.integers(1, 60, 30)]
    lengths = sorted({max(s) for s in shapes})
    best = min(stretch(shapes, c) for c in itertools.combinations(lengths, k))
    assert stretch(shapes, buckets.choose(shapes, k)) == pytest.approx(best)
