"""Labels and cameras in the view of their image: EXIF orientation, in every kind of source."""

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.data import camera, registry
from depth_anything_jax.data.file_formats import formats, orientation
from depth_anything_jax.data.file_formats.formats import FormatError
from depth_anything_jax.data.sources import manifest, tfds_writer, view

RNG = np.random.default_rng(0)
DEPTH = np.arange(1000, 1000 + 6 * 8, dtype=np.uint16).reshape(6, 8)  # of stored pixels, in mm
DOUBT = "EXIF orientation {}, and nothing says.*label_orientation=stored or .*=upright"


def oriented(pixels, exif, fmt="PNG"):
    file, tags = io.BytesIO(), Image.Exif()
    tags[orientation.TAG] = exif
    options = {"lossless": True} if fmt == "WEBP" else {}
    Image.fromarray(pixels).save(file, fmt, exif=tags, **options)
    return file.getvalue()


def write_pair(folder, exif, shape=(60, 80), **fields):
    """A photo whose red value is its label, both with their pixels as stored."""
    depth = np.arange(1, 1 + shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    pixels = np.stack([depth % 251, depth // 251, depth * 0], -1).astype(np.uint8)
    (folder / "a.png").write_bytes(oriented(pixels, exif))
    cv2.imwrite(str(folder / "d.png"), depth)
    cv2.imwrite(str(folder / "v.png"), (depth % 7 > 0).astype(np.uint8))
    entry = {"rgb": "a.png", "depth": "d.png", "valid": "v.png", "scale": 1, **fields}
    (folder / "manifest.json").write_text(json.dumps([entry]))
    return registry.make({"type": "rgbd", "path": str(folder)})


def assert_same_pixels(record):
    image = record["image"].astype(int)
    expected = image[..., 0] + 251 * image[..., 1]
    np.testing.assert_array_equal(record["depth"], np.where(expected % 7, expected, 0))
    np.testing.assert_array_equal(record["valid"], expected % 7 > 0)


@pytest.mark.parametrize("exif", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_exif_orientation_is_opencvs(exif, fmt):
    pixels = cv2.resize(RNG.integers(0, 256, (3, 4, 3), np.uint8), (40, 30))
    data, plain = oriented(pixels, exif, fmt), oriented(pixels, 1, fmt)
    assert orientation.exif_orientation(data) == exif
    stored = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    expected = formats.decode_image(data)
    np.testing.assert_array_equal(orientation.upright(stored, exif), expected)
    assert orientation.stored_size(*expected.shape[:2], exif) == (30, 40)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe1\0\x10Exif\0\0nonsense", b"\x89PNG\r\n"])
def test_damaged_exif_counts_as_none(data):
    assert orientation.exif_orientation(data) == 1


def test_an_orientation_that_does_not_exist_counts_as_none():
    assert orientation.exif_orientation(oriented(np.zeros((2, 3, 3), np.uint8), 9)) == 1


@pytest.mark.parametrize("shape", [(60, 80), (64, 64)])
@pytest.mark.parametrize("exif", range(2, 9))
def test_a_label_beside_an_exif_orientation_is_turned_or_refused(tmp_path, exif, shape):
    assert_same_pixels(write_pair(tmp_path, exif, shape, label_orientation="stored")[0])
    source = write_pair(tmp_path, exif, shape)
    with pytest.raises(FormatError, match="a.png: .*" + DOUBT.format(exif)):
        source[0]
    record = write_pair(tmp_path, 1, shape)[0]  # without an orientation nothing is in doubt
    assert_same_pixels(record)


def test_an_upright_label_stays_as_it_is(tmp_path):
    for exif, depth in ((3, DEPTH), (6, np.rot90(DEPTH)), (6, DEPTH[:, :6])):
        stored = np.zeros((*(depth.shape if exif == 3 else depth.T.shape), 3), np.uint8)
        (tmp_path / "a.jpg").write_bytes(oriented(stored, exif, "JPEG"))
        np.save(tmp_path / "a.npy", depth.astype(np.float32))
        spec = {"type": "pairs", "images": str(tmp_path), "depths": str(tmp_path)}
        record = registry.make(spec | {"label_orientation": "upright"})[0]
        np.testing.assert_array_equal(record["depth"], depth)
    # A quarter turn of an oblong picture is seen by the shape.
    np.save(tmp_path / "a.npy", np.rot90(DEPTH).astype(np.float32))
    (tmp_path / "a.jpg").write_bytes(oriented(np.zeros((6, 8, 3), np.uint8), 6, "JPEG"))
    source = registry.make(spec)
    np.testing.assert_array_equal(source[0]["depth"], np.rot90(DEPTH))


def test_cameras_of_stored_pixels_turn_with_the_picture(tmp_path):
    fields = {"fx": 50.0, "fy": 60.0, "cx": 10.0, "cy": 20.0}
    dot = np.zeros((60, 80), np.uint8)
    dot[20, 10] = 1  # at the principal point
    for exif in range(1, 9):
        stored = write_pair(tmp_path, exif, label_orientation="stored", **fields)[0]["camera"]
        assert stored[:2] == ((60, 50) if exif >= 5 else (50, 60))
        assert orientation.upright(dot, exif)[int(stored.cy), int(stored.cx)] == 1
        assert camera.upright(camera.Camera(50.0, 60.0, 10.0, 20.0), exif, 60, 80) == stored
    upright = write_pair(tmp_path, 3, label_orientation="upright", **fields)[0]["camera"]
    np.testing.assert_array_equal(upright, [50, 60, 10, 20])


def test_a_camera_in_doubt_is_refused_although_the_label_is_not(tmp_path):
    (tmp_path / "a.png").write_bytes(oriented(np.zeros((6, 8, 3), np.uint8), 6))
    cv2.imwrite(str(tmp_path / "d.png"), np.rot90(DEPTH))

    def make(**fields):
        entry = {"rgb": "a.png", "depth": "d.png", "fmt": "nyu", "fx": 50.0, **fields}
        (tmp_path / "manifest.json").write_text(json.dumps([entry]))
        return registry.make({"type": "rgbd", "path": str(tmp_path)})

    np.testing.assert_array_equal(make()[0]["camera"], [50, 50, 2.5, 3.5])
    with pytest.raises(FormatError, match=DOUBT.format(6)):
        make(cx=1.0)[0]
    images = registry.make({"type": "rgbd", "path": str(tmp_path), "labelled": False})
    assert images[0].keys() == {"key", "image", "dataset", "domain", "orientation"}


# --- crops and proportions ---------------------------------------------------------------------

CROPS = {  # image, label, its place
    "KITTI's benchmark": ((375, 1242), (352, 1216), (23, 13)),
    "NYU's toolbox": ((480, 640), (427, 561), (44, 40)),
    "NYU, Eigen": ((480, 640), (426, 560), (45, 41)),
}


@pytest.mark.parametrize("name", CROPS)
def test_a_cropped_label_is_refused_or_laid_in_its_place(name):
    (height, width), (h, w), (top, left) = CROPS[name]
    image = np.zeros((height, width, 3), np.uint8)
    whole = np.arange(1, 1 + height * width, dtype=np.float32).reshape(height, width)
    part = {"depth": whole[top : top + h, left : left + w], "valid": np.ones((h, w), bool)}
    with pytest.raises(
        FormatError, match=f"a: the image is {height}x{width} and its depth {h}x{w}.*label_crop"
    ):
        view.aligned("a", image, part, 1, view.View())
    at = view.View(crop=(top, left, h, w))
    maps = view.aligned("a", image, part, 1, at)
    inside = np.zeros((height, width), bool)
    inside[top : top + h, left : left + w] = True
    np.testing.assert_array_equal(maps["valid"], inside)
    np.testing.assert_array_equal(maps["depth"], np.where(inside, whole, 0))
    # The window and its label are of the stored pixels where the label is.
    turned = view.aligned("a", np.zeros((width, height, 3)), part, 6, view.View("stored", at.crop))
    np.testing.assert_array_equal(turned["depth"], orientation.upright(maps["depth"], 6))


def test_a_cropped_label_keeps_its_own_resolution():
    label = {"depth": np.ones((20, 30), np.float32)}
    at = view.View(crop=(40, 10, 40, 60))
    maps = view.aligned("a", np.zeros((100, 80, 3)), label, 1, at)
    assert maps["depth"].shape == (50, 40)
    assert maps["depth"].sum() == 600 and maps["depth"][20:40, 5:35].all()
    label = {"depth": np.ones((20, 60), np.float32)}  # half the height: needs to be said
    with pytest.raises(FormatError, match="a, label_crop: the image is 40x60 and its depth 20x60"):
        view.aligned("a", np.zeros((100, 80, 3)), label, 1, at)
    maps = view.aligned("a", np.zeros((100, 80, 3)), label, 1, view.View(None, at.crop, True))
    assert maps["depth"].shape == (50, 80) and maps["depth"][20:40, 10:70].all()
    with pytest.raises(
        FormatError, match=r"label_crop=\[70, 0, 40, 60\].*beyond the image of 100x80"
    ):
        view.aligned("a", np.zeros((100, 80, 3)), label, 1, view.View(crop=(70, 0, 40, 60)))


@pytest.mark.parametrize(
    "label", [(375, 1242), (187, 621), (188, 621), (93, 310), (94, 311), (750, 2484), (37, 124)]
)
def test_a_resized_label_is_the_same_view(label):
    maps = {"depth": np.zeros(label, np.float32)}
    view.check_same_view("a", np.zeros((375, 1242, 3)), maps)
    view.check_same_view("a", np.zeros((*label, 3)), {"depth": np.zeros((375, 1242))})


@pytest.mark.parametrize("label", [(480, 636), (518, 686), (518, 518), (640, 480), (470, 640)])
def test_other_proportions_need_a_word(label):
    maps = {"depth": np.zeros(label, np.float32)}
    with pytest.raises(FormatError, match="not the same view.*label_(stretched|orientation)"):
        view.check_same_view("a", np.zeros((480, 640, 3)), maps)
    got = view.aligned("a", np.zeros((480, 640, 3)), maps, 1, view.View(stretched=True))
    assert got["depth"].shape == label


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ((480, 640), (427, 561)),
        ((480, 640), (426, 560)),
        ((375, 1242), (352, 1216)),
        ((968, 1296), (480, 640)),  # ScanNet
        ((480, 640), (518, 686)),  # a network's multiples of 14
    ],
)
def test_only_fields_that_the_source_has_are_named(image, label):
    picture, maps = np.zeros((*image, 3), np.uint8), {"depth": np.zeros(label, np.float32)}
    for fields in (view.FIELDS, view.WITHOUT_CROP, ()):
        with pytest.raises(FormatError, match="not the same view") as caught:
            view.aligned("a", picture, maps, 1, view.View(), fields=fields)
        for field in ("label_crop", "label_stretched"):
            assert (field in str(caught.value)) is (field in fields)
    turned = {"depth": np.zeros(image[::-1], np.float32)}
    with pytest.raises(FormatError, match="its EXIF tag, or the label transposed"):
        view.aligned("a", picture, turned, 1, view.View(), fields=())
    at = view.View(stretched=True)
    assert view.aligned("a", picture, maps, 1, at)["depth"].shape == label


def test_fields_of_the_view_are_for_entries_and_sources_alike(tmp_path):
    depth = np.arange(1, 49, dtype=np.uint16).reshape(6, 8)
    (tmp_path / "a.png").write_bytes(oriented(np.zeros((6, 8, 3), np.uint8), 1))
    cv2.imwrite(str(tmp_path / "d.png"), depth[2:6, 1:8])
    crop, entry = [2, 1, 4, 7], {"rgb": "a.png", "depth": "d.png", "scale": 1}
    expected = np.zeros((6, 8), np.float32)
    expected[2:6, 1:8] = depth[2:6, 1:8]
    for row, query in ((entry | {"label_crop": crop}, ""), (entry, "?label_crop=[2,1,4,7]")):
        (tmp_path / "manifest.json").write_text(json.dumps([row]))
        source = registry.make(registry.parse(f"rgbd:{tmp_path}{query}"))
        np.testing.assert_array_equal(source[0]["depth"], expected)
        packed = tfds_writer.encode(source, 0, encoding="png16", masks=[])
        raw = formats.decode_raw(packed["depth"], "d", bits=16)
        np.testing.assert_array_equal(raw, expected)


# --- other sources -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 6), (3, 8), (6, 16)])
def test_label_files_of_another_view_are_refused(tmp_path, shape):
    """Turned maps, square ones and image and map side by side."""
    for folder in ("rgb", "labels"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "rgb/a.png"), np.zeros((6, 8, 3), np.uint8))
    np.save(tmp_path / "labels/a.npy", np.ones(shape, np.float32))
    images = {"type": "folder", "path": str(tmp_path / "rgb")}
    labels = {"path": str(tmp_path / "labels"), "type": "files"}
    with pytest.raises(FormatError, match="a.png: .*not the same view") as caught:
        registry.make(images | {"labels": labels})[0]
    assert "label_crop" not in str(caught.value)
    stretched = registry.make(images | {"labels": labels | {"label_stretched": True}})
    assert stretched[0]["disparity"].shape == shape
    np.save(tmp_path / "labels/a.npy", np.ones((12, 16), np.float32))
    assert registry.make(images | {"labels": labels})[0]["disparity"].shape == (12, 16)


def test_a_shuffled_control_takes_labels_of_other_shapes(tmp_path):
    for folder in ("rgb", "labels"):
        (tmp_path / folder).mkdir()
    for name, shape in (("a", (6, 8)), ("b", (8, 6))):
        cv2.imwrite(str(tmp_path / f"rgb/{name}.png"), np.zeros((*shape, 3), np.uint8))
        np.save(tmp_path / f"labels/{name}.npy", np.ones(shape, np.float32))
    labels = {"path": str(tmp_path / "labels"), "type": "files", "shuffle": 1}
    source = registry.make({"type": "folder", "path": str(tmp_path / "rgb"), "labels": labels})
    assert source[0]["image"].shape[:2] == (6, 8) and source[0]["disparity"].shape == (8, 6)


def test_label_files_of_another_tool_turn_too(tmp_path):
    (tmp_path / "rgb").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "rgb/a.jpg").write_bytes(oriented(np.zeros((6, 8, 3), np.uint8), 3, "JPEG"))
    np.save(tmp_path / "labels/a.npy", DEPTH)
    images = {"type": "folder", "path": str(tmp_path / "rgb")}
    assert registry.make(images)[0]["orientation"] == 3

    def record(**fields):
        labels = {"path": str(tmp_path / "labels"), "type": "files", **fields}
        return registry.make(images | {"labels": labels})[0]

    with pytest.raises(FormatError, match="a.jpg: .*" + DOUBT.format(3)):
        record()
    np.testing.assert_array_equal(record(label_orientation="upright")["disparity"], DEPTH)
    turned = record(label_orientation="stored")
    np.testing.assert_array_equal(turned["disparity"], np.rot90(DEPTH, 2))
    assert "orientation" not in turned


def test_a_prepared_data_set_holds_the_upright_pair(tmp_path):
    """What `prepare_data` packs has no orientation any more: picture, label, mask and camera."""
    source = write_pair(tmp_path, 6, label_orientation="stored", fx=50.0, fy=60.0, cx=10.0, cy=2.0)
    record = source[0]
    assert tfds_writer.label_encoding(source) == "png16"
    packed = tfds_writer.encode(source, 0, encoding="png16", masks=["valid"])
    image = formats.decode_image(packed["image"])
    assert orientation.exif_orientation(packed["image"]) == 1 and image.shape == (80, 60, 3)
    np.testing.assert_array_equal(image, record["image"])
    raw = formats.decode_raw(packed["depth"], "d", bits=16)
    np.testing.assert_array_equal(raw / packed["scale"], record["depth"])
    np.testing.assert_array_equal(packed["K"][[0, 4, 2, 5]], np.float32(record["camera"]))


def test_fields_of_the_view_are_checked_and_written_back():
    given = {
        "label_orientation": "stored",
        "label_crop": [1, 2, 3, 4],
        "label_stretched": True,
    }
    entry = manifest.parse({"rgb": "a.png", **given}, "here")
    assert entry.view == view.View("stored", (1, 2, 3, 4), True)
    assert given.items() <= manifest.to_fields(entry).items()
    assert not set(view.FIELDS) & manifest.to_fields(manifest.parse({"rgb": "a"}, "")).keys()
    for field, value in (
        ("label_orientation", "sideways"),
        ("label_crop", 3),
        ("label_crop", [1, 2, 3]),
        ("label_crop", [0, 0, 0, 9]),
        ("label_crop", [-1, 0, 5, 9]),
        ("label_crop", [0.5, 0, 5, 9]),
        ("label_stretched", "yes"),
    ):
        with pytest.raises(manifest.ManifestError, match=f"here: {field}.*must be"):
            manifest.parse({"rgb": "a.png", field: value}, "here")
