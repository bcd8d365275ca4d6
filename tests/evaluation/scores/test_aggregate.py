"""Means of image scores: exact under shards and order, and over pixels as from all pixels."""

import math

import numpy as np
import pytest

from depth_anything_jax.evaluation.scores import aggregate, metrics
from depth_anything_jax.evaluation.scores.aggregate import METRICS, ImageScores


def images(count=60, seed=0):
    """Random images, their pixels, and some without scores."""
    rng = np.random.default_rng(seed)
    found, pixels = [], []
    for i in range(count):
        n = int(rng.integers(1, 400))
        g = rng.uniform(0.5, 60, n)
        p = g * rng.lognormal(rng.normal(0, 0.3), 0.2, n)
        errors = metrics.errors(p, g)._asdict()
        image = ImageScores(f"{i:03}.png", "set", f"scene{i % 7}", n=n, **errors)
        image = image._replace(norm_l1=rng.uniform(), boundary1=math.nan if i % 3 else 0.25)
        if i % 10 == 9:
            image = ImageScores(f"{i:03}.png", "set", n=3, why="3 valid pixels")
        else:
            pixels.append((p, g))
        found.append(image)
    return found, pixels


@pytest.mark.parametrize("how", ["image", "pixel", "sequence"])
def test_order_and_shards_change_nothing(how):
    found, _ = images()
    expected = aggregate.means(found, how)
    rng = np.random.default_rng(1)
    for shards in (1, 2, 8):
        shuffled = [found[i] for i in rng.permutation(len(found))]
        merged = aggregate.merge([shuffled[i::shards] for i in range(shards)])
        assert [i.key for i in merged] == [i.key for i in found]
        for part in (merged, shuffled):
            again = aggregate.means(part, how)
            # fsum is exact; only the division of weighted sums rounds.
            assert again == pytest.approx(expected, rel=1e-12, nan_ok=True)
            assert how != "image" or {k: v for k, v in again.items() if v == v} == {
                k: v for k, v in expected.items() if v == v
            }


def test_no_image_is_counted_twice():
    found, _ = images()
    with pytest.raises(ValueError, match="010.png of 'set' is scored twice"):
        aggregate.merge([found[:11], found[10:]])
    other = found[10]._replace(dataset="another set")
    assert len(aggregate.merge([found, [other]])) == 61


def test_image_means_by_hand():
    found, _ = images()
    scored = [i for i in found if not i.why]
    expected = sum(i.abs_rel for i in scored) / len(scored)
    means = aggregate.means(found)
    assert len(scored) == 54 and means["abs_rel"] == pytest.approx(expected, rel=1e-14)
    assert means["boundary1"] == 0.25 and math.isnan(means["boundary2"])
    assert means.keys() == set(METRICS)
    assert all(math.isnan(v) for v in aggregate.means([]).values())
    with pytest.raises(ValueError, match="aggregate 'set': one of image, pixel, sequence"):
        aggregate.means(found, "set")


def test_pixel_pools_are_the_metrics_of_all_pixels():
    found, pixels = images()
    p, g = (np.concatenate(x) for x in zip(*pixels, strict=True))
    expected = metrics.errors(p, g)._asdict()
    pooled = aggregate.means(found, "pixel")
    means = aggregate.means(found)
    for name, value in expected.items():
        assert pooled[name] == pytest.approx(value, rel=1e-12), name  # float64 sums
        assert pooled[name] != pytest.approx(means[name], rel=1e-3), name
    assert pooled["norm_l1"] == means["norm_l1"]


def test_sequences_count_alike_however_long():
    def image(key, sequence, value):
        return ImageScores(key, "s", sequence, abs_rel=value, n=5)

    found = [image("a", "long", 0.1), image("b", "long", 0.3), image("c", "short", 0.8)]
    assert aggregate.means(found, "sequence")["abs_rel"] == pytest.approx(0.5)
    assert aggregate.means(found)["abs_rel"] == pytest.approx(0.4)
