"""Point pairs: where they are read, ties, swaps, depth, pools."""

import json

import numpy as np
import pytest

from depth_anything_jax.data import benchmarks
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.runner import loop, predictors
from depth_anything_jax.evaluation.scores import metrics, pairs
from tests.helpers import benchmark_files

DISPARITY = "disparity-affine"


def record(key="a.jpg", n=200, category="indoor", seed=0):
    """Pairs whose closer point is the first in half of them; the truth grows to the right."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 30, (n, 2))
    columns = np.stack([rng.integers(0, 20, n), rng.integers(20, 41, n)], 1)  # right is closer
    closer = np.ones(n, int)
    swap = np.arange(n) % 2 == 0
    columns[swap], closer[swap] = columns[swap][:, ::-1], 0
    return {
        "key": key, "image": np.zeros((30, 41, 3), np.uint8), "category": category,
        "points": np.stack([rows, columns], -1), "closer": closer,
    }  # fmt: skip


def counts(*arguments):
    found = pairs.score(*arguments, pairs.Rules())
    return found.correct, found.ties, found.pairs


RAMP = np.linspace(0, 1, 11)[None] + np.zeros((7, 1))


def test_the_truth_is_right_at_any_resolution_and_for_depth():
    one = record()
    assert counts(RAMP, DISPARITY, one) == (200, 0, 200)
    assert counts(RAMP, "metric", one) == (0, 0, 200)
    assert counts(1 / (RAMP + 1), "depth-scale", one) == (200, 0, 200)


def test_points_are_rows_and_columns():
    one = record(n=1) | {"points": np.array([[[3, 40], [29, 0]]]), "closer": np.array([0])}
    full = np.arange(30 * 41).reshape(30, 41)
    assert pairs.values_at(full, one).tolist() == [[3 * 41 + 40, 29 * 41]]
    one["points"] = np.array([[[40, 3], [0, 0]]])
    with pytest.raises(
        ValueError, match=r"a.jpg: point \[40, 3\] lies outside the image of \(30, 41"
    ):
        pairs.values_at(full, one)


def test_always_the_same_point_scores_half():
    """By ties nobody gains; a predictor that prefers the first point knows half of the pairs."""
    one = record()
    assert counts(np.ones((7, 11)), DISPARITY, one) == (0, 200, 200)
    assert counts(np.full((7, 11), np.nan), DISPARITY, one) == (0, 0, 200)
    assert pairs.score(np.full((7, 11), np.nan), DISPARITY, one, pairs.Rules()).not_finite == 400
    first = np.tile([2.0, 1.0], (200, 1))
    assert metrics.pair_accuracy(first, one["closer"], larger_is_closer=True).accuracy == 0.5


def test_pools_count_pairs_not_images():
    many = [
        pairs.score(RAMP, DISPARITY, record("a", 30), pairs.Rules()),
        pairs.score(-RAMP, DISPARITY, record("b", 10), pairs.Rules()),
        pairs.score(np.ones((3, 3)), DISPARITY, record("c", 10, "aerial"), pairs.Rules()),
    ]
    found = pairs.pool(many)
    assert found == {"all": (30, 10, 50), "indoor": (30, 0, 40), "aerial": (0, 10, 10)}
    assert found["indoor"].accuracy == 0.75 and pairs.whdr(found["indoor"]) == 0.25
    assert pairs.pool(many[::-1]) == found
    assert pairs.pool([]) == {"all": (0, 0, 0)}
    with pytest.raises(ValueError, match="b is scored twice"):
        pairs.pool([*many, many[1]])


def test_whdr_is_that_of_the_metrics():
    one = record(n=50)
    rng = np.random.default_rng(0)
    noisy = RAMP + rng.normal(0, 0.5, RAMP.shape)
    values = pairs.values_at(noisy, one)
    relation = np.where(one["closer"] == 0, 1, -1)  # closer is the larger disparity
    found = pairs.whdr(pairs.pool([pairs.score(noisy, DISPARITY, one, pairs.Rules())])["all"])
    assert found == pytest.approx(metrics.whdr(values, relation)) and 0 < found < 0.5


@pytest.fixture
def da2k(tmp_path):
    """DA-2K's layout: the truth grows to the right, point 1 is the closer one in half the pairs."""
    rng = np.random.default_rng(3)
    annotations = {}
    for image, count in (("indoor/a.jpg", 6), ("indoor/b.jpg", 4), ("aerial/c.jpg", 2)):
        spots = rng.permutation(30 * 41)[: 2 * count]  # no point stands in two pairs
        points = np.stack(np.unravel_index(spots, (30, 41)), -1).reshape(count, 2, 2)
        points = np.take_along_axis(points, np.argsort(points[..., 1])[..., None], 1)
        points[:, 1, 1] = np.minimum(points[:, 1, 1] + 1, 40)  # no column twice: no tie of RAMP's
        annotations[f"images/{image}"] = [
            {
                "point1": (far if k % 2 else near).tolist(),
                "point2": (near if k % 2 else far).tolist(),
                "closer_point": "point2" if k % 2 else "point1",
            }
            for k, (far, near) in enumerate(points)
        ]
        benchmark_files.write_image(tmp_path / "images" / image, 30, 41)
    benchmark_files.write(tmp_path / "annotations.json", json.dumps(annotations))
    return tmp_path


def scored(candidate, source, **options):
    found = loop.evaluate_candidate(candidate, source, **options).per_image
    return {k: tuple(v) for k, v in pairs.pool(found).items()}


def test_a_predictor_that_always_answers_point_1_knows_half_of_the_swapped_pairs(da2k):
    source = benchmarks.make("da2k", da2k)

    def first(record, rules):
        found = np.zeros(record["image"].shape[:2])
        found[tuple(record["points"][:, 0].T)] = 1
        return found

    stubborn = predictors.Candidate("point 1", DISPARITY, lookup=first)
    assert scored(stubborn, source) == {
        "all": (6, 0, 12),
        "indoor": (5, 0, 10),
        "aerial": (1, 0, 2),
    }
    knows = predictors.Candidate("truth", DISPARITY, lookup=lambda record, rules: RAMP)
    assert scored(knows, source)["all"] == (12, 0, 12)


def test_every_kind_of_candidate_is_scored_on_pairs(da2k, tmp_path):
    source = benchmarks.make("da2k", da2k)
    keys = [source.key(i) for i in range(len(source))]
    for key in keys:
        file = (tmp_path / "files" / key).with_suffix(".npy")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, 1 / (1 + np.tile(np.arange(41.0), (30, 1))))
    metric = predictors.make(f"predictions:{tmp_path}/files", kind="metric", keys=keys)
    assert scored(metric, source)["all"] == (12, 0, 12), "depth: smaller is closer"
    affine = predictors.make(f"predictions:{tmp_path}/files", kind=DISPARITY, keys=keys)
    assert scored(affine, source)["all"] == (0, 0, 12), "disparity: larger is closer"
    zero = predictors.make("baseline:zero", kind="metric")
    assert scored(zero, source)["all"] == (0, 12, 12)
    for name in ("gt", "mean"):
        with pytest.raises(
            protocols.ProtocolError, match=f"baseline:{name}: .*c.jpg is labelled with pairs of"
        ):
            scored(predictors.make(f"baseline:{name}"), source)
    assert loop.evaluate_candidate(zero, source, limit=1).per_image[0].pairs == 2

    def columns(images):  # what a network sees, 14 x 14 pixels a patch; the answer is the column
        return np.broadcast_to(np.arange(images.shape[2]), images.shape[:3]).astype(np.float32)

    network = predictors.of_network(columns, kind=DISPARITY, batch_size=2)
    small = {"input_size": 28}
    assert scored(network, source, switches=small)["all"] == (12, 0, 12)
    # The mean with the mirrored image's answer is the same everywhere: all ties.
    assert scored(network, source, switches={**small, "flip": True})["all"] == (0, 12, 12)


def test_the_hash_of_pairs_has_what_matters_and_nothing_else(da2k):
    source = benchmarks.make("da2k", da2k)
    zero = predictors.make("baseline:zero", kind="metric")

    def digest(protocol, **switches):
        found = loop.evaluate_candidate(zero, source, protocol=protocol, switches=switches)
        return {i.protocol for i in found.per_image}

    plain = {pairs.Rules().hash}
    assert plain == digest("zoe") == digest("zoe", crop="none", max_depth=5.0)
    changed = [
        digest("da", **s) for s in ({"flip": True}, {"resize": "bicubic"}, {"input_size": 14})
    ]
    assert len({*map(tuple, changed), tuple(plain)}) == 4
    with pytest.raises(protocols.ProtocolError, match="resize 'area': one of"):
        pairs.Rules(resize="area")
    with pytest.raises(protocols.ProtocolError, match="input_size 0 must be positive"):
        pairs.Rules(input_size=0)
