"""Cuts are found, and neither cameras that move nor light nor flashes are taken for cuts."""

import cv2
import numpy as np
import pytest

from depth_anything_jax.data.scenes.source import render
from depth_anything_jax.video import cuts
from depth_anything_jax.video.cuts import Pictures

SIZE = (216, 144)  # width, height of the frames
PHOTOS = ("moge_examples_03_Traffic", "moge_examples_01_HouseIndoor")


@pytest.fixture(scope="module", params=["A0", "B1", "C2", *PHOTOS])
def picture(request):
    if request.param not in PHOTOS:
        domain, index = request.param
        return render(domain, 1, int(index), 420)["image"]
    folder = request.getfixturevalue("shared") / "data/photos/demo"
    image = cv2.imread(str(folder / f"{request.param}.jpg"))[..., ::-1]
    return cv2.resize(image, (630, round(630 * image.shape[0] / image.shape[1])))


def view(image, x=0.0, y=0.0, turn=0.0, zoom=1.0, light=1.0, blur=0, noise=2):
    """What a camera sees of a picture: shifted by shares of its width, turned by degrees."""
    height, width = image.shape[:2]
    scale = 0.7 * min(width / SIZE[0], height / SIZE[1]) / zoom
    c, s = scale * np.cos(np.radians(turn)), scale * np.sin(np.radians(turn))
    matrix = np.array([[c, -s, 0], [s, c, 0]])
    centre = width / 2 + x * SIZE[0] * scale * zoom, height / 2 + y * SIZE[0] * scale * zoom
    matrix[:, 2] = centre - matrix[:, :2] @ (np.array(SIZE) / 2)
    flags = cv2.INTER_AREA | cv2.WARP_INVERSE_MAP
    out = cv2.warpAffine(image, matrix, SIZE, flags=flags, borderMode=cv2.BORDER_REFLECT)
    if blur:
        out = cv2.blur(out, (blur, 1))
    values = light * out.astype(np.float32) + np.random.default_rng(0).normal(0, noise, out.shape)
    return np.clip(values, 0, 255).astype(np.uint8)


def shaken(share, count=8):
    rng = np.random.default_rng(1)
    return [dict(zip("xy", rng.uniform(-share, share, 2), strict=True)) for _ in range(count)]


MOTIONS = {
    "pan 2 %": [{"x": 0.02 * k - 0.08} for k in range(8)],
    "pan 4 %": [{"x": 0.04 * k - 0.14} for k in range(8)],
    "pan 15 %": [{"x": 0.15 * k - 0.2} for k in range(3)],
    "hand 1 %": shaken(0.01),
    "hand 2.5 %": shaken(0.025),
    "hand 8 %, turning": [m | {"turn": 5 * (-1) ** k} for k, m in enumerate(shaken(0.08))],
    "zoom in": [{"zoom": 1.1**k} for k in range(5)],
    "zoom out": [{"zoom": 1.2**-k} for k in range(3)],
    "rotation": [{"turn": 8 * k} for k in range(4)],
    "exposure": [{"x": 0.02 * k, "light": light} for k, light in enumerate((1, 0.5, 1.1, 0.6))],
    "fade from black": [{"light": light} for light in (0, 0.02, 0.06, 0.15, 0.3, 0.6, 1)],
    "flash": [{"light": light, "x": 0.01 * k} for k, light in enumerate((1, 5, 1, 90, 1, 1))],
    "motion blur": [{"x": 0.05 * k, "blur": blur} for k, blur in enumerate((1, 9, 15, 15, 5, 1))],
    "night": [{"x": 0.04 * k, "light": 0.2} for k in range(4)],
}


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_continuous_shot_has_no_cut(picture, motion):
    pictures = Pictures()
    found = [pictures(view(picture, **step)).cut for step in MOTIONS[motion]]
    assert found == [True] + [False] * (len(found) - 1)


SCENES = [(domain, index) for domain in "ABC" for index in range(3)]


@pytest.mark.parametrize("how", [{}, {"light": 0.2}, {"blur": 9}])
def test_cuts_are_found(how):
    """Between all pairs of nine scenes, also dark or blurred ones."""
    frames = [view(render(domain, 1, index, 112)["image"], **how) for domain, index in SCENES]
    missed = []
    for i, before in enumerate(frames):
        for j, after in enumerate(frames):
            pictures = Pictures()
            pictures(before)
            if i != j and not pictures(after).cut:
                missed.append((SCENES[i], SCENES[j]))
    assert not missed


def test_cuts_are_found_behind_what_stays():
    """A caption that stays, a white frame between the scenes, a cut amidst a quick pan."""
    a, b = (view(render(*scene, 112)["image"]) for scene in (("A", 1, 0), ("B", 1, 1)))
    caption = view(render("C", 1, 0, 112)["image"])[:40]
    pictures = Pictures()
    for image, expected in ((a, True), (a, False), (b, True), (b, False)):
        image = image.copy()
        image[100:140] = caption
        assert pictures(image).cut == expected
    pictures = Pictures()
    assert [pictures(x).cut for x in (a, np.full_like(a, 255), b)] == [True, False, True]
    large = [render(*scene, 420)["image"] for scene in (("A", 1, 0), ("B", 1, 1))]
    pictures = Pictures()
    shot = [view(image, x=0.08 * k - 0.1) for image in large for k in range(3)]
    assert [pictures(x).cut for x in shot] == [True, False, False, True, False, False]


def test_plain_images():
    """Without texture only the size of the change counts."""
    pictures = Pictures()
    plain = [np.full((60, 80, 3), colour, np.uint8) for colour in ((90, 90, 200), (80, 200, 80))]
    dim = (0.95 * plain[0]).astype(np.uint8)
    assert [pictures(x).cut for x in (plain[0], dim, plain[1])] == [True, False, True]


def test_cells_are_means():
    values = np.arange(64 * 96, dtype=np.float32).reshape(64, 96)
    expected = values.reshape(32, 2, 32, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(cuts.cells(values), expected, rtol=1e-6)
