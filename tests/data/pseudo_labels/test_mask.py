"""A static mask over labels that are stored apart from their images."""

import numpy as np
import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.pseudo_labels import join


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("photos", "labels"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        image = rng.integers(0, 255, (20, 30, 3), np.uint8)
        (tmp_path / "photos" / f"{name}.png").write_bytes(formats.encode_png(image))
        np.save(tmp_path / "labels" / f"{name}.npy", rng.random((10, 15), np.float32))
    return tmp_path


def save_mask(folder, size=(20, 30)):
    mask = np.full(size, 255, np.uint8)
    mask[:5] = 0  # a rim, two and a half pixels of the label
    (folder / "mask.png").write_bytes(formats.encode_png(mask))
    return f"{folder}/labels?mask={folder}/mask.png"


def test_masked_pixels_are_invalid_at_the_labels_resolution(photos):
    source = registry.make({"type": "folder", "path": f"{photos}/photos"})
    labelled = registry.attach(source, save_mask(photos))
    for i in range(2):
        record = labelled[i]
        assert not record["valid"][:3].any(), "a pixel that is half masked does not count"
        assert record["valid"][3:].all()
    assert registry.attach(source, f"{photos}/labels")[0]["valid"].all()


def test_a_mask_of_another_size_is_refused(photos):
    source = registry.make({"type": "folder", "path": f"{photos}/photos"})
    labelled = registry.attach(source, save_mask(photos, (30, 20)))
    with pytest.raises(join.LabelError, match="a.png is 20x30, the mask 30x20"):
        labelled[0]
