"""Corruptions: the same for a key, stronger with severity, labels untouched; rows and means."""

import importlib.util
import sys

import numpy as np
import pytest

from depth_anything_jax.evaluation.runner import corruptions

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("albumentations") is None,
    reason="needs albumentations (extra [corrupt])",
)


@pytest.fixture(scope="module")
def image():
    """A picture with an edge, a ramp and texture."""
    rng = np.random.default_rng(0)
    picture = np.zeros((96, 128, 3))
    picture += np.linspace(30, 160, 128)[:, None]
    picture[30:60, 40:90] = (200, 120, 40)
    picture += rng.normal(0, 8, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


@needs_library
@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_a_corruption_is_the_same_for_a_key_and_grows_with_severity(kind, image):
    before = image.copy()
    found = [corruptions.apply(image, kind, s, "a.png") for s in corruptions.SEVERITIES]
    assert all(x.shape == image.shape and x.dtype == np.uint8 for x in found)
    assert (image == before).all()
    assert (found[2] == corruptions.apply(image, kind, 3, "a.png")).all()
    if kind in ("gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "snow", "fog"):
        assert (found[2] != corruptions.apply(image, kind, 3, "b.png")).any()
    rms = [np.sqrt(np.mean((x.astype(float) - image) ** 2)) for x in found]
    assert rms[0] > 1
    if kind == "fog":  # gets rougher, not only thicker: less of the picture is left in it
        left = [np.corrcoef(image.ravel(), x.ravel())[0, 1] for x in found]
        assert left[0] < 0.9 and left[4] < left[0]
    elif kind == "pixelate":  # blocks of 1/0.6 and 1/0.5 pixels fall on texture by chance
        assert max(rms[:2]) < min(rms[2:])
    else:
        assert (np.diff(rms) > 0).all(), rms


@needs_library
def test_amounts_are_those_of_imagenet_c():
    """What can be read off the pixels of a flat picture."""
    flat = np.full((200, 200, 3), 128, np.uint8)
    for severity, sd in enumerate((0.08, 0.12, 0.18), 1):
        noise = corruptions.apply(flat, "gaussian_noise", severity, "a").astype(float) / 255
        assert noise.std() == pytest.approx(sd, rel=0.02)
    for severity, share in enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1):
        hit = corruptions.apply(flat, "impulse_noise", severity, "a") != 128
        assert hit.mean() == pytest.approx(share, rel=1e-3)
    for severity, photons in enumerate((60, 25, 12), 1):
        noise = corruptions.apply(flat, "shot_noise", severity, "a").astype(float) / 255
        assert noise.var() == pytest.approx(128 / 255 / photons, rel=0.05)
    bright = corruptions.apply(flat, "brightness", 2, "a")
    assert (bright == round(128 + 0.2 * 255)).all()
    two = flat.copy()
    two[:, 100:] = 28
    for severity, factor in enumerate((0.4, 0.3, 0.2, 0.1, 0.05), 1):
        low, high = np.unique(corruptions.apply(two, "contrast", severity, "a")).astype(int)
        assert high - low == pytest.approx(100 * factor, abs=1) and (
            low + high
        ) / 2 == pytest.approx(78, abs=1)


class Records(list):
    expected = 3

    def key(self, i):
        return self[i]["key"]


def records(image):
    label = np.ones(image.shape[:2], np.float32)
    return Records({"key": f"{i}", "image": image, "depth": label, "scene": "s"} for i in range(3))


@needs_library
def test_labels_and_keys_stay_as_they_are(image):
    source = records(image)
    sets = corruptions.expand([("nyu", source)], ["fog:2", "jpeg"])
    assert [getattr(s, "facts", {}).get("severity") for _, s in sets] == [None, 2, 1, 2, 3, 4, 5]
    _, foggy = sets[1]
    assert foggy[0]["depth"] is source[0]["depth"] and foggy.key(2) == "2" and len(foggy) == 3
    assert (foggy[0]["image"] != image).any() and (source[0]["image"] == image).all()
    assert (foggy[0]["image"] != foggy[1]["image"]).any(), "each image has weather of its own"
    assert foggy.expected == 3
    assert corruptions.facts(source, sets) == {"corruption": "none", "severity": 0}
    assert corruptions.facts(foggy, sets) == {"corruption": "fog", "severity": 2}
    assert corruptions.facts(source, [("nyu", source)]) == {}


def test_names_are_checked_before_anything_is_read():
    assert len(corruptions.KINDS) == 12 and len(corruptions.parse(["all"])) == 60
    assert corruptions.parse(["fog:3", "fog"]) == [("fog", s) for s in (3, 1, 2, 4, 5)]
    assert corruptions.parse(["all:5"]) == [(k, 5) for k in corruptions.KINDS]
    with pytest.raises(ValueError, match="corruption 'frog': all, or one of .*mean 'fog'"):
        corruptions.parse(["frog"])
    with pytest.raises(ValueError, match="corruption 'fog:6': severities are 1 to 5"):
        corruptions.parse(["fog:6"])
    with pytest.raises(ValueError, match="no effect on predictions:x, which does not read images"):
        corruptions.check(["runs/a", "predictions:x"], ["fog"])
    corruptions.check(["predictions:x"], [])


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    corruptions._library.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'depth_anything_jax\[corrupt\]'"):
        corruptions.expand([], ["fog"])
    corruptions._library.cache_clear()
    assert corruptions.expand([("a", 1)], []) == [("a", 1)]


def row(checkpoint, kind, severity, value):
    return {
        "checkpoint": checkpoint, "view": "metric", "reader": "nyu", "set": "nyu", "hash": "h",
        "aggregate": "image", "corruption": kind, "severity": severity, "abs_rel": value,
        "images": 1,
    }  # fmt: skip


def test_the_mean_is_over_kinds_and_severities_without_the_clean_images():
    rows = [row("a", "none", 0, 0.1), row("a", "fog", 1, 0.2), row("a", "jpeg", 5, 0.5)]
    (mean,) = corruptions.mean_rows(rows)
    assert mean["abs_rel"] == pytest.approx(0.35)
    assert (mean["corruption"], mean["severity"], mean["images"]) == ("mean", 2, 1)
    assert corruptions.mean_rows(rows[:1]) == []


def test_relative_to_another_checkpoint_clean_and_corrupted_apart():
    from depth_anything_jax.evaluation.scores.aggregate import ImageScores

    rows, images = [], []
    for name, values in (("old", (0.1, 0.4, 0.2)), ("new", (0.1, 0.2, 0.15))):
        for (kind, severity), v in zip([("none", 0), ("fog", 1), ("fog", 2)], values, strict=True):
            rows.append(row(name, kind, severity, v))
            image = ImageScores("1", "nyu", abs_rel=v)._asdict()
            del image["protocol"]
            images.append({**rows[-1], **image})
    clean, corrupted = corruptions.compare(rows, images, "old")
    assert (clean["over"], clean["abs_rel"], clean["sets"]) == ("clean images", 0, 1)
    assert corrupted["over"] == "corrupted images" and corrupted["sets"] == 2
    assert corrupted["abs_rel"] == pytest.approx((0.5 + 0.25) / 2)
