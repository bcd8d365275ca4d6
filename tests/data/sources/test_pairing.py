"""Pairing by name: labels among images, folders given twice, entries that repeat."""

import json

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.pseudo_labels.label_codec import LabelError
from depth_anything_jax.data.sources.manifest import ManifestError


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((6, 8, 3), 99, np.uint8))


def depth(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((6, 8), 2000, np.uint16))


def pairs(images, depths=None, **fields):
    fields = {"images": str(images), "depths": str(depths or images), "fmt": "nyu", **fields}
    return registry.make({"type": "pairs", **fields})


def keys(source):
    return [source.key(i) for i in range(len(source))]


@pytest.mark.parametrize("ending", ["_depth.png", "_disp.tiff", "_gt.png", ".png", "_D.png"])
def test_labels_among_their_images_are_no_images(tmp_path, caplog, ending):
    for name in ("a/1", "2"):
        photo(tmp_path / f"{name}.jpg")
        depth(tmp_path / f"{name}{ending}")
    source = pairs(tmp_path, **({"suffix": "_D"} if ending == "_D.png" else {}))
    assert keys(source) == ["2.jpg", "a/1.jpg"]
    assert all(e.depth.endswith(e.rgb.removesuffix(".jpg") + ending) for e in source.entries)
    np.testing.assert_array_equal(source[0]["depth"], np.full((6, 8), 2))
    assert "2 of 4 files are labels of other images and are left out: 2" in caplog.text


def test_an_image_is_never_its_own_label(tmp_path):
    for name in ("1", "2"):
        depth(tmp_path / "same" / f"{name}.png")
    with pytest.raises(ManifestError, match=r"2 of 2 .* are the same folder.*: 1.png, 2.png"):
        pairs(tmp_path / "same")
    (tmp_path / "link").symlink_to(tmp_path / "same")
    with pytest.raises(ManifestError, match="are the same folder"):
        pairs(tmp_path / "same", tmp_path / "link")


@pytest.mark.parametrize("inside", ["labels", "images"])
def test_a_folder_inside_the_other_holds_its_own_kind_only(tmp_path, inside):
    outer, inner = tmp_path, tmp_path / "x"
    images, labels = (outer, inner) if inside == "labels" else (inner, outer)
    for name in ("1", "2"):
        photo(images / f"{name}.png")
        depth(labels / f"{name}.png")
    depth(labels / "3.png") if inside == "labels" else None  # without an image, in its folder
    source = pairs(images, labels)
    assert keys(source) == ["1.png", "2.png"]
    np.testing.assert_array_equal(source[1]["depth"], np.full((6, 8), 2))


def test_two_labels_of_an_image_are_refused_until_one_is_chosen(tmp_path):
    photo(tmp_path / "rgb/1.jpg")
    depth(tmp_path / "gt/1.png")
    depth(tmp_path / "gt/1_depth.png")
    with pytest.raises(ManifestError, match=r"1.png and 1_depth.png .* fit the image 1.jpg; .*suf"):
        pairs(tmp_path / "rgb", tmp_path / "gt")
    source = pairs(tmp_path / "rgb", tmp_path / "gt", suffix="_depth")
    assert source.entries[0].depth.endswith("1_depth.png")
    (tmp_path / "gt/1_depth.png").unlink()
    np.save(tmp_path / "gt/1.npy", np.ones((6, 8), np.float32))
    for fields, ending in (({}, ".png"), ({"fmt": "npy"}, ".npy"), ({"suffix": ".png"}, ".png")):
        (entry,) = pairs(tmp_path / "rgb", tmp_path / "gt", **fields).entries
        assert entry.depth.endswith(ending), fields
    (tmp_path / "gt/._1.png").write_bytes(b"what a Mac leaves")
    assert len(pairs(tmp_path / "rgb", tmp_path / "gt")) == 1


def test_pictures_that_could_be_each_others_label_are_refused(tmp_path):
    photo(tmp_path / "1.png")
    depth(tmp_path / "1.tiff")
    with pytest.raises(ManifestError, match="could each be the label of the other"):
        pairs(tmp_path)
    assert keys(pairs(tmp_path, suffix=".tiff")) == ["1.png"]


def test_a_folder_of_photos_leaves_out_their_depth_maps(tmp_path, caplog):
    for name in ("1.jpg", "2.jpg", "2.png", "palace_depth.jpg"):
        photo(tmp_path / name)  # 2.png is a photo of its own, and so is a lonely _depth
    for name in ("1_depth.png", "1.tiff", "3.png"):
        depth(tmp_path / name)
    source = registry.make({"type": "folder", "path": str(tmp_path)})
    assert keys(source) == ["1.jpg", "2.jpg", "2.png", "3.png", "palace_depth.jpg"]
    assert "2 of 7 files are labels of other images and are left out: 1.tiff, 1_d" in caplog.text


def test_labels_of_a_tool_may_lie_among_the_photos(tmp_path):
    for name in ("1", "2"):
        photo(tmp_path / f"{name}.jpg")
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((6, 8), 9, np.uint8))
    labels = {"path": str(tmp_path), "type": "files"}
    source = registry.make({"type": "folder", "path": str(tmp_path), "labels": labels})
    assert keys(source) == ["1.jpg", "2.jpg"]
    assert source[0]["disparity"].min() == 9
    cv2.imwrite(str(tmp_path / "3.png"), np.full((6, 8), 9, np.uint8))
    with pytest.raises(LabelError, match="no label for 1 of 5 images: 3.png"):
        registry.make({"type": "folder", "path": str(tmp_path), "labels": labels})
    cv2.imwrite(str(tmp_path / "3.bmp"), np.full((6, 8), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "4.png"), np.full((6, 8), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "4.tiff"), np.full((6, 8), 9, np.uint8))
    with pytest.raises(LabelError, match="4.png, 4.tiff are images with a label and labels"):
        registry.make({"type": "folder", "path": str(tmp_path), "labels": labels})


def manifest(folder, rows, **fields):
    (folder / "manifest.json").write_text(json.dumps(rows))
    return registry.make({"type": "rgbd", "path": str(folder), "fmt": "nyu", **fields})


def test_repeated_entries_count_once(tmp_path, caplog):
    rows = [{"rgb": "1.jpg", "depth": "1.png"}, {"rgb": "2.jpg", "depth": "2.png"}]
    source = manifest(tmp_path, [*rows, {"rgb": "./1.jpg", "depth": "1.png"}])
    assert keys(source) == ["1.jpg", "2.jpg"]
    assert "1 of 3 entries repeat an earlier one and are left out: ./1.jpg" in caplog.text
    other = {"rgb": "1.jpg", "depth": "3.png", "dataset": "b"}
    with pytest.raises(ManifestError, match="the image 1.jpg and differ: depth '1.png' and '3"):
        manifest(tmp_path, [*rows, other])
    assert keys(manifest(tmp_path, [*rows, other], exclude=["b"])) == ["1.jpg", "2.jpg"]


def test_a_file_that_is_image_and_label_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="1.png is an image of one entry and the label of the"):
        manifest(tmp_path, [{"rgb": "1.png", "depth": "./1.png"}])
    rows = [{"rgb": "1.png", "depth": "1_d.png"}, {"rgb": "1_d.png"}]
    with pytest.raises(ManifestError, match="1_d.png is an image of one entry and the label of"):
        manifest(tmp_path, rows, labelled=False)
    (tmp_path / "list.txt").write_text("/1.png 1.png\n")
    roots = {"root": str(tmp_path / "rgb"), "depth_root": str(tmp_path / "gt"), "fmt": "nyu"}
    assert len(registry.make({"type": "rgbd", "path": str(tmp_path / "list.txt"), **roots})) == 1
