"""Evaluation sets: MoGe's bundle and its warp, DIW and DA-2K."""

import json
import pickle

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import benchmarks
from depth_anything_jax.data.benchmarks import BenchmarkError, files, moge, warp
from depth_anything_jax.data.file_formats.formats import FormatError
from tests.helpers.benchmark_files import RNG, check_records, png16, write, write_image

# --- MoGe's bundle -------------------------------------------------------------------------------


def write_moge(root, name="DIODE", size=(12, 16), codes=None):
    """Two images with unknown and infinite pixels; returns the expected depths."""
    expected = {}
    keys = ["indoors/scene 19/a/image.jpg", "outdoor/b/image.png"]
    for key, (near, far) in zip(keys, ((0.5, 20.0), (1.25, 3e4)), strict=True):
        write_image(root / name / key, *size)
        folder = (root / name / key).parent
        code = RNG.integers(1, 65535, size).astype(np.uint16) if codes is None else codes.copy()
        code[0, :4], code[5, 6:8] = 65535, 0
        write(folder / "depth.png", png16(code, near=str(near), far=str(far)))
        intrinsics = [[0.9, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]]
        write(folder / "meta.json", json.dumps({"intrinsics": intrinsics, "x": 1}))
        depth = near * (far / near) ** ((code.astype(np.float64) - 1) / 65533)
        expected[key] = np.where((code == 0) | (code == 65535), 0, depth)
    lines = [key.rpartition("/")[0] for key in keys]
    write(root / name / ".index.txt", "\n".join(lines) + "\n")
    write_image(root / name / "not_listed" / "image.jpg")
    return expected


def test_moge_as_stored(tmp_path):
    expected = write_moge(tmp_path)
    reader = benchmarks.make("moge", tmp_path, set="DIODE", warped=False)
    assert reader.name == "moge_diode" and reader.dataset == "diode"
    assert [reader.key(i) for i in range(2)] == list(expected)
    for i, (key, depth) in enumerate(expected.items()):
        record = reader[i]
        np.testing.assert_array_equal(record["valid"], depth > 0)
        # one float32 rounding, after powers in float64
        np.testing.assert_allclose(record["depth"], depth, rtol=1e-7)
        sky = np.zeros(depth.shape, bool)
        sky[0, :4] = True
        np.testing.assert_array_equal(record["sky"], sky)
        np.testing.assert_allclose(record["K"], [[14.4, 0, 8], [0, 14.4, 6], [0, 0, 1]])
        assert record["scene"] == key.rpartition("/")[0][:-2] and record["dataset"] == "diode"
    inside = benchmarks.make("moge", tmp_path / "DIODE", set="DIODE", warped=False)
    assert inside.key(1) == "outdoor/b/image.png"
    pickle.loads(pickle.dumps(inside))[1]


def test_moge_folder_names_are_taken_loosely(tmp_path):
    write_moge(tmp_path, "ibims_1")
    with pytest.raises(BenchmarkError, match="looked for iBims-1/.index.txt below"):
        benchmarks.make("moge", tmp_path / "ibims_1" / "outdoor", set="iBims-1")
    (tmp_path / "ibims_1").rename(tmp_path / "IBims-1")
    assert len(benchmarks.make("moge", tmp_path, set="iBims-1")) == 2
    with pytest.raises(BenchmarkError, match="set must be one of NYUv2, KITTI, .*, got 'Bonn'"):
        benchmarks.make("moge", tmp_path, set="Bonn")
    assert len(moge.SETS) == 10


def test_moge_broken_files(tmp_path):
    write_moge(tmp_path)
    reader = benchmarks.make("moge", tmp_path, set="DIODE", warped=False)
    depth = tmp_path / "DIODE" / "outdoor" / "b" / "depth.png"
    codes = np.ones((12, 16), np.uint16)
    write(depth, png16(codes, near="1"))
    with pytest.raises(FormatError, match=r"no numbers 'near' and 'far'.*it has \['near'\]"):
        reader[1]
    write(depth, png16(codes, near="2", far="1"))
    with pytest.raises(FormatError, match="near 2.0 and far 1.0 are no range"):
        reader[1]
    write(depth, png16(codes[:, :-1], near="1", far="2"))
    with pytest.raises(FormatError, match=r"depth.png: \(12, 15\), its image \(12, 16\)"):
        reader[1]
    write(depth, png16(codes, near="1", far="2"))
    write(depth.with_name("meta.json"), "{}")
    with pytest.raises(FormatError, match="outdoor/b/meta.json: no 3x3 'intrinsics'"):
        reader[1]
    depth.unlink()
    with pytest.raises(BenchmarkError, match="1 of 2 images lack a file.*outdoor/b/depth.png"):
        benchmarks.make("moge", tmp_path, set="DIODE")
    assert benchmarks.make("moge", tmp_path, set="DIODE", partial=True).partial


def test_log_png_ends_exactly_at_near_and_far():
    data = png16(np.array([[0, 1, 65534, 65535]], np.uint16), near="0.3", far="87.5")
    values = files.decode_log_png(data)
    np.testing.assert_array_equal(values, np.array([[np.nan, 0.3, 87.5, np.inf]], np.float32))


def test_moge_warped_to_the_sets_size(tmp_path):
    """The wider image loses its sides; depth, masks and intrinsics go together."""
    codes = np.tile(np.arange(1, 65535, 65533 // 31, dtype=np.uint16)[:32], (12, 1))
    write_moge(tmp_path, size=(12, 32), codes=codes)
    reader = benchmarks.make("moge", tmp_path, set="DIODE")
    record, raw = reader[0], benchmarks.make("moge", tmp_path, set="DIODE", warped=False)[0]
    assert record["image"].shape == (768, 1024, 3) and record["depth"].shape == (768, 1024)
    # fy = 14.4 pixels over 12 rows fills 768 rows; fx = 28.8 over 32 columns leaves some over:
    # 12 rows see as far to the sides as 2 · 12 · 4/3 = 32 columns do. So all of them are seen.
    np.testing.assert_allclose(record["K"], [[921.6, 0, 512], [0, 921.6, 384], [0, 0, 1]])
    for y, x in ((0, 0), (383, 511), (400, 700), (767, 1023), (350, 450), (10, 200)):
        row, column = y * 12 // 768, x * 32 // 1024
        assert record["depth"][y, x] == raw["depth"][row, column]
        assert record["valid"][y, x] == raw["valid"][row, column]
        assert record["sky"][y, x] == raw["sky"][row, column]


def test_far_pixels_are_dropped():
    depth = np.full((10, 20), 2.0, np.float32)
    depth[0, :3] = 2000, 2000.5, 0
    valid = depth > 0
    expected = valid.copy()
    expected[0, 1] = False
    np.testing.assert_array_equal(valid & moge.not_far(depth, valid), expected)
    assert not moge.not_far(depth, np.zeros_like(valid)).any()


# --- the warp ------------------------------------------------------------------------------------


def camera(fx, fy, cx, cy):
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def test_the_same_camera_changes_nothing():
    image = RNG.integers(0, 256, (30, 40, 3), np.uint8)
    depth = RNG.uniform(1, 9, (30, 40)).astype(np.float32)
    mask = depth > 5
    K = camera(33.0, 33.0, 20, 15)
    moved, moved_depth, masks, K_target = warp.warp(image, depth, {"valid": mask}, K, (30, 40))
    np.testing.assert_array_equal(moved, image)
    np.testing.assert_array_equal(moved_depth, depth)
    np.testing.assert_array_equal(masks["valid"], mask)
    np.testing.assert_allclose(K_target, K, rtol=1e-12)


def test_a_centred_camera_is_cropped_and_scaled():
    """From 60x40 to 20x20: the middle 40x40 at half the size, square pixels."""
    image = write_gradient(40, 60)
    depth = np.tile(np.arange(60, dtype=np.float32) + 1, (40, 1))
    moved, moved_depth, _, K = warp.warp(image, depth, {}, camera(50, 50, 30, 20), (20, 20))
    np.testing.assert_allclose(K, camera(25, 25, 10, 10))
    half = cv2.resize(image[:, 10:50], (20, 20), interpolation=cv2.INTER_AREA).astype(int)
    # Lanczos and area means agree on a gradient but for rounding.
    assert np.abs(moved.astype(int) - half)[2:-2, 2:-2].max() <= 1
    np.testing.assert_array_equal(moved_depth, np.tile(np.arange(12, 52, 2.0), (20, 1)))


def write_gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x, 4 * y, 2 * x + y], -1).astype(np.uint8)


def test_pixels_that_are_not_square_become_so():
    _, R = warp.target_camera(camera(100, 50, 50, 25), (50, 100), (64, 64))
    K, _ = warp.target_camera(camera(100, 50, 50, 25), (50, 100), (64, 64))
    np.testing.assert_allclose(R, np.eye(3), atol=1e-15)
    # tangents of the half field of view are .5 and .5: all of it is seen
    np.testing.assert_allclose(K, camera(64, 64, 32, 32))


OFF_CENTRE = camera(70.0, 66.0, 38.0, 33.0)  # of 90 x 60


def plane_depth(K, size, normal, distance, R=None):
    """Depth of the plane normal · X = distance (in the first camera), seen after rotation R."""
    R = np.eye(3) if R is None else R
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    return distance / (rays @ (R @ normal))


def test_a_principal_point_off_the_centre_turns_the_camera():
    """A plane seen by both cameras has the depths that its equation says."""
    size, target = (60, 90), (240, 320)
    normal, distance = np.array([0.1, -0.2, 1.0]), 5.0
    depth = plane_depth(OFF_CENTRE, size, normal, distance).astype(np.float32)
    moved_image, moved, _, K = warp.warp(write_gradient(*size) // 2, depth, {}, OFF_CENTRE, target)
    _, R = warp.target_camera(OFF_CENTRE, size, target)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)
    centre = R @ np.linalg.inv(OFF_CENTRE) @ [45, 30, 1]
    np.testing.assert_allclose(centre[:2], 0, atol=1e-14)  # looks where the image's centre does
    expected = plane_depth(K, target, normal, distance, R)
    # Nearest source pixel: half a pixel off changes this plane's depth by less than half a percent.
    np.testing.assert_allclose(moved, expected, rtol=5e-3)
    without = plane_depth(K, target, normal, distance)
    assert np.abs(without / expected - 1).max() > 0.02, "the turn is no rounding error"
    assert moved_image.shape == (*target, 3)


def test_the_target_touches_the_border_and_stays_inside():
    size, target = (60, 90), (240, 320)
    K, R = warp.target_camera(OFF_CENTRE, size, target)
    corners = np.array([[0, 0, 1], [320, 0, 1], [0, 240, 1], [320, 240, 1.0]])
    seen = corners @ np.linalg.inv(K).T @ R @ OFF_CENTRE.T  # Rᵀ applied to columns
    seen = seen[:, :2] / seen[:, 2:]
    assert (seen > -1e-9).all() and (seen < np.array([90, 60]) + 1e-9).all()
    margin = np.minimum(seen, np.array([90, 60]) - seen).min()
    assert margin < 1e-9


def test_colours_follow_the_homography():
    """Each target pixel has the colour of the gradient where its ray meets the image."""
    size, target = (60, 90), (120, 160)
    image = write_gradient(*size)
    moved, _, _, K = warp.warp(image, np.ones(size, np.float32), {}, OFF_CENTRE, target)
    _, R = warp.target_camera(OFF_CENTRE, size, target)
    for y, x in ((20, 30), (60, 80), (100, 130), (35, 140)):
        source = OFF_CENTRE @ R.T @ np.linalg.inv(K) @ [x + 0.5, y + 0.5, 1]
        u, v = source[:2] / source[2] - 0.5
        # One level for each rounding of Lanczos and of remap, whose weights have five bits.
        np.testing.assert_allclose(moved[y, x], [3 * u, 4 * v, 2 * u + v], atol=2)


def test_cameras_that_cannot_be_warped():
    with pytest.raises(ValueError, match="looks backwards"):
        warp.turn_to(np.array([0, 0, -1.0]))
    with pytest.raises(ValueError, match="reaches behind the target camera"):
        warp.target_camera(camera(1, 1, 100, 100), (1000, 1000), (10, 10))


# --- pairs of points -----------------------------------------------------------------------------


def test_diw(tmp_path):
    lines = []
    for name, text in (("b", "10,3,2,16,>,12,16"), ("a", "1,1,12,16,<,12,16")):
        write_image(tmp_path / "DIW_test" / f"{name}.thumb", 12, 16)
        lines += [f"./DIW_test/{name}.thumb", text]
    table = tmp_path / "DIW_Annotations" / "DIW_test.csv"
    write(table, "\n".join(lines) + "\n")
    reader = benchmarks.make("diw", tmp_path)
    assert [reader.key(i) for i in range(2)] == ["DIW_test/a.thumb", "DIW_test/b.thumb"]
    first, second = reader[0], reader[1]
    np.testing.assert_array_equal(first["points"], [[[0, 0], [11, 15]]])
    np.testing.assert_array_equal(second["points"], [[[9, 2], [1, 15]]])
    np.testing.assert_array_equal(first["closer"], [0])
    np.testing.assert_array_equal(second["closer"], [1])
    assert first["image"].shape == (12, 16, 3) and "depth" not in first and first["category"] == ""
    for text, message in (
        ("3,15,2,16,=,12,16", "'3,15,2,16,=,12,16' is not y1,x1,y2,x2"),
        ("3,15,2", "is not y1,x1,y2,x2"),
    ):
        write(table, "\n".join([lines[0], text, *lines[2:]]))
        with pytest.raises(BenchmarkError, match=message):
            benchmarks.make("diw", tmp_path)
    write(table, "\n".join(lines[:3]))
    with pytest.raises(BenchmarkError, match="has 3 lines, two for each image"):
        benchmarks.make("diw", tmp_path)
    write(table, "\n".join([lines[0], "16,3,2,10,>,12,16", *lines[2:]]))
    with pytest.raises(BenchmarkError, match=r"b.thumb is 12x16 and has points .*\[15, 2\]"):
        benchmarks.make("diw", tmp_path)[1]
    (tmp_path / "DIW_test" / "b.thumb").unlink()
    with pytest.raises(BenchmarkError, match="1 of 2 images lack a file.*DIW_test/b.thumb"):
        benchmarks.make("diw", tmp_path)


def test_da2k(tmp_path):
    pair = {"point1": [2, 7], "point2": [5, 0], "closer_point": "point1"}
    swapped = {"point1": [5, 0], "point2": [2, 7], "closer_point": "point2"}
    annotations = {
        "images/underwater/x.jpg": [pair, swapped],
        "images/adverse_style/y.png": [pair],
    }
    for image in annotations:
        write_image(tmp_path / image)
    write_image(tmp_path / "images" / "object" / "not_annotated.jpg")
    table = tmp_path / "annotations.json"
    write(table, json.dumps(annotations))
    reader = benchmarks.make("da2k", tmp_path)
    assert [reader.key(i) for i in range(2)] == sorted(annotations)
    record = reader[1]
    np.testing.assert_array_equal(record["points"], [[[2, 7], [5, 0]], [[5, 0], [2, 7]]])
    np.testing.assert_array_equal(record["closer"], [0, 1])
    assert record["category"] == record["scene"] == "underwater" and record["domain"] == ""
    assert reader[0]["points"].shape == (1, 2, 2)
    pickle.loads(pickle.dumps(reader))[0]
    for broken, message in (
        ({"images/space/z.jpg": [pair]}, r"images/space/z.jpg lies in none of images/\{indoor,"),
        ({"images/object/z.jpg": [{"point1": [1, 2]}]}, "has not point1, point2 and closer_point"),
        ({"images/object/z.jpg": [pair | {"closer_point": "1"}]}, "has not point1, point2"),
        ({"images/object/z.jpg": [pair]}, "1 of 1 images lack a file"),
    ):
        write(table, json.dumps(broken))
        with pytest.raises(BenchmarkError, match=message):
            benchmarks.make("da2k", tmp_path)
    write(table, json.dumps({"images/object/not_annotated.jpg": [pair | {"point2": [7, 2]}]}))
    with pytest.raises(BenchmarkError, match="is 6x8 and has points at .*rows and columns swapped"):
        benchmarks.make("da2k", tmp_path)[0]


def test_da2k_has_eight_kinds():
    assert len(set(benchmarks.READERS["da2k"].categories)) == 8


def test_check_records_can_fail(tmp_path):
    """The helper that most tests here rest on sees a wrong depth, mask and key."""
    expected = write_moge(tmp_path)
    reader = benchmarks.make("moge", tmp_path, set="DIODE", warped=False)
    exact = {k: reader[i]["depth"].astype(np.float64) for i, k in enumerate(expected)}
    sky = {k: np.pad(np.ones((1, 4), bool), ((0, 11), (0, 12))) for k in exact}
    check_records(reader, exact, sky)
    key = list(exact)[0]
    for wrong in (
        (exact | {key: exact[key] + 1e-3}, sky),
        (exact | {key: np.ones((12, 16))}, sky),
        (exact, None),
        ({f"x{k}": v for k, v in exact.items()}, sky),
    ):
        with pytest.raises(AssertionError):
            check_records(reader, *wrong)
