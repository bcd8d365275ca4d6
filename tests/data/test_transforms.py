"""Geometry against the official sizes, an independent float64 resize and the official outputs."""

import json

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import transforms
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.utils.encoders import DINOV2

# (h, w) → network size at 518, lower_bound; worked out with the official rule.
OFFICIAL_SIZES = {
    (480, 640): (518, 686),
    (375, 1242): (518, 1722),
    (370, 1226): (518, 1722),
    (352, 1216): (518, 1792),
    (768, 1024): (518, 686),
    (436, 1024): (518, 1218),
    (1216, 1936): (518, 826),
    (4032, 6048): (518, 770),
    (1080, 1920): (518, 924),
    (100, 4000): (518, 20720),
}


@pytest.mark.parametrize("hw", OFFICIAL_SIZES, ids=str)
def test_network_size_is_the_official_one(hw):
    assert transforms.network_size(*hw, patch_size=14) == OFFICIAL_SIZES[hw]
    assert transforms.network_size(*hw[::-1], patch_size=14) == OFFICIAL_SIZES[hw][::-1]


def test_rounding_is_half_to_even():
    assert transforms.network_size(518, 525, patch_size=14) == (518, 532)  # 37.5 patches → 38
    assert transforms.network_size(518, 539, patch_size=14) == (518, 532)  # 38.5 patches → 38
    assert transforms.network_size(14, 35, 14, patch_size=14) == (14, 28)  # 2.5 → 2
    assert transforms.network_size(14, 49, 14, patch_size=14) == (14, 56)  # 3.5 → 4


def test_other_methods_and_sizes():
    assert transforms.network_size(480, 640, 518, method="upper_bound", patch_size=14) == (392, 518)
    assert transforms.network_size(480, 640, 518, method="minimal", patch_size=14) == (518, 686)
    assert transforms.network_size(480, 1280, 1300, method="minimal", patch_size=14) == (490, 1302)
    assert transforms.network_size(480, 640, keep_aspect=False, patch_size=14) == (518, 518)
    assert transforms.network_size(1, 1, 112, patch_size=14) == (112, 112)
    with pytest.raises(ValueError, match="lower-bound.*lower_bound, upper_bound, minimal"):
        transforms.network_size(10, 10, method="lower-bound", patch_size=14)
    with pytest.raises(ValueError, match="0x640"):
        transforms.network_size(0, 640, patch_size=14)
    with pytest.raises(ValueError, match="size=10 is below one patch"):
        transforms.network_size(480, 640, 10, patch_size=14)


def cubic_matrix(source: int, target: int) -> np.ndarray:
    """(target, source) float64 weights: half-pixel centres, A = -0.75, edges repeated."""
    a = -0.75
    weights = np.zeros((target, source))
    for i in range(target):
        x = (i + 0.5) * source / target - 0.5
        first = int(np.floor(x)) - 1
        for k in range(first, first + 4):
            d = abs(x - k)
            if d <= 1:
                value = (a + 2) * d**3 - (a + 3) * d**2 + 1
            else:
                value = a * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[i, min(max(k, 0), source - 1)] += value
    return weights


@pytest.mark.parametrize(
    ("hw", "size"), [((48, 64), 112), ((480, 641), 518), ((31, 17), 28), ((300, 900), 112)], ids=str
)
def test_resize_equals_float64_bicubic(hw, size):
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)  # noise: the worst case
    height, width = transforms.network_size(*hw, size, patch_size=14)
    rows, columns = cubic_matrix(hw[0], height), cubic_matrix(hw[1], width)
    expected = np.einsum("ih,hwc,jw->ijc", rows, image / 255.0, columns, optimize=True)
    got = transforms.resize_image(image, height, width)
    assert got.dtype == np.float32
    # 1e-4: source positions are rounded to float32 (2e-5 of a pixel at x = 600).
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    assert got.min() < -0.01 and got.max() > 1.01  # overshoot is kept


def test_resize_of_the_same_size_changes_nothing():
    image = np.random.default_rng(1).integers(0, 256, (28, 42, 3), np.uint8)
    np.testing.assert_array_equal(
        transforms.resize_image(image, 28, 42), image.astype(np.float32) * np.float32(1 / 255)
    )


@pytest.mark.parametrize("hw", [(480, 640), (375, 1242), (1216, 1936), (60, 80)], ids=str)
def test_labels_are_resized_by_nearest_neighbour(hw):
    label = np.random.default_rng(2).random(hw, np.float32)
    height, width = transforms.network_size(*hw, patch_size=14)
    got = transforms.resize_nearest(label, height, width)
    # OpenCV takes the reciprocal of the scale: 608 lies a rounding above row 259 of 1216 → 518.
    rows = np.floor(np.arange(height) * (1 / (height / hw[0]))).astype(int)
    columns = np.floor(np.arange(width) * (1 / (width / hw[1]))).astype(int)
    np.testing.assert_array_equal(got, label[rows][:, columns])
    mask = transforms.resize_nearest(label > 0.5, height, width)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, got > 0.5)


def test_network_input_equals_the_official_one(shared):
    for entry in json.loads((shared / "golden" / "outputs.json").read_text()):
        image = formats.read_image(shared / "data" / entry["image"])
        got = transforms.network_input(image)
        golden = np.load(shared / "golden" / entry["npz"])["network_input"].transpose(1, 2, 0)
        assert got.shape == golden.shape
        # Half a float16 step of the stored array, and 1e-4 of float32 resize in units of the
        # smallest standard deviation.
        tolerance = np.spacing(np.abs(golden)).astype(np.float64) / 2 + 1e-4 / 0.224
        assert np.all(np.abs(got - golden.astype(np.float64)) <= tolerance), entry["image"]


def record(height, width):
    """An image whose red channel is its label: whatever moves one must move the other."""
    red = np.random.default_rng(4).integers(1, 256, (height, width), np.uint8)
    image = np.stack([red, red // 2, 255 - red], -1)
    return {
        "image": image,
        "disparity": red.astype(np.float32),
        "valid": red > 10,
        "sky": red > 250,
        "shift_known": True,
    }


def test_image_and_label_share_crop_and_flip():
    example = record(56, 84)
    flips, corners = 0, set()
    for seed in range(40):
        geometry = transforms.draw_geometry(np.random.default_rng(seed), 56, 84, 56, patch_size=14)
        out = transforms.apply_geometry(example, geometry, 56)
        assert out["image"].shape == (56, 56, 3) and out["disparity"].shape == (56, 56)
        red = np.round(out["image"][..., 0] * 255)
        np.testing.assert_array_equal(red, out["disparity"])
        np.testing.assert_array_equal(out["valid"], red > 10)
        np.testing.assert_array_equal(out["sky"], red > 250)
        assert out["shift_known"]
        window = example["image"][:, geometry.left : geometry.left + 56, 0]
        expected = window[:, ::-1] if geometry.flip else window
        np.testing.assert_array_equal(red, expected)
        flips += geometry.flip
        corners.add(geometry.left)
    assert 8 < flips < 32  # p = .5, 40 draws
    assert min(corners) >= 0 and max(corners) <= 28 and len(corners) > 12


def test_corners_reach_both_ends():
    drawn = {
        transforms.draw_geometry(np.random.default_rng(s), 28, 42, 28, patch_size=14).left
        for s in range(300)
    }
    assert drawn == set(range(15))  # 42 - 28 + 1 places


def test_label_of_another_resolution_follows_the_image():
    """Pseudo labels are stored at network size: they are cropped there, not resized twice."""
    example = record(40, 60)
    big = cv2.resize(example["disparity"], (84, 56), interpolation=cv2.INTER_NEAREST)
    example |= {"disparity": big, "valid": big > 10, "sky": big > 250}
    geometry = transforms.Geometry(56, 84, 0, 20, True)
    out = transforms.apply_geometry(example, geometry, 56)
    np.testing.assert_array_equal(out["disparity"], big[:, 20:76][:, ::-1])


def test_image_alone_has_no_label_fields():
    geometry = transforms.centre_geometry(30, 90, 28, patch_size=14)
    assert geometry == transforms.Geometry(28, 84, 0, 28, False)
    out = transforms.apply_geometry({"image": np.zeros((30, 90, 3), np.uint8)}, geometry, 28)
    assert set(out) == {"image"}


@pytest.mark.parametrize("hw", [(48, 64), (64, 48), (376, 1242), (28, 37)])
def test_bilinear_corners_is_pytorchs(hw):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255)),
        (56, 70),
        mode="bilinear",
        align_corners=True,
    )
    ours = transforms.resize_corners(image, 56, 70)
    assert ours.dtype == np.float32
    # float32: the source's position is rounded at up to 1242 pixels, 6e-5 of a step between two
    np.testing.assert_allclose(ours, theirs[0].numpy().transpose(1, 2, 0), atol=2e-4)
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]] / 255
    np.testing.assert_allclose(ours[[0, 0, -1, -1], [0, -1, 0, -1]], corners, atol=1e-6)


def test_the_bins_heads_input():
    """392 x 518 whatever the aspect ratio, from ImageNet's statistics (V1's metric code)."""
    see = transforms.BINS_INPUT
    for hw in ((480, 640), (640, 480), (352, 1216)):
        assert see(np.zeros((*hw, 3), np.uint8)).shape == (392, 518, 3)
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    expected = transforms.resize_corners(image, 392, 518)
    np.testing.assert_array_equal(see(image), DINOV2.normalise(expected))
    with pytest.raises(ValueError, match="size=364: every input of this network is 392x518"):
        see(image, 364)


def test_a_whole_image_of_one_shape_keeps_its_label_and_camera_with_it():
    """What a bins head is trained on: everything at one height and width, and flipped."""
    x, y = np.meshgrid(np.arange(60), np.arange(40))
    image = np.stack([2 * x, 3 * y, x + y], -1).astype(np.uint8)
    record = {
        "image": image,
        "disparity": (x + 100 * y).astype(np.float32),
        "valid": x > 20,
        "sky": y > 30,
        "shift_known": True,
        "camera": np.array([50.0, 80.0, 20.0, 10.0]),
    }
    rng, size = np.random.default_rng(0), (28, 98)
    geometries = [transforms.draw_geometry(rng, 40, 60, size, patch_size=14) for _ in range(20)]
    assert {g[:4] for g in geometries} == {(28, 98, 0, 0)}
    assert {g.flip for g in geometries} == {True, False}
    straight = transforms.Geometry(28, 98, 0, 0, False)
    out = transforms.apply_geometry(record, straight, size)
    seen = transforms.InputTransform(size, False, "bilinear-corners", DINOV2)(image)
    np.testing.assert_array_equal(DINOV2.normalise(out["image"]), seen)
    # The label's pixel is the image's: half a pixel, by nearest neighbour, is as near as it gets.
    red, green = out["image"][..., 0] * 255 / 2, out["image"][..., 1] * 255 / 3
    assert np.abs(out["disparity"] % 100 - red).max() <= 0.5 + 1e-4  # float32
    assert np.abs(out["disparity"] // 100 - green).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(out["valid"], out["disparity"] % 100 > 20)
    np.testing.assert_array_equal(out["sky"], out["disparity"] // 100 > 30)
    np.testing.assert_allclose(out["camera"][:2], [50 * 98 / 60, 80 * 28 / 40], rtol=1e-6)
    mirrored = transforms.apply_geometry(record, straight._replace(flip=True), size)
    for field in ("image", "disparity", "valid", "sky"):
        np.testing.assert_array_equal(mirrored[field], out[field][:, ::-1])
    assert mirrored["camera"][2] == pytest.approx(97 - out["camera"][2])
    floats = {**record, "image": image / np.float32(255)}
    np.testing.assert_allclose(
        transforms.apply_geometry(floats, straight, size)["image"], out["image"], atol=1e-6
    )


def test_the_official_input_is_network_input():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    see = transforms.OFFICIAL_INPUT
    np.testing.assert_array_equal(see(image), transforms.network_input(image))
    np.testing.assert_array_equal(see(image, 70), transforms.network_input(image, 70))


@pytest.mark.parametrize("see", [transforms.OFFICIAL_INPUT, transforms.BINS_INPUT], ids=str)
def test_an_input_survives_json(see):
    written = json.loads(json.dumps(see.as_json()))
    assert transforms.InputTransform.from_json(written, DINOV2) == see
    assert written["keep_aspect"] is see.keep_aspect
    for fields, message in (
        ({"resize": "area"}, "input resize 'area': one of bicubic, bilinear-corners"),
        ({"size": [392, 520]}, "input size .392, 520.: .* multiples of 14"),
        ({"size": 100}, "multiples of 14"),
        ({"size": "518"}, "one side, or .height, width"),
        ({"keep_aspect": not see.keep_aspect}, "with keep_aspect="),
        ({"crop": 3}, "crop.*: needs exactly keep_aspect, resize, size"),
    ):
        with pytest.raises(ValueError, match=message):
            transforms.InputTransform.from_json(written | fields, DINOV2)
    with pytest.raises(ValueError, match="input 518: needs"):
        transforms.InputTransform.from_json(518, DINOV2)
