"""Named protocols against plain numpy: what published programs compute, written down anew.

The facts are those of the programs as far as they are known; `protocols/table.py` marks the rest.
"""

import math

import cv2
import numpy as np
import pytest

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols import protocol as protocol_module
from depth_anything_jax.evaluation.runner import stream
from depth_anything_jax.evaluation.scores import scoring
from depth_anything_jax.utils import scale_shift

DISPARITY = "disparity-affine"


def record(hw, low=0.02, high=200.0, dataset="", domain="outdoor", seed=0):
    rng = np.random.default_rng(seed)
    depth = np.exp(rng.uniform(np.log(low), np.log(high), hw)).astype(np.float32)
    valid = rng.random(hw) < 0.7
    about = {"key": f"{dataset}.png", "dataset": dataset, "domain": domain}
    return {"depth": np.where(valid, depth, 0), "valid": valid} | about


def predict(label, kind="metric", size=None):
    """A prediction that is wrong by some 20 %, at its own size."""
    h, w = size or label["depth"].shape
    depth = cv2.resize(np.where(label["valid"], label["depth"], 3), (w, h))
    wrong = depth * np.random.default_rng(9).lognormal(0.1, 0.2, (h, w))
    return 0.1 + 2 / wrong if kind == DISPARITY else wrong


def scored(name, label, prediction, kind="metric", **switches):
    how = protocols.get(name, kind, label["dataset"], label["domain"], **switches)
    return scoring.score(prediction, kind, label, how)


def bilinear(x, hw):
    """Half-pixel centres, by OpenCV."""
    return cv2.resize(x.astype(np.float64), hw[::-1], interpolation=cv2.INTER_LINEAR)


def corners(x, hw):
    """align_corners, by numpy."""
    for axis, n in enumerate(hw):
        at = np.linspace(0, x.shape[axis] - 1, n)
        old = np.arange(x.shape[axis])
        x = np.apply_along_axis(lambda v, a=at, o=old: np.interp(a, o, v), axis, x)
    return x


def errors(p, g):
    ratio = np.maximum(p / g, g / p)
    return (np.abs(p - g) / g).mean(), (ratio < 1.25).mean(), p.size


def assert_equal(found, p, g, rel=1e-9):
    """OpenCV's weights are float32."""
    abs_rel, delta1, n = errors(p, g)
    assert found.n == n and found.n > 20
    assert found.abs_rel == pytest.approx(abs_rel, rel=rel)
    assert found.delta1 == pytest.approx(delta1, abs=2 / n)


# UniDepth


@pytest.mark.parametrize(
    ("dataset", "domain", "hw", "low", "high", "window"),
    [
        ("nyu", "indoor", (480, 640), 0, 10, (slice(45, -9), slice(41, -39))),
        ("diode", "outdoor", (60, 80), 0.1, 80, ...),
        ("sunrgbd", "indoor", (60, 80), 0, 8, ...),
        ("ddad", "outdoor", (60, 80), 0, 120, ...),
    ],
)
def test_unidepth_masks_strictly_between_its_bounds(dataset, domain, hw, low, high, window):
    label = record(hw, dataset=dataset, domain=domain)
    label["depth"][30:50, ::3] = np.float32(high)  # the cap itself does not count
    label["depth"][30:50, 1::3] = np.float32(low)
    small = predict(label, size=(hw[0] // 2, hw[1] // 2))
    mask = label["valid"] & (label["depth"] > np.float32(low)) & (label["depth"] < np.float32(high))
    inside = np.zeros_like(mask)
    inside[window] = True
    mask &= inside
    full = bilinear(small, hw)
    found = scored("unidepth", label, small)
    assert_equal(found, full[mask], label["depth"][mask].astype(np.float64), rel=1e-6)
    assert scored("unidepth@1", label, small).n > found.n, "the caps counted"


def test_unidepth_scores_gargs_window_of_kittis_frame():
    label = record((375, 1242), dataset="kitti")
    prediction = predict(label)
    top, left = 375 - 352, (1242 - 1216) // 2
    p, g, valid = (
        x[top:, left : left + 1216] for x in (prediction, label["depth"], label["valid"])
    )
    rows, columns = slice(143, 349), slice(43, 1172)  # .40810811, .99189189 of 352; of 1216
    mask = (valid & (g > 0) & (g < 80))[rows, columns]
    found = scored("unidepth", label, p)
    assert_equal(found, p[rows, columns][mask], g[rows, columns][mask].astype(np.float64))


# Depth Anything V2, metric_depth/train.py


@pytest.mark.parametrize(
    ("dataset", "domain", "high"),
    [("hypersim", "indoor", 20), ("vkitti2", "outdoor", 80), ("kitti", "outdoor", 80)],
)
def test_v2_counts_its_bounds_and_neither_crops_nor_clamps(dataset, domain, high):
    label = record((60, 80), dataset=dataset, domain=domain, low=5e-4)
    label["depth"][:9], label["depth"][9:12] = high, 1e-3
    prediction = predict(label, size=(28, 42))
    mask = label["valid"] & (label["depth"] >= np.float32(1e-3)) & (label["depth"] <= high)
    full = corners(prediction, (60, 80))
    found = scored("v2", label, prediction)
    g = label["depth"][mask].astype(np.float64)
    assert_equal(found, full[mask], g)
    d = np.log(g) - np.log(full[mask])
    silog = math.sqrt((d**2).mean() - 0.5 * d.mean() ** 2)
    assert math.sqrt(found.rmse_log**2 - found.log_bias**2 / 2) == pytest.approx(silog, rel=1e-9)
    for count, why in ((9, "9 valid pixels, 10 are needed"), (10, "")):
        few = np.zeros(60 * 80, bool)
        few[np.flatnonzero(mask)[:count]] = True
        assert scored("v2", label | {"valid": few.reshape(60, 80)}, prediction).why == why


# MiDaS


def test_midas_resizes_bilinearly_and_keeps_kittis_far_labels():
    for dataset, domain, cap, far in (("kitti", "outdoor", 80, True), ("nyu", "indoor", 10, False)):
        label = record((60, 80), low=0.5, dataset=dataset, domain=domain)
        prediction = predict(label, DISPARITY, size=(30, 40))
        mask = label["valid"] & (far | (label["depth"] < cap))
        assert (label["depth"][mask] > 80).any() == far
        g = label["depth"][mask].astype(np.float64)
        x = bilinear(prediction, (60, 80))[mask]
        s, t = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), 1 / g, rcond=None)[0]
        p = 1 / np.maximum(s * x + t, 1 / cap)
        assert_equal(scored("midas", label, prediction, DISPARITY), p, g, rel=1e-5)


# Video Depth Anything


def test_vda_crops_nyus_image_before_the_network():
    how = protocols.get("vda", DISPARITY, "nyu", "indoor")
    label = record((480, 640), dataset="nyu", domain="indoor")
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    np.testing.assert_array_equal(stream.seen(label | {"image": image}, how), image[45:471, 41:601])
    assert scoring.target(label, how).valid.shape == (426, 560)


def test_vda_clips_predictions_fits_the_sequence_and_clips_again():
    labels = [record((60, 80), low=0.5, dataset="bonn", domain="indoor", seed=i) for i in range(3)]
    predictions = [np.maximum(0, predict(x, DISPARITY) - 0.5) for x in labels]
    assert all((x == 0).any() for x in predictions)
    xs, gs = [], []
    for x, label in zip(predictions, labels, strict=True):
        mask = label["valid"] & (label["depth"] > np.float32(1e-3)) & (label["depth"] < 10)
        xs.append(np.maximum(x[mask], 1e-3))
        gs.append(label["depth"][mask].astype(np.float64))
    x, y = np.concatenate(xs), 1 / np.concatenate(gs)
    s, t = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)[0]
    how = protocols.get("vda", DISPARITY, "bonn", "indoor")
    found = scoring.score_sequence(predictions, DISPARITY, labels, how)
    for one, x, g in zip(found, xs, gs, strict=True):
        assert_equal(one, np.clip(1 / np.maximum(s * x + t, 1e-3), 1e-3, 10), g)


def test_vda_has_sintels_labels_in_16_bits():
    label = record((60, 80), low=0.02, high=2000, dataset="sintel")
    how = protocols.get("vda", DISPARITY, "sintel", "outdoor")
    steps = np.minimum((label["depth"].astype(np.float64) * 65535 / 650), 65535).astype(np.uint16)
    stored = steps.astype(np.float64) / 65535 * 650
    mask = label["valid"] & (stored > np.float32(1e-3)) & (stored < 70)
    found = scoring.target(label, how)
    np.testing.assert_array_equal(found.valid, mask)
    np.testing.assert_allclose(found.depth, stored[mask], rtol=1e-12)
    assert np.abs(found.depth / label["depth"][mask] - 1).max() > 0.05


# Marigold


def test_marigold_thins_columns_alone_on_eth3d():
    label = record((96, 2560), low=1, dataset="eth3d")
    prediction = predict(label)
    keep = (np.arange(1024) * 2.5).astype(int)
    x, y = (m[:, keep][label["valid"][:, keep]] for m in (prediction, label["depth"]))
    s, t = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y.astype(np.float64), rcond=None)[0]
    found = scored("marigold", label, prediction)
    assert (found.scale, found.shift) == pytest.approx((s, t), rel=1e-9)
    pick = scale_shift.thin(label["valid"], 1024, rows=False)
    assert pick.size == label["valid"][:, keep].sum()
    assert scored("marigold@1", label, prediction).scale != found.scale


def test_marigolds_range_on_diode_clips_predictions_and_leaves_out_no_label():
    label = record((60, 80), low=0.1, high=900, dataset="diode")
    prediction = predict(label)
    g = label["depth"][label["valid"]].astype(np.float64)
    x = prediction[label["valid"]]
    assert (g < 0.6).any() and (g > 350).any()
    s, t = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), g, rcond=None)[0]
    assert_equal(scored("marigold", label, prediction), np.clip(s * x + t, 0.6, 350), g)


# MoGe


def test_moges_windows_overlap():
    """⌈H / 64⌉ × ⌈W / 64⌉ pixels around each of 64 × 64 points, the valid one nearest to it."""
    valid = np.random.default_rng(0).random((200, 300)) < 0.05
    expected = []
    for i in range(64):
        for j in range(64):
            y, x = (i + 0.5) * 200 / 64, (j + 0.5) * 300 / 64
            top, left = math.floor(i * 200 / 64), math.floor(j * 300 / 64)
            near = [
                ((row + 0.5 - y) ** 2 + (column + 0.5 - x) ** 2, row, column)
                for row in range(top, min(200, top + 4))
                for column in range(left, min(300, left + 5))
                if valid[row, column]
            ]
            if near:
                expected.append(min(near)[1] * 300 + min(near)[2])
    found = scale_shift.windows(valid, 64)
    np.testing.assert_array_equal(found, sorted(expected))
    assert len(set(found)) < len(found), "a pixel may stand for two windows"
    assert protocols.get("moge", "depth-affine").align_on == "windows-64"


# ZoeDepth


def test_zoedepth_has_no_lower_bound_on_diml_indoors():
    label = record((480, 640), low=1e-4, high=20, dataset="diml", domain="indoor")
    prediction = predict(label)
    inside = np.zeros((480, 640), bool)
    inside[45:471, 41:601] = True
    g = label["depth"]
    mask = label["valid"] & inside & (g > 0) & (g < 10)
    assert (g[mask] < 1e-3).any()
    found = scored("zoe", label, prediction)
    assert found.n == mask.sum() > scored("zoe@1", label, prediction).n


def test_every_named_version_resolves():
    """What was published under an old hash can be computed again."""
    for name in protocol_module.EARLIER:
        _, entry = protocols.named(name)
        for kind in entry.kinds:
            assert protocols.get(name, kind, "nyu", "indoor").hash
        assert protocols.named(name.partition("@")[0])[0] != name
