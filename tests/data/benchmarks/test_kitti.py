"""Evaluation sets: KITTI with annotated depth, with raw lidar, and MiDaS' 161 images."""

import pickle

import numpy as np
import pytest

from depth_anything_jax.data import benchmarks
from depth_anything_jax.data.benchmarks import BenchmarkError, kitti
from depth_anything_jax.data.file_formats.formats import FormatError
from tests.helpers.benchmark_files import RNG, check_records, png16, write, write_image

A, B, C = "2011_09_26_drive_0002_sync", "2011_09_26_drive_0009_sync", "2011_10_03_drive_0047_sync"
FRAMES = [(A, 69), (A, 9), (B, 100), (C, 5)]
SIZE = (10, 24)


def raw_image(drive, frame, suffix="png"):
    return f"{drive[:10]}/{drive}/image_02/data/{frame:010d}.{suffix}"


def annotated(drive, frame):
    return f"{drive}/proj_depth/groundtruth/image_02/{frame:010d}.png"


def numbers(array):
    return " ".join(f"{v:.12e}" for v in np.ravel(array))


def rotation(*angles):
    a, b, c = angles
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


P2 = np.array([[21.0, 0, 12.2, 0.9], [0, 21.5, 5.1, 0.1], [0, 0, 1, 0.003]])
R_RECT = rotation(0.01, -0.02, 0.005)
# From forward, left, up to right, down, forward, and a little off.
R_LIDAR = rotation(0.01, 0.02, -0.01) @ np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
T_LIDAR = np.array([-0.004, -0.076, -0.27])


def write_calibration(folder):
    cameras = (
        "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.95e-02\n"
        f"R_rect_00: {numbers(R_RECT)}\nP_rect_00: {numbers(P2 * 2)}\n"
        f"R_rect_02: {numbers(np.eye(3) * 5)}\nP_rect_02: {numbers(P2)}\nP_rect_03: 1 2 3\n"
    )
    lidar = f"calib_time: 15-Mar-2012\nR: {numbers(R_LIDAR)}\nT: {numbers(T_LIDAR)}\ndelta_f: 0 0\n"
    write(folder / "calib_cam_to_cam.txt", cameras)
    write(folder / "calib_velo_to_cam.txt", lidar)


@pytest.fixture
def raw(tmp_path):
    """Images of four frames, one of them JPEG, one more that no list names."""
    root = tmp_path / "raw"
    for drive, frame in [*FRAMES, (C, 6)]:
        write_image(root / raw_image(drive, frame, "jpg" if drive == B else "png"), *SIZE)
    for date in ("2011_09_26", "2011_10_03"):
        write_calibration(root / date)
    return root


def keys():
    ordered = [(A, 9), (A, 69), (B, 100), (C, 5)]
    return {f: raw_image(*f, "jpg" if f[0] == B else "png") for f in ordered}


def write_labels(root, parts):
    """Annotated depth of the frames that `parts` puts into train, val or elsewhere."""
    expected = {}
    for (drive, frame), part in parts.items():
        values = RNG.integers(0, 2**16, SIZE).astype(np.uint16)
        values[:4] = 0
        write(root / part / annotated(drive, frame), png16(values))
        expected[drive, frame] = values / 256
    write(root / "val" / annotated(C, 6), png16(values))
    return expected


def bts_list(missing=()):
    """Eigen's list in BTS' form, paths as on somebody's machine."""
    lines = []
    for f in FRAMES:
        label = "None" if f in missing else annotated(*f)
        lines.append(f"/data/kitti/{raw_image(*f)} {label} 721.5377\n")
    return "".join(lines)


def monodepth_list(frames=FRAMES):
    return "".join(f"{d[:10]}/{d} {frame:010d} l\n" for d, frame in frames)


@pytest.mark.parametrize("form", ["bts", "monodepth2"])
def test_kitti_annotated(tmp_path, raw, form, monkeypatch):
    parts = {(A, 9): "train", (A, 69): "train", (B, 100): "val", (C, 5): "val"}
    depths = write_labels(tmp_path / "depth", parts)
    chosen = tmp_path / "list.txt"
    write(chosen, bts_list() if form == "bts" else monodepth_list())
    options = {"list_file": chosen, "labels": tmp_path / "depth"}
    with pytest.raises(BenchmarkError, match="4 images .* where the split has 652"):
        benchmarks.make("kitti", raw, **options)
    reader = benchmarks.make("kitti", raw, **options, partial=True)
    check_records(reader, {key: depths[f] for f, key in keys().items()})
    np.testing.assert_array_equal(reader[3]["K"], P2[:, :3])
    assert reader[0]["scene"] == A and reader[0]["domain"] == "outdoor"
    pickle.loads(pickle.dumps(reader))[2]
    monkeypatch.setattr(kitti.KITTI, "counts", {"eigen_652": 4})
    assert not benchmarks.make("kitti", raw, **options).partial


def test_kitti_annotated_depth_merged_into_the_raw_data(tmp_path, raw):
    parts = {(A, 9): ".", (A, 69): "2011_09_26", (B, 100): "2011_09_26", (C, 5): "2011_10_03"}
    depths = write_labels(raw, parts)
    write(tmp_path / "list.txt", monodepth_list())
    reader = benchmarks.make("kitti", raw, list_file=tmp_path / "list.txt", partial=True)
    check_records(reader, {key: depths[f] for f, key in keys().items()})


def test_kitti_drops_images_without_ground_truth_from_the_list_of_697_only(tmp_path, raw):
    depths = write_labels(tmp_path / "depth", {f: "train" for f in FRAMES[1:]})
    options = {"list_file": tmp_path / "list.txt", "labels": tmp_path / "depth"}
    write(tmp_path / "list.txt", bts_list(missing=FRAMES[:1]))
    with pytest.raises(BenchmarkError, match="1 of 4 images lack a file.*0000000069.png"):
        benchmarks.make("kitti", raw, **options)
    more = monodepth_list([(C, n) for n in range(1000, 1693)])
    write(tmp_path / "list.txt", bts_list() + more)
    with pytest.raises(BenchmarkError, match="3 images .* where the split has 652"):
        benchmarks.make("kitti", raw, **options)
    reader = benchmarks.make("kitti", raw, **options, partial=True)
    check_records(reader, {key: depths[f] for f, key in keys().items() if f != FRAMES[0]})


def test_midas_161_is_what_both_lists_have(tmp_path, raw, monkeypatch):
    parts = {(A, 9): "train", (A, 69): "val", (B, 100): "train", (C, 5): "val"}
    depths = write_labels(tmp_path / "depth", parts)
    write(tmp_path / "list.txt", monodepth_list())
    options = {"split": "midas_161", "list_file": tmp_path / "list.txt"}
    options["labels"] = tmp_path / "depth"
    with pytest.raises(BenchmarkError, match="2 images .* where the split has 161"):
        benchmarks.make("kitti", raw, **options)
    wanted = [(A, 69), (C, 5)]
    monkeypatch.setattr(kitti.KITTI, "counts", {"midas_161": 2})
    reader = benchmarks.make("kitti", raw, **options)
    check_records(reader, {keys()[f]: depths[f] for f in wanted})
    # The same from a list; right-hand images and frames of other drives are not Eigen's.
    official = tmp_path / "val.txt"
    write(official, f"{monodepth_list(wanted)}{A[:10]}/{A} 9 r\n{C[:10]}/{C} 0000000006 l\n")
    check_records(
        benchmarks.make("kitti", raw, **options, validation_file=official),
        {keys()[f]: depths[f] for f in wanted},
    )
    options["labels"] = raw
    with pytest.raises(BenchmarkError, match="looked for the folder val of the annotated depth"):
        benchmarks.make("kitti", raw, **options)


def brute_force_depth(points):
    """One point after the other; the nearest stays."""
    depth = np.zeros(SIZE)
    for forward, left, up, _ in points.astype(np.float64):
        if forward < 0:
            continue
        camera = R_RECT @ (R_LIDAR @ np.array([forward, left, up]) + T_LIDAR)
        u, v, z = P2[:, :3] @ camera + P2[:, 3]
        column, row = round(u / z) - 1, round(v / z) - 1
        if z > 0 and 0 <= row < SIZE[0] and 0 <= column < SIZE[1]:
            depth[row, column] = min(z, depth[row, column] or np.inf)
    return depth


def test_kitti_raw_lidar(tmp_path, raw):
    expected = {}
    for f, key in keys().items():
        directions = RNG.uniform([-5, -8, -4], [30, 8, 4], (400, 3))
        points = np.hstack([directions, RNG.uniform(0, 1, (400, 1))]).astype(np.float32)
        drive, frame = f
        path = raw / f"{drive[:10]}/{drive}/velodyne_points/data/{frame:010d}.bin"
        write(path, points.astype("<f4").tobytes())
        expected[key] = brute_force_depth(points)
        assert (expected[key] > 0).sum() > 60
    write(tmp_path / "list.txt", bts_list(missing=FRAMES))
    options = {"split": "eigen_697", "list_file": tmp_path / "list.txt"}
    with pytest.raises(BenchmarkError, match="4 images .* where the split has 697"):
        benchmarks.make("kitti", raw, **options)
    reader = benchmarks.make("kitti", raw, **options, partial=True)
    for i, (key, depth) in enumerate(expected.items()):
        record = reader[i]
        assert record["key"] == key
        np.testing.assert_array_equal(record["valid"], depth > 0)
        # calibration is written with 13 digits and depth is float32
        np.testing.assert_allclose(record["depth"], depth, rtol=1e-7)
    path = raw / f"2011_10_03/{C}/velodyne_points/data/0000000005.bin"
    write(path, path.read_bytes()[:-3])
    with pytest.raises(FormatError, match="0000000005.bin: .* are no points of four float32"):
        reader[3]
    (raw / "2011_10_03" / "calib_velo_to_cam.txt").unlink()
    with pytest.raises(BenchmarkError, match="looked for .*2011_10_03/calib_velo_to_cam.txt"):
        benchmarks.make("kitti", raw, **options, partial=True)


def test_a_pixel_of_lidar_is_its_own():
    """Nearest in a pixel, and no mixing of a row's last pixel with the next one's first."""
    matrix = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])  # u = -left/forward

    def point(row, column, z):
        return [z, -(column + 1) * z, -(row + 1) * z]

    points = [point(2, 5, 9.0), point(2, 5, 4.0), point(2, 5, 6.0), point(0, 7, 3.0)]
    points += [point(1, 0, 2.0), point(4, 8, 1.0), [-3, 15, 9], point(3, 1, 0.5)]
    depth = kitti.project(np.array(points, np.float32), matrix, (4, 8))
    expected = np.zeros((4, 8))
    expected[2, 5], expected[0, 7], expected[1, 0], expected[3, 1] = 4, 3, 2, 0.5
    np.testing.assert_array_equal(depth, expected)


def test_lidar_behind_the_camera_is_not_seen():
    """Behind the image plane, and behind the scanner where the camera stands further back."""
    for offset, x in ((-1.0, 0.5), (5.0, -0.5)):
        matrix = np.array([[0, -1.0, 0, 0], [0, 0, -1.0, 0], [1, 0, 0, offset]])
        z = x + offset
        seen = np.array([[x + 3, -2 * (z + 3), -3 * (z + 3)]], np.float32)
        hidden = np.array([[x, -4 * z, -2 * z]], np.float32)
        depth = kitti.project(np.vstack([seen, hidden]), matrix, (4, 8))
        expected = np.zeros((4, 8))
        expected[2, 1] = z + 3
        np.testing.assert_array_equal(depth, expected)


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (f"2011_09_26/{A}/image_02/data/0000000069.png", (A, "0000000069", "02")),
        (f"x/2011_09_26/{A}/image_03/data/0000000069.jpg y 1.5", (A, "0000000069", "03")),
        (f"2011_09_26/{A} 0000000069 r", (A, "0000000069", "03")),
        (f"2011_09_26/{A} 69 l", (A, "0000000069", "02")),
    ],
)
def test_kitti_lists(line, frame):
    parsed = kitti.parse_line(line.split(), "list")
    assert parsed == ("2011_09_26", *frame)


def test_kitti_list_of_something_else(tmp_path, raw):
    write(tmp_path / "list.txt", "nyu/bathroom/rgb_00045.jpg\n")
    with pytest.raises(BenchmarkError, match="'nyu/bathroom/rgb_00045.jpg' names no frame"):
        benchmarks.make("kitti", raw, list_file=tmp_path / "list.txt")
    with pytest.raises(BenchmarkError, match="split must be one of eigen_652, eigen_697, midas"):
        benchmarks.make("kitti", raw, list_file=tmp_path / "list.txt", split="eigen")
    with pytest.raises(BenchmarkError, match="no list at .*nothing.txt; it should be Eigen's"):
        benchmarks.make("kitti", raw, list_file=tmp_path / "nothing.txt")
