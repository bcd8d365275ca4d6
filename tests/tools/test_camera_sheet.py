"""The sheet of camera perturbations."""

import cv2
import numpy as np
import pytest

from depth_anything_jax.training import camera_perturb
from depth_anything_jax.visualization import contact_sheets
from tools import camera_sheet


def test_the_sheet_shows_every_kind_of_each_photo(tmp_path):
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (40, 60, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
    photos = [str(tmp_path / f"{name}.png") for name in "ab"]
    out = tmp_path / "sheet.png"
    small = ["--perturb", "defocus.radius=(1,2)", "--perturb", "motion.length=(1,4)"]
    camera_sheet.main([*photos, "--out", str(out), "--side", "28", *small])
    drawn = cv2.imread(str(out))
    tile = contact_sheets.SIDE + contact_sheets.CAPTION
    columns = len(camera_perturb.RANGES) + 2
    assert drawn.shape == (2 * tile, columns * (contact_sheets.SIDE + 4), 3)
    tiles = drawn[contact_sheets.CAPTION : tile].reshape(contact_sheets.SIDE, columns, -1)
    assert len({tiles[:, i].tobytes() for i in range(columns)}) >= columns - 1  # blurs are small


@pytest.mark.parametrize("change", ["noise", "noise.grain=(0,1)", "snow.depth=(0,1)"])
def test_a_range_that_does_not_exist_is_refused(change):
    with pytest.raises(ValueError, match=r"write kind\.range=.*noise\.shot"):
        camera_sheet.ranges([change])
