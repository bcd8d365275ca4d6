"""Cameras: carried through every transform, told by manifests, turned into metres by one rule."""

import json
import math

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from depth_anything_jax.data import camera, pipeline, registry, source_checks, transforms
from depth_anything_jax.data.scenes.source import SceneSource
from depth_anything_jax.data.sources import manifest
from depth_anything_jax.data.sources.base import Subset
from depth_anything_jax.evaluation.runner import loop, predictors
from depth_anything_jax.models.outputs import canonical_ratio, focal_length, to_metres
from depth_anything_jax.training import step
from depth_anything_jax.utils.encoders import DINOV2

FOCAL = 250.0  # canonical, of the models here


# Geometry


def test_scenes_at_three_focal_lengths_are_one_place_and_tell_their_cameras():
    """The middle of a wide picture is the whole of a narrow one: depths along the same rays."""
    size, wide = 224, SceneSource("A", 4, size=224, fov=90.0)
    for fov in (40.0, 60.0):
        narrow = SceneSource("A", 4, size=size, fov=fov)
        for i in range(2):
            a, b = wide[i], narrow[i]
            focal = size / 2 / math.tan(math.radians(fov) / 2)
            np.testing.assert_allclose(b["camera"], [focal, focal, 111.5, 111.5])
            # Where each narrow pixel lies in the wide picture, by the two cameras.
            pixels = np.arange(size)
            at = (pixels - b["camera"][2]) / b["camera"][0] * a["camera"][0] + a["camera"][2]
            at = np.rint(at).astype(int)
            a_depth, b_depth = (np.where(r["valid"], r["depth"], 1e4) for r in (a, b))
            ratio = np.abs(np.log(a_depth[np.ix_(at, at)] / b_depth))
            # Half a wide pixel beside the ray: another surface at edges, little elsewhere.
            assert np.median(ratio) < 0.01 and np.mean(ratio > 0.2) < 0.1, (fov, i)
    own = SceneSource("A", 4, size=28)[0]["camera"][0]
    assert 28 / 2 / math.tan(math.radians(95 / 2)) < own < 28 / 2 / math.tan(math.radians(30))


def rays(c, shape):
    """The direction of each pixel by a camera: what no transform may change but by mirroring."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.stack([(x - c[2]) / c[0], (y - c[3]) / c[1]], -1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("hw", [(60, 97), (131, 64)], ids=str)
def test_resize_crop_and_flip_carry_the_camera(hw, flip, monkeypatch):
    # As images are resized, half-pixel centres; labels' nearest neighbours lie half a pixel off.
    monkeypatch.setattr(transforms, "resize_nearest", lambda x, h, w: cv2.resize(x + 0.0, (w, h)))
    c = np.array([80.0, 85.0, 40.3, 31.9])
    size, geometry = (
        28,
        transforms.Geometry(*transforms.network_size(*hw, 42, patch_size=14), 0, 0, flip),
    )
    geometry = geometry._replace(top=(geometry.height - 28) // 2, left=(geometry.width - 28) // 3)
    record = {"image": np.zeros((*hw, 3), np.uint8), "camera": c, "shift_known": True}
    for field in ("valid", "sky"):
        record[field] = np.ones(hw, np.float32)
    found = []
    for axis in range(2):  # a label that is the ray itself moves as pixels do
        record["depth"] = rays(c, hw)[..., axis].astype(np.float32)
        out = transforms.apply_geometry(record, geometry, size)
        found.append(out["depth"])
    want = rays(out["camera"], (size, size))
    assert out["camera"].dtype == np.float32
    if flip:
        want[..., 0] *= -1
    np.testing.assert_allclose(np.stack(found, -1), want, rtol=0, atol=1e-5)  # float32


def test_rotation_carries_the_principal_point():
    image = np.zeros((61, 81), np.float32)
    image[20, 60] = 1
    turn = cv2.getRotationMatrix2D((40.0, 30.0), 7.0, 1.0)
    turned = cv2.warpAffine(image, turn, (81, 61))
    row, column = np.unravel_index(turned.argmax(), turned.shape)
    found = camera.rotated(camera.Camera(90.0, 91.0, 60.0, 20.0), 7.0, 61, 81)
    np.testing.assert_allclose(found[2:], [column, row], atol=0.5)  # to the pixel
    np.testing.assert_array_equal(found[:2], [90, 91])


# Metres


def exact(focal, fov):
    """A network that is right: canonical depth of the record, for the input that it is given."""

    def predict(inputs):
        for tag, x in inputs:
            record, mirrored = tag[1], tag[3]
            height, width = x.shape[:2]
            depth = np.where(record["valid"], np.minimum(record["depth"], 80), 80)
            depth = transforms.resize_nearest(depth, height, width)
            depth = depth[:, ::-1] if mirrored else depth
            if focal is not None:  # f of this input by its field of view alone
                depth = depth * focal / (width / 2 / math.tan(math.radians(fov) / 2))
            yield tag, depth

    return predictors.Candidate("exact", "metric", predict=predict, focal=focal)


@pytest.mark.parametrize("fov", [40.0, 60.0, 90.0])
@pytest.mark.parametrize("size", [364, 518, 770])
def test_the_same_metres_at_every_focal_length_and_input_size(fov, size):
    source = SceneSource("A", 3, size=112, fov=fov)
    canonical, plain = (
        loop.evaluate_candidate(exact(focal, fov), source, switches={"input_size": size})
        for focal in (FOCAL, None)
    )
    assert plain.abs_rel < 0.02  # resized by nearest neighbour and back
    for a, b in zip(canonical.per_image, plain.per_image, strict=True):
        assert a.rmse == pytest.approx(b.rmse, rel=1e-5)  # metres in float32
        assert a.abs_rel == pytest.approx(b.abs_rel, abs=1e-6)
    wrong = loop.evaluate_candidate(
        exact(FOCAL, 2 * fov % 140), source, switches={"input_size": size}
    )
    assert wrong.abs_rel > 0.3  # a camera that is not the picture's shows


def test_labels_do_not_depend_on_the_focal_length_nor_metres_on_the_input_size():
    """The same picture of a world twice as large and twice as far through a lens twice as long."""
    record = SceneSource("A", 1, size=112)[0]
    c = ConfigDict({"camera": {"focal": FOCAL}, "loss": {"min_depth": 1e-3}})
    c.model = ConfigDict({"max_depth": 500.0})

    def asked(record, size):
        geometry = transforms.centre_geometry(112, 112, size, patch_size=14)
        example = transforms.apply_geometry(record, geometry, size)
        batch = {k: jnp.asarray(v)[None] for k, v in example.items()}
        found = step.metric_inputs(batch, c, DINOV2)
        return found["depth"][0], found["valid"][0], example

    own, valid, example = asked(record, 112)
    assert valid.any()
    for factor in (0.5, 2.0):
        other = {
            **record,
            "depth": record["depth"] * np.float32(factor),
            "camera": np.multiply(record["camera"], [factor, factor, 1, 1]),
        }
        found, also, _ = asked(other, 112)
        np.testing.assert_array_equal(valid, also)
        np.testing.assert_allclose(found, own, rtol=1e-6)  # float32
    metres = np.where(valid, example["depth"], 1)
    for size in (364, 518, 770):
        asked_here, counts, example = asked(record, size)
        focal = focal_length(example["camera"])
        back = to_metres(np.asarray(asked_here), focal, FOCAL)
        again = transforms.resize_nearest(metres, size, size)
        np.testing.assert_allclose(back[counts], again[counts], rtol=1e-6)  # float32
        # the longer the lens in pixels of the input, the nearer what is asked for
        assert float(np.median(asked_here[counts])) == pytest.approx(
            float(np.median(own[valid])) * 112 / size, rel=0.02
        )


def test_to_metres_is_the_inverse_and_nothing_without_a_focal_length():
    c = np.array([300.0, 340.0, 1.0, 2.0])
    assert focal_length(c) == 320.0
    assert to_metres(5.0, 320.0, 160.0) == 10.0
    assert canonical_ratio(320.0, 160.0) == 0.5
    assert to_metres(5.0, None, None) == 5.0


# Where cameras come from, and where they are missed


def test_manifests_tell_cameras_in_four_ways():
    def of(**fields):
        return manifest.parse({"rgb": "a.png", **fields}, "here").common.camera(60, 80)

    assert of() is None
    np.testing.assert_array_equal(of(fx=90), [90, 90, 39.5, 29.5])
    np.testing.assert_array_equal(of(fx=90, fy=91, cx=1, cy=2), [90, 91, 1, 2])
    np.testing.assert_array_equal(of(focal_mm=18, sensor_width_mm=36), [40, 40, 39.5, 29.5])
    upright = manifest.parse({"rgb": "a.png", "focal_mm": 18, "sensor_width_mm": 36}, "here")
    np.testing.assert_array_equal(upright.common.camera(80, 60), [40, 40, 29.5, 39.5])
    np.testing.assert_array_equal(of(K=[90, 0, 1, 0, 91, 2, 0, 0, 1]), [90, 91, 1, 2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"focal_mm": 50},
            "focal_mm=50 needs the sensor's width; give",
        ),
        ({"focal_mm": 50, "sensor_width_mm": 36, "fx": 3}, "both give the focal length"),
        ({"K": [1] * 9, "fx": 3}, "K and fx both give the camera"),
        ({"sensor_width_mm": 36}, "sensor_width_mm without a focal length"),
        ({"cx": 3}, "cx without a focal length; give fx"),
        ({"fx": 0}, "fx=0 must be positive"),
        ({"fx": float("inf")}, "fx=inf must be positive and finite"),
        ({"fx": 1, "cy": float("nan")}, "cy=nan must be"),
        ({"fx": "long"}, "in numbers"),
        ({"K": [0] * 9}, "fx=0 must be positive"),
    ],
)
def test_cameras_that_say_nothing_are_refused(fields, message):
    with pytest.raises(manifest.ManifestError, match="here: .*" + message):
        manifest.parse({"rgb": "a.png", **fields}, "here")


@pytest.fixture
def pairs(tmp_path):
    """Two pairs, of which the second has its own camera; and BTS' kind of list."""
    for name in ("a", "b"):
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((30, 40, 3), 99, np.uint8))
        np.save(tmp_path / f"{name}.npy", np.full((30, 40), 2.5, np.float32))
    rows = [{"rgb": "a.png", "depth": "a.npy"}, {"rgb": "b.png", "depth": "b.npy", "fx": 33}]
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    (tmp_path / "list.txt").write_text("a.png a.npy 518.8579\nb.png b.npy 721.5\n")
    return tmp_path


def test_a_sources_sensor_is_for_entries_that_know_their_lens_in_millimetres(tmp_path):
    own = {"rgb": "c.png", "focal_mm": 12, "sensor_width_mm": 24}
    rows = [{"rgb": "a.png", "focal_mm": 18}, {"rgb": "b.png", "fx": 33}, own]
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    entries, _ = manifest.load(tmp_path, defaults={"sensor_width_mm": 36, "fy": 55})
    assert [e.common.camera(60, 80)[:2] for e in entries] == [(40, 40), (33, 33), (40, 40)]


def test_a_sources_camera_is_for_entries_that_have_none(pairs):
    source = registry.make({"type": "rgbd", "path": str(pairs), "fx": 50.0, "fy": 55.0})
    np.testing.assert_array_equal(source[0]["camera"], [50, 55, 19.5, 14.5])
    np.testing.assert_array_equal(source[1]["camera"], [33, 33, 19.5, 14.5])
    listed = registry.make({"type": "rgbd", "path": str(pairs / "list.txt")})
    assert [r["camera"][0] for r in (listed[0], listed[1])] == [518.8579, 721.5]


def batches(spec, **how):
    how = {"labelled": [spec], "threads": 0, **how}
    return pipeline.train_batches(
        how, labelled_batch=2, unlabelled_batch=0, size=28, seed=0, patch_size=14
    )


def test_batches_carry_cameras_where_they_are_asked_for_and_only_there(pairs):
    spec = {"type": "rgbd", "path": str(pairs), "fx": 50.0}
    with batches(spec, metric=True, camera=True) as found:
        labelled = next(found)["labelled"]
    assert labelled["camera"].shape == (2, 4) and labelled["camera"].dtype == np.float32
    fx = sorted(labelled["camera"][:, 0])
    np.testing.assert_allclose(fx, [33 * 42 / 40, 50 * 42 / 40])  # 30 × 40 becomes 28 × 42
    for some in (spec, {"type": "rgbd", "path": str(pairs)}):  # the second: of one record alone
        with batches(some) as found:
            assert "camera" not in next(found)["labelled"]


def test_a_record_without_a_camera_is_refused_before_the_first_batch(pairs):
    with pytest.raises(ValueError, match=r"a\.png has no camera.*: give fx .*rgbd:PATH\?fx="):
        batches({"type": "rgbd", "path": str(pairs)}, metric=True, camera=True)


def test_labels_without_a_scale_are_refused_before_the_first_batch(pairs):
    spec = {"type": "rgbd", "path": str(pairs), "kind": "disparity", "shift_known": True}
    batches(spec).close()
    with pytest.raises(ValueError, match=r"disparity, in no known unit \(a\.png\).*kind=depth"):
        batches(spec, metric=True)
    # a packed set may hold both kinds: each record is looked at
    mixed = [registry.make({"type": "rgbd", "path": str(pairs)}), registry.make(spec)]
    assert source_checks.without_metres(mixed[0]) is None
    assert source_checks.without_metres(Subset(mixed[1], [1])) == "b.png"


def test_evaluating_a_canonical_model_without_cameras_names_the_cure(pairs):
    source = registry.make({"type": "rgbd", "path": str(pairs)})
    with pytest.raises(ValueError, match=r"a\.png has no camera.*give fx"):
        loop.evaluate_candidate(exact(FOCAL, 60.0), source)
