"""Sparse labels keep their points when they are resized; dense ones are resized as ever."""

import numpy as np
import pytest

from depth_anything_jax.data import examples, label_points, pipeline, transforms


def record(hw, share, kind="depth", blob=False):
    rng = np.random.default_rng(0)
    valid = rng.random(hw) < share
    if blob:
        valid = np.zeros(hw, np.bool_)
        valid[: round(share * hw[0])] = True
    values = np.where(valid, rng.uniform(1, 9, hw), 0).astype(np.float32)
    return {
        "image": np.zeros((*hw, 3), np.uint8), kind: values, "valid": valid,
        "sky": rng.random(hw) < 0.5, "shift_known": True,
    }  # fmt: skip


def whole(hw, size=28, flip=False):
    return transforms.Geometry(*transforms.network_size(*hw, size, patch_size=14), 0, 0, flip)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("kind", ["depth", "disparity"])
def test_every_point_lands_in_its_pixel_and_the_nearest_wins(kind, corners):
    hw, size = (120, 97), (28, 42)
    r = record(hw, 0.05, kind)
    found = label_points.carried(
        r, size, slice(0, 28), slice(0, 42), corners=corners, method="points"
    )
    want = np.zeros(size, np.float32)
    for row, column in np.argwhere(r["valid"]):
        if corners:
            at = (round(row * 27 / 119), round(column * 41 / 96))
        else:
            at = (int((row + 0.5) * 28 / 120), int((column + 0.5) * 42 / 97))
        value = r[kind][row, column]
        nearer = value < want[at] if kind == "depth" else value > want[at]
        want[at] = value if want[at] == 0 or nearer else want[at]
    np.testing.assert_array_equal(found[kind], want)
    np.testing.assert_array_equal(found["valid"], want > 0)


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_holds_the_points_of_its_window(flip):
    r = record((120, 240), 0.02)
    geometry = transforms.Geometry(42, 84, 9, 30, flip)
    out = transforms.apply_geometry(r, geometry, 28)
    all_points = transforms.apply_geometry(r, transforms.Geometry(42, 84, 0, 0, False), (42, 84))
    part = label_points.carried(r, (42, 84), slice(0, 42), slice(0, 84), corners=False)
    for field in ("depth", "valid"):
        want = part[field][9:37, 30:58]
        np.testing.assert_array_equal(out[field], want[:, ::-1] if flip else want)
    assert out["depth"].flags.c_contiguous and out["sky"].any()
    assert all_points["valid"].sum() > 0.9 * np.count_nonzero(r["valid"])  # whole images, too


@pytest.mark.parametrize(
    ("hw", "share", "blob", "sparse"),
    [
        ((120, 160), 0.01, False, True),
        ((120, 160), 0.3, False, True),
        ((120, 160), 0.7, False, False),  # dense with holes
        ((120, 160), 0.2, True, False),  # dense in a part of the image
        ((28, 40), 0.05, False, False),  # nothing is lost where the map does not shrink
        ((20, 27), 0.05, False, False),
    ],
)
def test_labels_are_carried_by_points_where_they_are_sparse(hw, share, blob, sparse):
    r = record(hw, share, blob=blob)
    auto, nearest, points = (
        transforms.apply_geometry(r, whole(hw), 28, method) for method in label_points.METHODS
    )
    for field in ("depth", "valid"):
        np.testing.assert_array_equal(auto[field], (points if sparse else nearest)[field])
    for other in (auto, points):
        np.testing.assert_array_equal(other["sky"], nearest["sky"])
    if sparse:
        assert points["valid"].sum() >= label_points.GAIN * nearest["valid"].sum()


def test_a_run_chooses_how_labels_are_resized(tmp_path):
    """Forty points of lidar on two megapixels: a crop keeps more than loss.min_valid of them."""

    class Lidar:
        name, labelled = "lidar", True

        def __len__(self):
            return 1

        def key(self, index):
            return "a"

        def __getitem__(self, index):
            depth = np.zeros((1080, 1920), np.float32)
            at = np.random.default_rng(0).integers(0, (1080, 1920), (40, 2))
            depth[tuple(at.T)] = 10
            image = np.zeros((1080, 1920, 3), np.uint8)
            return {"key": "a", "image": image, "depth": depth, "valid": depth > 0,
                    "sky": depth < 0, "shift_known": True}  # fmt: skip

    def valid(method):
        reader = examples.Examples(
            "labelled", [Lidar()], None, size=518, patch_size=14, seed=0, labels=True,
            label_resize=method,
        )  # fmt: skip
        return [int(reader.read(i)[0]["valid"].sum()) for i in range(3)]

    assert np.mean(valid("auto")) > 20 and valid("auto") == valid("points")
    assert np.mean(valid("nearest")) < 8
    data = {"labelled": {"type": "scenes", "domain": "A", "count": 1, "size": 28}}
    sizes = {"labelled_batch": 1, "unlabelled_batch": 0, "size": 28, "patch_size": 14, "seed": 0}
    with pytest.raises(ValueError, match=r"data.label_resize='linear'.*auto, nearest, points"):
        pipeline.train_batches({**data, "label_resize": "linear"}, **sizes)
    with pipeline.train_batches({**data, "label_resize": "nearest", "threads": 0}, **sizes) as b:
        assert next(b)["labelled"]["valid"].any()
