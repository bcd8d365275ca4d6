"""Relative improvement: its sign, which images count, means over sets and metrics."""

import math

import pytest

from depth_anything_jax.evaluation.scores import relative_improvement
from depth_anything_jax.evaluation.scores.aggregate import METRICS, ImageScores


def image(key, abs_rel, delta1, dataset="nyu", **more):
    return ImageScores(key, dataset, abs_rel=abs_rel, delta1=delta1, n=10, protocol="h", **more)


def test_every_metric_has_a_direction():
    assert set(METRICS) - {"log_bias"} <= set(relative_improvement.METRICS)  # a bias is best at 0
    assert not set(relative_improvement.LOWER_IS_BETTER) & set(
        relative_improvement.HIGHER_IS_BETTER
    )
    for name in relative_improvement.LOWER_IS_BETTER:
        assert relative_improvement.of_metric(name, 0.09, 0.1) == pytest.approx(0.1)
    for name in relative_improvement.HIGHER_IS_BETTER:
        assert relative_improvement.of_metric(name, 0.99, 0.9) == pytest.approx(0.1)
    assert math.isnan(relative_improvement.of_metric("rmse", 1.0, 0.0))
    assert math.isnan(relative_improvement.of_metric("rmse", math.nan, 1.0))


def test_only_images_that_both_scored_count():
    ours = [image("a", 0.1, 0.9), image("b", 0.3, 0.5), image("c", 9.0, 0.0)]
    theirs = [image("b", 0.4, 0.4), image("a", 0.4, 0.8), image("d", 0.0, 1.0)]
    theirs.append(image("c", math.nan, math.nan, why="3 valid pixels"))
    found = relative_improvement.improvement(ours, theirs)
    assert found["images"] == 2
    assert found["abs_rel"] == pytest.approx(0.5)  # .2 against .4
    assert found["delta1"] == pytest.approx((0.7 - 0.6) / 0.6)
    assert math.isnan(found["accuracy"]) and math.isnan(found["rmse"])
    with pytest.raises(ValueError, match="a: scored under different protocols, h and g"):
        relative_improvement.improvement(ours, [image("a", 0.1, 1.0)._replace(protocol="g")])


def test_pixel_and_sequence_means_are_those_of_the_protocol():
    ours = [image("a", 0.1, 1.0), image("b", 0.4, 1.0)._replace(n=30)]
    theirs = [i._replace(abs_rel=1.0) for i in ours]
    assert relative_improvement.improvement(ours, theirs)["abs_rel"] == pytest.approx(0.75)
    by_pixel = relative_improvement.improvement(ours, theirs, "pixel")["abs_rel"]
    assert by_pixel == pytest.approx(1 - (10 * 0.1 + 30 * 0.4) / 40)


def test_pairs_are_pooled():
    def pairs(key, correct, n):
        return ImageScores(key, "da2k", correct=correct, pairs=n, protocol="h")

    found = relative_improvement.improvement([pairs("a", 8, 10), pairs("b", 1, 1)],
                                 [pairs("a", 7, 10), pairs("b", 1, 1)])  # fmt: skip
    assert found["accuracy"] == pytest.approx(1 / 8) and found["whdr"] == pytest.approx(1 / 3)


def test_means_are_over_sets_then_metrics():
    sets = [
        dict.fromkeys(relative_improvement.METRICS, math.nan)
        | {"images": 2, "abs_rel": 0.2, "delta1": 0.1},
        dict.fromkeys(relative_improvement.METRICS, math.nan) | {"images": 5, "abs_rel": -0.1},
        dict.fromkeys(relative_improvement.METRICS, math.nan) | {"images": 0},
    ]
    found = relative_improvement.mean_improvement(sets)
    assert (found["sets"], found["images"]) == (2, 7)
    assert found["abs_rel"] == pytest.approx(0.05) and found["delta1"] == pytest.approx(0.1)
    assert found["mri"] == pytest.approx(0.075)  # of AbsRel and δ1: none has RMSE
    assert math.isnan(relative_improvement.mean_improvement([])["mri"])


def row(checkpoint, dataset="nyu", digest="h", **more):
    return {"checkpoint": checkpoint, "reader": dataset, "set": dataset, "hash": digest} | more


def as_row(checkpoint, scores):
    fields = scores._asdict()
    return row(checkpoint, fields["dataset"], fields.pop("protocol")) | fields


def test_rows_against_a_named_checkpoint():
    rows = [row(c, s, aggregate="image") for c in ("ours", "base") for s in ("nyu", "kitti")]
    rows.append(row("ours", "ddad", aggregate="image"))
    images = [
        as_row("ours", image("a", 0.1, 0.9)), as_row("base", image("a", 0.2, 0.9)),
        as_row("ours", image("a", 0.3, 0.9, "kitti")),
        as_row("base", image("a", 0.2, 0.9, "kitti")),
        as_row("ours", image("a", 0.3, 0.9, "ddad")),
    ]  # fmt: skip
    (found,) = relative_improvement.rows(rows, images, "base")
    assert (found["checkpoint"], found["relative_to"], found["sets"]) == ("ours", "base", 2)
    assert found["abs_rel"] == pytest.approx(0.0) and found["delta1"] == 0  # +50 %, −50 %
    assert found["left_out"] == ["ddad ddad h"]
    (back,) = relative_improvement.rows(rows, images, "ours")
    assert back["abs_rel"] == pytest.approx((-1 + 1 / 3) / 2), "not symmetric: r divides"
    with pytest.raises(ValueError, match="'other' has no scores; relative to one of ours, base"):
        relative_improvement.rows(rows, images, "other")


def test_what_varies_within_a_set_is_compared_like_with_like():
    """A corruption and its severity, say."""
    rows, images = [], []
    for name, factor in (("ours", 1.0), ("base", 2.0)):
        for severity in (1, 5):
            rows.append(row(name, aggregate="image", severity=severity))
            one = image("a", factor * severity, 0.5)
            images.append(as_row(name, one) | {"severity": severity})
    (found,) = relative_improvement.rows(rows, images, "base", by=("set", "hash", "severity"))
    assert (found["sets"], found["abs_rel"]) == (2, pytest.approx(0.5))


def test_rows_come_back_from_json():
    one = image("a", 0.1, 0.9)
    plain = {k: None if v != v else v for k, v in as_row("ours", one).items()}
    assert relative_improvement.from_row(plain) == pytest.approx(one, nan_ok=True)
