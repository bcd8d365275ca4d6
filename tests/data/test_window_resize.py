"""A window of a long image has the pixels of the whole resized image, and costs a window."""

import tracemalloc

import numpy as np
import pytest

from depth_anything_jax.data import transforms, window_resize


@pytest.mark.parametrize("hw", [(12, 300), (300, 12), (40, 33), (100, 1000), (1, 50)], ids=str)
def test_a_window_has_the_pixels_of_the_whole(hw):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*hw, 3), np.uint8)
    label, mask = rng.random(hw, np.float32), rng.random(hw) < 0.5
    height, width = transforms.network_size(*hw, 56, patch_size=14)
    for where in (0.0, 0.37, 1.0):
        top, left = int(where * (height - 56)), int(where * (width - 56))
        window = {"rows": slice(top, top + 56), "columns": slice(left, left + 56)}
        cut = window["rows"], window["columns"]
        np.testing.assert_allclose(
            window_resize.bicubic(image, height, width, **window),
            transforms.resize_image(image, height, width)[cut],
            rtol=0, atol=5e-5,  # OpenCV without IPP rounds positions to float32
        )  # fmt: skip
        for x in (label, mask):
            np.testing.assert_array_equal(
                window_resize.nearest(x, height, width, **window),
                transforms.resize_nearest(x, height, width)[cut],
            )


@pytest.mark.parametrize("hw", [(3, 9000), (9000, 3), (10, 2000)], ids=str)
def test_a_crop_of_a_long_image_needs_the_memory_of_a_crop(hw):
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    record = {
        "image": image, "depth": image[..., 0] + np.float32(1), "valid": image[..., 0] < 200,
        "sky": image[..., 0] > 250, "shift_known": True,
    }  # fmt: skip
    geometry = transforms.draw_geometry(np.random.default_rng(1), *hw, 518, patch_size=14)
    tracemalloc.start()
    try:
        out = transforms.apply_geometry(record, geometry._replace(flip=False), 518)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert out["image"].shape == (518, 518, 3) and out["depth"].shape == (518, 518)
    assert peak < 50e6  # the whole resized image has .6 to 9.7 GB
    mirrored = transforms.apply_geometry(record, geometry._replace(flip=True), 518)
    for field in ("image", "depth", "valid", "sky"):
        np.testing.assert_array_equal(mirrored[field], out[field][:, ::-1])
