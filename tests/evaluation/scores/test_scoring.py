"""Scores under every protocol: the truth is perfect, nothing is lost in between, hostile maps."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols import table
from depth_anything_jax.evaluation.protocols.protocol import Protocol, ProtocolError
from depth_anything_jax.evaluation.report import tables
from depth_anything_jax.evaluation.scores import metrics, scoring
from depth_anything_jax.evaluation.scores.aggregate import METRICS
from depth_anything_jax.utils import interpolation, scale_shift

DISPARITY = "disparity-affine"
PLAIN = Protocol(alignment="lsq-disparity", max_depth=10.0)


def record(seed=0, hw=(376, 1242), far=900.0, **more):
    """Depth from 0.7 m to `far`, with holes, values exactly at caps, sky and infinities."""
    rng = np.random.default_rng(seed)
    depth = np.exp(rng.uniform(np.log(0.7), np.log(far), hw)).astype(np.float32)
    depth[:, ::7] = rng.choice([8.0, 10.0, 70.0, 72.0, 80.0], depth[:, ::7].shape)
    valid = rng.random(hw) < 0.4
    sky = np.zeros(hw, bool)
    sky[: hw[0] // 3] = rng.random((hw[0] // 3, hw[1])) < 0.5
    depth[sky] = np.where(rng.random(sky.sum()) < 0.5, np.inf, 655.35)
    valid[sky] = depth[sky] < 700  # a far number is a measurement, an infinity is none
    depth[~valid & ~sky] = 0
    return {
        "key": f"{seed}.png", "depth": depth, "valid": valid, "sky": sky, "dataset": "any",
        "domain": "outdoor", "image": np.zeros((*hw, 3), np.uint8),
    } | more  # fmt: skip


TABLE = [
    (name, kind, dataset, domain)
    for name, entry in table.TABLE.items()
    for kind in entry.kinds
    for dataset, domain in itertools.product(
        sorted({*entry.sets, "another"}), ["indoor", "outdoor"]
    )
    if dataset not in ("*", "indoor", "outdoor")
]


@pytest.mark.parametrize("name", table.TABLE)
def test_the_truth_is_perfect_under_every_protocol_set_and_kind(name):
    sizes = {"kb": (353, 1217), "nyu": (480, 640)}
    cases = [case[1:] for case in TABLE if case[0] == name]
    assert cases
    resolved = {}  # of many sets the switches are the same
    for kind, dataset, domain in cases:
        protocol = protocols.get(name, kind, dataset, domain)
        if dataset != "another" and resolved.setdefault((kind, protocol), dataset) != dataset:
            continue
        window = next((w for w in (protocol.frame, protocol.crop) if w in sizes), "")
        label = record(hw=sizes.get(window, (120, 160)))
        if protocol.cap_mode == "keep":  # what lies beyond the range cannot be met
            label["valid"] &= label["depth"] <= protocol.max_depth
        truth = scoring.truth(label, kind, protocol)
        found = scoring.score(truth, kind, label, protocol, boundary=dataset == "another")
        assert not found.why and found.n > 500
        # float64; depths of 900 m in a fit of disparity are 1e-3 of the largest.
        assert found.abs_rel < 1e-9 and found.delta1 == 1, (dataset, found)
        assert found.silog < 1e-6 and found.rmse < 1e-6
        if dataset == "another":  # jumps within rounding of a threshold
            assert found.boundary1 == pytest.approx(1, abs=1e-3)
        if kind != "depth-affine":
            assert found.norm_l1 < 1e-9


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", table.TABLE)
def test_a_constant_prediction_has_finite_scores(name, value):
    label = record(hw=(60, 80))
    for kind in table.TABLE[name].kinds:
        protocol = protocols.get(name, kind, "another", "outdoor")
        found = scoring.score(np.full((20, 30), value), kind, label, protocol, boundary=True)
        missing = [m for m in METRICS if not math.isfinite(getattr(found, m))]
        assert missing == (["norm_l1"] if kind == "depth-affine" else [])
        assert math.isfinite(found.scale) and math.isfinite(found.shift)
        assert found.not_finite == (0 if math.isfinite(value) else found.n)
        assert found.abs_rel > 0.1 and found.boundary1 == 0
        if protocol.alignment in ("lsq-disparity", "lsq-depth", "l1-depth"):
            assert found.scale == 0, "it says nothing"
        if protocol.alignment == "lsq-disparity":
            mean = scoring.target(label, protocol).disparity.mean()
            assert found.shift == pytest.approx(mean, rel=1e-12)


def test_pixels_that_a_reduction_misses_are_aligned_on_all_the_same():
    valid = np.zeros((2048, 1), bool)
    valid[[5, 9, 901]] = True  # of which every second is kept
    label = record(hw=(2048, 1)) | {"depth": np.full((2048, 1), 5, np.float32), "valid": valid}
    label["depth"][901] = 2
    prediction = 3 / label["depth"] + 1
    thin = protocols.get("marigold", DISPARITY, "eth3d", "outdoor")
    found = scoring.score(prediction, DISPARITY, label, thin)
    assert (found.n, found.scale) == (3, pytest.approx(1 / 3)) and found.abs_rel < 1e-6


def test_predictions_that_are_not_finite_count_against_the_model():
    label = record(hw=(60, 80))
    truth = np.nan_to_num(scoring.truth(label, DISPARITY, PLAIN))
    good = scoring.score(truth, DISPARITY, label, PLAIN)
    for poison in (np.nan, np.inf, -np.inf):
        holes = truth.copy()
        holes[:, ::4] = poison
        found = scoring.score(holes, DISPARITY, label, PLAIN)
        count = scoring.target(label, PLAIN).valid[:, ::4].sum()
        assert found.not_finite == count > 20 and found.n == good.n
        # The rest is fitted as if they were not there, and is right.
        assert (found.scale, found.shift) == pytest.approx((1, 0), abs=1e-12)
        assert 1 - found.delta1 > 0.5 * count / good.n
        # NaN and +inf are as near as can be, −inf as far: 10 m.
        depth = scoring.target(label, PLAIN).depth
        at = np.broadcast_to(np.arange(80) % 4 == 0, (60, 80))[scoring.target(label, PLAIN).valid]
        filled = np.where(at, 10.0 if poison == -np.inf else 1e-3, depth)
        assert found.abs_rel == pytest.approx(metrics.errors(filled, depth).abs_rel, rel=1e-9)
    # Of depth the same: +inf is as far as can be, however the fit's space holds it.
    far = np.where(np.isfinite(label["depth"]), label["depth"], 655.35)
    for poison, worth in ((np.nan, 1e-3), (np.inf, 10.0), (-np.inf, 1e-3)):
        holes = far.astype(np.float64)
        holes[:, ::4] = poison
        as_disparity = scoring.convert(holes, "metric", DISPARITY)
        for kind, prediction in (("metric", holes), (DISPARITY, as_disparity)):
            found = scoring.score(prediction, kind, label, PLAIN)
            assert found.not_finite == count and math.isfinite(found.norm_l1)
            assert (found.scale, found.shift) == pytest.approx((1, 0), abs=1e-6)  # float32 label
            filled = metrics.errors(np.where(at, worth, depth), depth)
            assert found.abs_rel == pytest.approx(filled.abs_rel, rel=1e-5)
    # Outside the mask nothing matters.
    outside = np.where(scoring.target(label, PLAIN).valid, truth, np.nan)
    assert scoring.score(outside, DISPARITY, label, PLAIN) == good


INVERTED = [n for n, e in table.TABLE.items() if "lsq-disparity" in str(e.kinds.get("depth-scale"))]


@pytest.mark.parametrize("name", INVERTED)
def test_depths_of_zero_or_below_do_not_move_the_fit_of_their_inverses(name):
    """They are as near as can be: they count as the least depth, and the rest is right."""
    label = record(hw=(60, 80), far=60)
    protocol = protocols.get(name, "depth-scale", "another", "outdoor")
    depth = scoring.target(label, protocol)
    truth = np.where(depth.valid, np.nan_to_num(scoring.truth(label, "depth-scale", protocol)), 9)
    for wrong in (0.0, -3.0, -1e-9):
        spoilt = truth.copy()
        spoilt[:, ::5] = wrong
        count = int(depth.valid[:, ::5].sum())
        found = scoring.score(spoilt, "depth-scale", label, protocol)
        assert (found.scale, found.shift) == pytest.approx((1, 0), abs=1e-9)
        assert (found.not_positive, found.not_finite) == (count, 0)
        g = depth.depth
        p = np.where(spoilt[depth.valid] > 0, g, max(protocol.min_depth, metrics.TINY))
        if protocol.space == "disparity":
            p, g = 1 / p, 1 / g
        assert found.abs_rel == pytest.approx(np.mean(np.abs(p - g) / g), rel=1e-6)


@pytest.mark.parametrize("name", [n for n, e in table.TABLE.items() if "depth-scale" in e.kinds])
def test_depth_up_to_a_scale_has_no_unit(name):
    label = record(hw=(60, 80), far=60)
    noise = np.random.default_rng(0).lognormal(0, 0.3, (60, 80))
    pred = np.where(label["depth"] > 0, np.nan_to_num(label["depth"], posinf=90), 9) * noise
    protocol = protocols.get(name, "depth-scale", "another", "outdoor")
    plain = scoring.score(pred, "depth-scale", label, protocol)
    for unit in (1e-9, 1e-3, 1e9):
        other = scoring.score(pred * unit, "depth-scale", label, protocol)
        for metric in ("abs_rel", "delta1", "norm_l1", "silog", "correlation"):
            same = pytest.approx(getattr(plain, metric), rel=1e-6)
            assert getattr(other, metric) == same, (unit, metric)


def test_what_is_suspicious_in_an_image_is_told():
    label = record(hw=(60, 80), far=60)
    depth = np.where(label["depth"] > 0, np.nan_to_num(label["depth"], posinf=90), 9)
    protocol = protocols.get("v2", "metric", "another", "outdoor")

    def notes(prediction, label=label):
        found = scoring.score(prediction, "metric", label, protocol)
        (row,) = tables.rows([found], {}, reader="x", split=1, how="image")
        return " ".join(row["notes"])

    assert notes(depth * 1.1) == ""
    assert "falls where the label rises: is it disparity" in notes(1 / depth)
    assert "the prediction is constant: 1 images (0.png)" in notes(np.full((6, 8), 3.0))
    assert "depths of zero or below: 1 images" in notes(np.where(depth > 20, -1, depth))
    for factor in (1e-3, 1e3):  # metres said in kilometres, or in millimetres: skipped or not
        scaled = label | {"depth": label["depth"] * np.float32(factor)}
        assert "half of the label lies below 0.05 m or beyond 1000 m" in notes(depth, scaled)


# Labels


@pytest.mark.parametrize("cap", [10.0, 80.0, 72.0])
def test_a_depth_at_the_cap_is_out_and_the_next_below_is_in(cap):
    below = cap - cap / 50_000  # the finest step of a 16-bit format (TUM: 1 / 5000 m at 10 m)
    depth = np.array([[cap, below, 2 * cap, 1e-3, 1.1e-3]], np.float32)
    exact = record(hw=(1, 5)) | {"depth": depth, "valid": np.ones((1, 5), bool)}
    exact["sky"] = np.zeros((1, 5), bool)
    protocol = dataclasses.replace(PLAIN, max_depth=cap)
    strict = scoring.target(exact, protocol).valid
    assert strict.tolist() == [[False, True, False, False, True]]
    loose = scoring.target(exact, dataclasses.replace(protocol, strict=False)).valid
    assert loose.tolist()[0][:3] == [True, True, False]
    clip = scoring.target(exact, dataclasses.replace(protocol, cap_mode="clip"))
    assert clip.valid.tolist() == [[True, True, True, False, True]]
    assert clip.depth.max() == cap


def test_clipping_keeps_the_sky_and_masking_drops_it():
    label = record(hw=(60, 80))
    sky, unmeasured = label["sky"], label["sky"] & ~label["valid"]
    assert unmeasured.any() and (sky & label["valid"]).any()
    mask = scoring.target(label, PLAIN)
    clip = scoring.target(label, dataclasses.replace(PLAIN, cap_mode="clip"))
    assert not (mask.valid & sky).any() and (clip.valid & sky).sum() == sky.sum()
    full = np.zeros(sky.shape)
    full[clip.valid] = clip.depth
    assert (full[sky] == 10).all()


def test_outliers_go_by_the_images_own_quantile():
    depth = np.full((10, 100), 2.0, np.float32)
    depth[0, 0], depth[0, 1] = 2001, 1999
    label = record(hw=(10, 100)) | {"depth": depth, "valid": np.ones(depth.shape, bool)}
    protocol = protocols.get("moge", DISPARITY)
    valid = scoring.target(label, protocol).valid
    assert not valid[0, 0] and valid.sum() == 999


def test_too_few_pixels_and_windows_outside_say_why():
    label = record(hw=(60, 80))
    few = scoring.score(
        np.ones((6, 8)), DISPARITY, label, dataclasses.replace(PLAIN, min_valid=5000)
    )
    assert few.why == f"{few.n} valid pixels, 5000 are needed" and math.isnan(few.abs_rel)
    small = record(hw=(40, 30))
    window = dataclasses.replace(PLAIN, crop="nyu-pixels")
    found = scoring.score(np.ones((6, 8)), DISPARITY, small, window)
    assert found.why == "0 valid pixels, 1 are needed"
    with pytest.raises(
        ProtocolError, match="'nyu' is in pixels of 480x640, and the label is 40x30"
    ):
        scoring.score(np.ones((6, 8)), DISPARITY, small, dataclasses.replace(PLAIN, crop="nyu"))
    label["valid"] = np.zeros((60, 80), bool)
    assert scoring.score(np.ones((6, 8)), DISPARITY, label, PLAIN).n == 0


def test_labels_without_a_unit():
    rng = np.random.default_rng(0)
    label = {"key": "s", "disparity": rng.uniform(1, 60, (20, 30)).astype(np.float32)}
    label |= {"valid": np.ones((20, 30), bool), "shift_known": True}
    label["disparity"][0, 0] = 0  # stereo's farthest point
    pred = 0.1 * label["disparity"] + 3
    found = scoring.score(pred, DISPARITY, label, PLAIN)
    assert math.isnan(found.abs_rel) and found.norm_l1 < 1e-6 and found.n == 600
    assert found.scale == pytest.approx(10, rel=1e-5)
    space = scoring.score(pred, DISPARITY, label, dataclasses.replace(PLAIN, space="disparity"))
    assert space.abs_rel < 1e-5 and space.delta1 == 1 and space.n == 599
    assert math.isnan(space.i_rmse), "no unit"
    with pytest.raises(
        ProtocolError, match="'lsq-depth' needs depth in metres.*use 'lsq-disparity'"
    ):
        lsq = dataclasses.replace(PLAIN, alignment="lsq-depth")
        scoring.score(pred, "depth-affine", label, lsq)


# From prediction to metric


def steps(protocol, pred, label):
    """A protocol written out in one place, for depth labels without frame and clip."""
    depth = label["depth"].astype(np.float64)
    keep = label["valid"] & (depth > protocol.min_depth) & (depth < protocol.max_depth)
    inside = np.zeros_like(keep)
    inside[protocols.window(protocol.crop, *keep.shape)] = True
    keep &= inside
    g, p = depth[keep], interpolation.resize(pred, depth.shape, protocol.resize)[keep]
    return g, p, keep


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_disparity_is_aligned_step_by_step(space):
    rng = np.random.default_rng(3)
    label = record(hw=(48, 64))
    protocol = dataclasses.replace(PLAIN, crop="garg", space=space, resize="bilinear")
    with np.errstate(divide="ignore"):
        pred = np.nan_to_num(0.4 / label["depth"], posinf=0.1) + rng.normal(0, 0.05, (48, 64)) + 0.2
    g, p, keep = steps(protocol, pred, label)
    (scale, shift), *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), 1 / g, rcond=None)
    aligned = np.maximum(scale * p + shift, 0.1)
    assert (aligned == 0.1).any(), "the floor has to act for this test to say anything"
    found = scoring.score(pred, DISPARITY, label, protocol)
    assert found.n == keep.sum() < scoring.target(label, PLAIN).valid.sum()
    expected = (
        metrics.errors(1 / aligned, g) if space == "depth" else metrics.errors(aligned, 1 / g)
    )
    names = [n for n in metrics.Errors._fields if n != "i_rmse"]
    np.testing.assert_allclose(
        [getattr(found, n) for n in names], [getattr(expected, n) for n in names], rtol=1e-9
    )
    # Whatever the space, iRMSE is of 1 / depth.
    assert found.i_rmse == pytest.approx(1000 * np.sqrt(np.mean((aligned - 1 / g) ** 2)), rel=1e-9)
    assert (found.scale, found.shift) == pytest.approx((scale, shift), rel=1e-11)
    assert found.norm_l1 == pytest.approx(metrics.normalised_l1(p[None], 1 / g[None], p[None] == p))
    assert found.protocol == protocol.hash


SOLVERS = {
    "median": lambda x, y: scale_shift.median_scale(x, y),
    "lsq-depth": lambda x, y: scale_shift.least_squares(x, y),
    "lsq-depth-scale": lambda x, y: scale_shift.least_squares_scale(x, y),
    "l1-depth": lambda x, y: scale_shift.l1(x, y, 1 / y),
    "l1-depth-scale": lambda x, y: scale_shift.l1_scale(x, y, 1 / y),
    "none": lambda x, y: scale_shift.NONE,
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("clamp", [False, True])
def test_depth_is_aligned_in_depth(name, clamp):
    label = record(hw=(48, 64))
    rng = np.random.default_rng(0)
    finite = np.nan_to_num(label["depth"], posinf=50).astype(np.float64)
    pred = finite * rng.lognormal(0, 0.2, finite.shape) + 0.3
    protocol = dataclasses.replace(PLAIN, alignment=name, clamp=clamp)
    g, p, _ = steps(protocol, pred, label)
    a = SOLVERS[name](p, g)
    aligned = a.scale * p + a.shift
    if clamp:
        assert (aligned > 10).any()
        aligned = np.clip(aligned, 1e-3, 10)
    found = scoring.score(pred, "metric", label, protocol)
    assert found[3:14] == pytest.approx(metrics.errors(aligned, g), rel=1e-12)
    disparity = dataclasses.replace(protocol, space="disparity")
    expected = metrics.errors(1 / np.maximum(aligned, metrics.TINY), 1 / g)
    found = scoring.score(pred, "metric", label, disparity)
    assert found.abs_rel == pytest.approx(expected.abs_rel, rel=1e-12)


def test_samples_of_the_fit_are_those_of_the_protocol():
    label = record(hw=(300, 400))
    rng = np.random.default_rng(0)
    pred = np.nan_to_num(label["depth"], posinf=50) + rng.normal(0, 1, (300, 400))
    base = dataclasses.replace(PLAIN, alignment="l1-depth", align_on="grid-64")
    found = scoring.target(label, base)
    pick = scale_shift.grid(found.valid, 64)
    assert pick.size < found.valid.sum() / 2
    expected = scale_shift.l1(
        *(m.ravel()[pick] for m in (pred, label["depth"], 1 / found_full(label)))
    )
    got = scoring.score(pred, "depth-affine", label, base)
    assert (got.scale, got.shift) == pytest.approx(expected, rel=1e-6)  # 1 / float32 depth
    everything = scoring.score(
        pred, "depth-affine", label, dataclasses.replace(base, align_on="all")
    )
    assert everything.scale != got.scale and everything.n == got.n


def found_full(label):
    return np.where(label["depth"] > 0, label["depth"], 1)


def test_floors():
    label = record(hw=(48, 64))
    protocol = dataclasses.replace(PLAIN, max_depth=math.inf, disparity_floor="label")
    depth = scoring.target(label, protocol).depth
    upside_down = scoring.aligned_depth(
        np.array([-1.0, 0.5]), scale_shift.NONE, protocol, float(depth.max())
    )
    assert upside_down == pytest.approx([depth.max(), 2])
    for floor, metres in ((0.05, 20), ("cap", 10)):
        changed = dataclasses.replace(PLAIN, disparity_floor=floor)
        assert scoring.aligned_depth(np.array([-1.0]), scale_shift.NONE, changed, 7.0) == [metres]


def test_frames_cut_label_and_prediction():
    label = record(hw=(376, 1242))
    protocol = protocols.get("zoe", "metric", "kitti", "outdoor")
    metric = np.nan_to_num(label["depth"], posinf=80).astype(np.float64)
    frame = metric[24:376, 13:1229]
    cut = scoring.score(frame, "metric", label, protocol)
    whole = scoring.score(metric, "metric", label, protocol, whole=True)
    assert cut == whole and cut.abs_rel == 0
    rows = np.flatnonzero(scoring.target(label, protocol).valid.any(1))
    assert (rows[0], rows[-1]) == (143, 348), "Garg's window is of the frame"


def test_padding_is_cut_off_again():
    label = record(hw=(40, 50))
    protocol = dataclasses.replace(PLAIN, pad="zoe", resize="nearest")
    full = np.nan_to_num(label["depth"], posinf=0)
    assert (scoring.padding(40), scoring.padding(50)) == (13, 15)
    padded = np.pad(full, ((13, 13), (15, 15)), "reflect")
    np.testing.assert_array_equal(scoring.to_label(padded, label, protocol), full)
    np.testing.assert_array_equal(scoring.to_label(full, label, protocol, whole=True), full)


def test_a_metric_prediction_scored_as_its_views():
    label = record(hw=(48, 64))
    metric = scoring.truth(label, "metric", PLAIN)
    for view in protocols.VIEWS["metric"]:
        values = scoring.convert(3 * metric if view != "metric" else metric, "metric", view)
        found = scoring.score(values, view, label, protocols.get("moge", view, max_depth=10))
        assert found.abs_rel < 1e-9
    with pytest.raises(
        ProtocolError, match="depth-affine prediction cannot be scored as metric; only as"
    ):
        scoring.convert(metric, "depth-affine", "metric")


# Sequences


def sequence():
    """Three frames of one camera, predicted with one scale and shift, and noise."""
    rng = np.random.default_rng(0)
    frames = [record(i, (48, 64), sequence="a") for i in range(3)]
    inverse = [1 / np.where(f["depth"] > 0, f["depth"], 1) for f in frames]
    return frames, [3 * d + 0.5 + rng.normal(0, 0.1, d.shape) for d in inverse]


def test_a_sequence_has_one_alignment_that_fits_all_its_pixels():
    frames, predictions = sequence()
    protocol = protocols.get("vda", DISPARITY, "sintel")
    found = scoring.score_sequence(predictions, DISPARITY, frames, protocol)
    targets = [scoring.target(f, protocol) for f in frames]
    x = np.concatenate([p[t.valid] for p, t in zip(predictions, targets, strict=True)])
    y = np.concatenate([t.disparity for t in targets])
    (scale, shift), *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)
    assert {(i.scale, i.shift) for i in found} == {(found[0].scale, found[0].shift)}
    assert (found[0].scale, found[0].shift) == pytest.approx((scale, shift), rel=1e-11)
    alone = scoring.score(predictions[0], DISPARITY, frames[0], protocol)
    assert abs(alone.scale - scale) > 1e-6 and found[0].sequence == "a"


@pytest.mark.parametrize("kind", ["depth-affine", "depth-scale", "metric"])
def test_the_truth_of_a_sequence_is_perfect(kind):
    frames, _ = sequence()
    protocol = protocols.get("vda", kind, "another")
    truths = [scoring.truth(f, kind, protocol) for f in frames]
    for image in scoring.score_sequence(truths, kind, frames, protocol):
        assert image.abs_rel < 1e-9 and image.delta1 == 1
    if kind == "depth-scale":
        scale = dataclasses.replace(protocol, alignment="lsq-depth-scale")
        found = scoring.score_sequence([2 * t for t in truths], kind, frames, scale)
        assert found[0].scale == pytest.approx(0.5) and found[0].shift == 0


def test_a_sequence_without_pixels_or_predictions():
    frames, predictions = sequence()
    protocol = protocols.get("vda", DISPARITY, "another")
    frames[1]["valid"] = np.zeros((48, 64), bool)
    found = scoring.score_sequence(predictions, DISPARITY, frames, protocol)
    assert [bool(i.why) for i in found] == [False, True, False]
    nothing = [np.full((4, 4), np.nan)] * 3
    for image in scoring.score_sequence(nothing, DISPARITY, frames, protocol):
        assert image.why or (math.isfinite(image.abs_rel) and image.scale == 0)
