"""Evaluation against the official scores with real weights, and its protocol in the small."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from depth_anything_jax import models
from depth_anything_jax.checkpoints import pretrained
from depth_anything_jax.data import registry, transforms
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.runner import loop, stream
from depth_anything_jax.evaluation.scores import scoring
from depth_anything_jax.inference import predictor
from depth_anything_jax.utils import interpolation, scale_shift

SIZE = 28
KIND = "disparity-affine"


def record(key="a", hw=(30, 41), disparity=None, **more):
    """A record whose image is noise and whose depth has a ramp of disparity from left to right."""
    if disparity is None:
        disparity = np.broadcast_to(np.linspace(0.2, 1, hw[1], dtype=np.float32), hw)
    image = np.random.default_rng(len(key)).integers(0, 256, (*hw, 3), np.uint8)
    valid = np.ones(disparity.shape, bool)
    return {
        "key": key, "image": image, "depth": (1 / disparity).astype(np.float32), "valid": valid,
        "sky": ~valid, "dataset": "ramps", "domain": "indoor",
    } | more  # fmt: skip


def without_metres(key):
    """The same as disparity in no known unit."""
    found = record(key)
    return found | {"disparity": 1 / found.pop("depth")}


def ramp(images):
    """Predicts the ramp up to scale and shift, whatever the images show."""
    b, h, w, _ = images.shape
    return np.broadcast_to(np.linspace(5, 9, w, dtype=np.float32), (b, h, w))


def test_an_affine_prediction_is_perfect_at_any_label_size():
    """A ramp stays a ramp only with align_corners=True: another rule bends it at the borders."""
    source = [record("a"), record("b", (60, 45)), record("c", (33, 33))]
    found = loop.evaluate(ramp, source, size=SIZE)
    # The labels are float32.
    assert found.abs_rel < 1e-6 and found.delta1 == 1 and found.norm_l1 < 1e-6
    assert [s.key for s in found.per_image] == ["a", "b", "c"]
    scale, shift = found.per_image[0].scale, found.per_image[0].shift
    assert scale == pytest.approx(0.2) and shift == pytest.approx(-0.8)


def test_the_network_sees_the_official_input():
    seen = []

    def watch(images):
        seen.append(images)
        return ramp(images)

    source = [record("a"), record("b", (60, 45))]
    loop.evaluate(watch, source, size=SIZE)
    assert [x.shape for x in seen] == [(1, 28, 42, 3), (1, 42, 28, 3)]
    assert (seen[0][0] == transforms.network_input(source[0]["image"], SIZE)).all()


def test_batches_change_nothing_and_keep_the_order():
    rng = np.random.default_rng(0)
    source = [
        record(f"{'x' * i}", [(30, 41), (33, 33)][i % 2], rng.uniform(0.2, 1, (20, 20)))
        for i in range(1, 8)
    ]
    predict = lambda images: images.mean(-1)  # noqa: E731
    one = loop.evaluate(predict, source, size=SIZE)
    three = loop.evaluate(predict, source, size=SIZE, batch_size=3, threads=4)
    assert one.per_image == three.per_image
    assert len(set(one.of("abs_rel"))) == 7 and one.of("abs_rel").dtype == np.float64


def test_domains_have_their_caps():
    depth = np.linspace(1, 50, 41, dtype=np.float32)
    disparity = np.broadcast_to(1 / depth, (30, 41))
    cap = {"indoor": 10, "indoor_synth": 10, "outdoor": 80, "": 80}
    for domain, metres in cap.items():
        (scores,) = loop.evaluate(
            ramp, [record(disparity=disparity, domain=domain)], size=SIZE
        ).per_image
        assert scores.n == 30 * (depth < metres).sum()
    own = loop.evaluate(ramp, [record(disparity=disparity)], size=SIZE, cap=20)
    assert own.per_image[0].n == 30 * (depth < 20).sum()


def test_labels_without_metres_give_normalised_l1_alone():
    source = [without_metres("a"), without_metres("b"), record("c")]
    found = loop.evaluate(ramp, source, size=SIZE)
    nan = [math.isnan(s.abs_rel) for s in found.per_image]
    assert nan == [True, True, False]
    assert all(s.norm_l1 < 1e-6 for s in found.per_image)
    assert found.abs_rel == found.per_image[2].abs_rel


def test_means_are_over_images_and_by_set():
    rng = np.random.default_rng(0)
    source = [
        record("abc"[i], disparity=rng.uniform(0.2, 1, (9, 9)), dataset="one" if i else "two")
        for i in range(3)
    ]
    found = loop.evaluate(ramp, source, size=SIZE)
    a, b, c = found.of("delta1")
    assert found.delta1 == pytest.approx((a + b + c) / 3)
    assert found.sets["one"]["delta1"] == pytest.approx((b + c) / 2)
    assert found.sets["two"]["images"] == 1 and found.sets["two"]["delta1"] == a


def test_images_with_too_few_valid_pixels_are_named():
    few = record("few")
    few["valid"] = np.zeros((30, 41), bool)
    few["valid"][0, :9] = True
    found = loop.evaluate(ramp, [few, record("b")], size=SIZE)
    assert found.skipped == ["few"] and [s.key for s in found.per_image] == ["b"]
    with pytest.raises(
        ValueError, match=r"none of 1 images could be scored \(few: 9 valid pixels, 10 are needed\)"
    ):
        loop.evaluate(ramp, [few], size=SIZE)


def test_limit_and_progress():
    source, seen = [record("a"), record("b"), record("c")], []
    found = loop.evaluate(ramp, source, size=SIZE, limit=2, progress=lambda *x: seen.append(x))
    assert [s.key for s in found.per_image] == ["a", "b"] and seen == [(1, 2), (2, 2)]


class Torn(list):
    def __getitem__(self, index):
        raise OSError("torn.jpg")


def test_nothing_is_left_out_silently():
    with pytest.raises(OSError, match="torn.jpg"):
        loop.evaluate(ramp, Torn([1, 2]), size=SIZE)
    with pytest.raises(ValueError, match="a has no label to evaluate against"):
        loop.evaluate(ramp, [{"key": "a", "image": record()["image"]}], size=SIZE)


def test_the_protocol_goes_by_set_and_domain():
    """Metres as `zoe` scores them: nothing aligned, NYU's window, the mean of both ways round."""
    depth = np.linspace(1, 4, 640, dtype=np.float32) + np.zeros((480, 1), np.float32)
    seen = []

    def lopsided(images):
        b, h, w, _ = images.shape
        seen.append(images)
        # The truth and 0.3 m too much, or its mirror image and 0.3 m too little.
        way, off = (-1, -0.3) if len(seen) % 2 == 0 else (1, 0.3)
        return np.broadcast_to(np.linspace(1, 4, w)[::way] + off, (b, h, w))

    source = [record("a", (480, 640), 1 / depth, dataset="nyu")]
    found = loop.evaluate(lopsided, source, kind="metric", protocol="zoe", size=SIZE)
    assert (seen[1] == seen[0][:, :, ::-1]).all() and len(seen) == 2
    assert found.per_image[0].n == 426 * 560 and found.abs_rel < 1e-6
    assert found.per_image[0].scale == 1
    with pytest.raises(protocols.ProtocolError, match="zoe@2 does not score disparity-affine"):
        loop.evaluate(ramp, source, protocol="zoe", size=SIZE)


def test_frames_and_padding_are_what_the_network_sees():
    image = np.random.default_rng(0).integers(0, 256, (360, 1220, 3), np.uint8)
    one = record("a", (360, 1220)) | {"image": image}
    kb = protocols.get("zoe", "metric", "kitti")
    assert (stream.seen(one, kb) == image[8:, 2:1218]).all()
    padded = stream.seen(one, dataclasses.replace(kb, frame="none", pad="zoe"))
    assert padded.shape == (360 + 2 * 40, 1220 + 2 * 74, 3)
    assert (padded[40, 74] == image[0, 0]).all() and (padded[39, 74] == image[1, 0]).all()
    with pytest.raises(protocols.ProtocolError, match="need a label of the image's size"):
        stream.seen(one | {"valid": np.ones((36, 122), bool)}, kb)


def test_sequences_are_fitted_as_a_whole():
    source = [record(k, sequence=k[0]) for k in ("a1", "a2", "b1")]
    source[1]["depth"] = source[1]["depth"] * np.float32(2)
    vda = protocols.get("vda", KIND, resize="bilinear-corners")
    found = loop.evaluate(ramp, source, protocol=vda, size=SIZE)
    a1, a2, b1 = found.per_image
    assert (a1.scale, a1.shift) == (a2.scale, a2.shift) != (b1.scale, b1.shift)
    # Two frames of different size in the world have no common scale.
    assert a1.abs_rel > 0.1 and a2.abs_rel > 0.1 and b1.abs_rel < 1e-6
    mean = ((a1.abs_rel + a2.abs_rel) / 2 + b1.abs_rel) / 2
    assert found.abs_rel == pytest.approx(mean), "of sequences, not of frames"


# The official code's scores


@pytest.fixture(scope="module")
def official(shared):
    """(predict, scores by image, set means) of the real weights, the missing tensor zero."""
    found = pretrained.load(
        str(shared / "weights" / "depth_anything_v2_vits.partial.fp16.safetensors"),
        allow_missing=r"resize_layers\.3\.weight",
        fill="zeros",
        version="v2",
    )
    model = models.build(found.variant, version=found.version)
    predict = predictor.Predictor(model, found.params, devices=jax.devices()[:1])
    golden = json.loads((shared / "golden" / "scores.json").read_text())
    return predict, {x["rgb"]: x for x in golden["images"]}, golden["mean"]


def labelled(shared, **options):
    path = str(shared / "data" / "labelled" / "manifest.json")
    return registry.make({"type": "rgbd", "path": path, **options})


def assert_agrees(scores, golden):
    """Float32 networks of two frameworks: 3e-6 seen; a valid pixel more or less is 4e-6 of δ1 on
    NYU, and on sparse lidar (9 000 pixels) a few pixels on the edge of 1.25 make 5e-4."""
    expected = golden[scores.key]
    assert scores.n == expected["n"]
    assert abs(scores.abs_rel - expected["abs_rel"]) <= 1e-4
    assert abs(scores.delta1 - expected["d1"]) <= max(1e-4, 5 / scores.n)
    assert abs(scores.scale - expected["scale"]) <= 1e-4
    assert abs(scores.shift - expected["shift"]) <= 1e-4


def test_real_weights_reproduce_official_scores(official, shared):
    predict, golden, _ = official
    found = loop.evaluate(predict, labelled(shared, datasets=["nyu"]), limit=2)
    assert len(found.per_image) == 2
    for scores in found.per_image:
        assert_agrees(scores, golden)


SETS = ["kitti_gt", "nyu", "icl_nuim", "tum", "sunrgbd", "redwood", "hololens", "ddad_dgp"]


@pytest.mark.nightly
@pytest.mark.timeout(3600)  # minutes on two cores
@pytest.mark.parametrize("name", SETS)
def test_real_weights_reproduce_all_official_scores(official, shared, name):
    predict, golden, means = official
    assert set(SETS) == means.keys()
    found = loop.evaluate(predict, labelled(shared, datasets=[name]))
    assert {s.key for s in found.per_image} == {
        key for key, scores in golden.items() if scores["dataset"] == name
    }
    for scores in found.per_image:
        assert_agrees(scores, golden)
    assert abs(found.abs_rel - means[name]["abs_rel"]) <= 1e-4
    assert abs(found.delta1 - means[name]["d1"]) <= 1e-4


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_pairs_with_disparity_are_scored_in_disparity_alone(official, shared):
    stereo = ["middlebury", "kitti2015_stereo", "sceneflow"]
    found = loop.evaluate(official[0], labelled(shared, datasets=stereo))
    assert len(found.per_image) == 5
    for scores in found.per_image:
        assert math.isnan(scores.abs_rel) and 0 < scores.norm_l1 < 2


MUTATIONS: list[dict] = [
    {"resize": "bilinear"},
    {"resize": "bicubic"},
    {"crop": "nyu"},
    {"disparity_floor": 0.2},  # no pixel of this image comes near 1 / cap
    {"space": "disparity"},
    {"cap_mode": "clip", "max_depth": 5.0},
]


def test_a_mutated_protocol_misses_the_official_scores(official, shared, monkeypatch):
    """The comparison can fail: each of these is a mistake seen in public evaluators."""
    predict, golden, _ = official
    (example,) = [labelled(shared, datasets=["nyu"])[0]]
    kept = []
    loop.evaluate(lambda x: kept.append(np.asarray(predict(x))) or kept[0], [example])

    def score(**switches):
        found = protocols.get("golden", KIND, "nyu", example["domain"], **switches)
        return scoring.score(kept[0][0], KIND, example, found)

    assert_agrees(score(), golden)

    def half_pixel(x, size, rule):
        cv2 = pytest.importorskip("cv2")
        return cv2.resize(x, size[::-1], interpolation=cv2.INTER_LINEAR)

    with pytest.raises(AssertionError):
        assert_agrees(score(max_depth=5.0), golden)
    for switches in MUTATIONS:
        with pytest.raises(AssertionError):
            assert_agrees(score(**switches), golden)
    with monkeypatch.context() as patch:
        patch.setattr(interpolation, "resize", half_pixel)
        with pytest.raises(AssertionError):
            assert_agrees(score(), golden)
    with monkeypatch.context() as patch:
        patch.setattr(scale_shift, "least_squares", lambda x, y: scale_shift.NONE)
        with pytest.raises(AssertionError):
            assert_agrees(score(), golden)
