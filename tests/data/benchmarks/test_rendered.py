"""Evaluation sets: Sintel, Hypersim, Virtual KITTI 2, and the file formats behind them."""

import struct

import numpy as np
import pytest

from depth_anything_jax.data import benchmarks
from depth_anything_jax.data.benchmarks import BenchmarkError, files, rendered
from depth_anything_jax.data.file_formats.formats import FormatError
from tests.helpers.benchmark_files import RNG, cam, check_records, dpt, png16, write, write_image

# --- Sintel --------------------------------------------------------------------------------------


def write_sintel(root):
    expected = {}
    for sequence, frame in (("alley_1", 1), ("alley_1", 2), ("temple_3", 50)):
        name = f"{sequence}/frame_{frame:04d}"
        for rendering in ("clean", "final"):
            write_image(root / "training" / rendering / f"{name}.png")
        depth = RNG.uniform(0.3, 30, (6, 8)).astype(np.float32)
        depth[0, :4] = 2.5e5  # sky: far, finite and not marked
        write(root / "training" / "depth" / f"{name}.dpt", dpt(depth))
        expected[f"training/final/{name}.png"] = depth
    write_image(root / "test" / "final" / "ambush_1" / "frame_0001.png")
    write_image(root / "training" / "albedo" / "alley_1" / "frame_0001.png")
    return expected


def test_sintel(tmp_path):
    expected = write_sintel(tmp_path)
    with pytest.raises(BenchmarkError, match="3 images .* where the split has 1064"):
        benchmarks.make("sintel", tmp_path)
    reader = benchmarks.make("sintel", tmp_path, partial=True)
    check_records(reader, expected)
    assert "K" not in reader[0] and reader[2]["scene"] == "temple_3"
    K = np.array([[1120.0, 0, 511.5], [0, 1120, 217.5], [0, 0, 1]])
    write(tmp_path / "training/camdata_left/alley_1/frame_0002.cam", cam(K))
    np.testing.assert_array_equal(reader[1]["K"], K)
    clean = {
        k.replace("training/final", "clean"): v for k, v in expected.items()
    }  # from the folder inside
    inside = benchmarks.make("sintel", tmp_path / "training", rendering="clean", partial=True)
    check_records(inside, clean)
    np.testing.assert_array_equal(inside[1]["K"], K)
    (tmp_path / "training/depth/temple_3/frame_0050.dpt").unlink()
    with pytest.raises(BenchmarkError, match="lack a file.*training/depth/temple_3/frame_0050.dpt"):
        benchmarks.make("sintel", tmp_path)
    with pytest.raises(BenchmarkError, match="rendering must be one of final, clean, got 'albedo'"):
        benchmarks.make("sintel", tmp_path, rendering="albedo")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no Sintel depth file"),
        (struct.pack("<fii", 202021.0, 1, 1) + b"1234", "first bytes are not 202021.25"),
        (dpt(np.ones((2, 3)))[:-1], "announces 2x3 pixels and has 23 bytes"),
        (dpt(np.ones((2, 3))) + b"1", "announces 2x3 pixels and has 25 bytes"),
        (struct.pack("<fii", 202021.25, -1, 1), "announces 1x-1"),
    ],
    ids=["empty", "tag", "short", "long", "negative"],
)
def test_broken_dpt(data, message):
    with pytest.raises(FormatError, match=f"d.dpt: .*{message}"):
        files.decode_dpt(data, "d.dpt")


def test_dpt_is_row_by_row():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(files.decode_dpt(dpt(values)), values)
    with pytest.raises(FormatError, match="no Sintel camera file"):
        files.decode_cam(cam(np.eye(3))[:-8])


# --- Hypersim ------------------------------------------------------------------------------------


@pytest.fixture
def hypersim(tmp_path):
    """Distances of a wall at 4 m, straight ahead: its planar depth is 4 m everywhere."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra [eval])")
    height, width = 12, 16
    focal = 886.81 * width / 1024
    y, x = np.mgrid[:height, :width]
    along = np.sqrt((x - 7.5) ** 2 + (y - 5.5) ** 2 + focal**2) / focal
    frames = [("ai_003_010", "00", 0), ("ai_003_010", "01", 0), ("ai_004_001", "00", 12)]
    for scene, camera, frame in frames:
        stem = tmp_path / scene / "images" / f"scene_cam_{camera}"
        write_image(
            stem.with_name(f"{stem.name}_final_preview") / f"frame.{frame:04d}.tonemap.jpg",
            height,
            width,
        )
        distance = (4 * along).astype(np.float16)
        distance[3, 2:5] = np.nan
        path = stem.with_name(f"{stem.name}_geometry_hdf5") / f"frame.{frame:04d}.depth_meters.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file.create_dataset("dataset", data=distance, compression="gzip", compression_opts=9)
    return tmp_path


HYPERSIM_KEYS = [
    "ai_003_010/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg",
    "ai_003_010/images/scene_cam_01_final_preview/frame.0000.tonemap.jpg",
    "ai_004_001/images/scene_cam_00_final_preview/frame.0012.tonemap.jpg",
]


def test_hypersim_distance_becomes_planar_depth(hypersim):
    pair = "{0} {1}\n"
    lines = [
        pair.format(k, k.replace("final_preview", "geometry_hdf5").replace("tonemap.jpg", "x"))
        for k in HYPERSIM_KEYS[:2]
    ]
    write(hypersim / "val.txt", "".join(lines))
    reader = benchmarks.make("hypersim", hypersim, list_file=hypersim / "val.txt")
    assert [reader.key(i) for i in range(len(reader))] == HYPERSIM_KEYS[:2] and not reader.partial
    record = reader[1]
    valid = np.ones((12, 16), bool)
    valid[3, 2:5] = False
    np.testing.assert_array_equal(record["valid"], valid)
    assert not record["sky"].any() and record["scene"] == "ai_003_010"
    # Distances are float16: half a step of 2^-8 m between 4 and 8 m.
    np.testing.assert_allclose(record["depth"], np.where(valid, 4, 0), atol=2**-9)
    np.testing.assert_allclose(
        record["K"], [[13.8564, 0, 8], [0, 13.8564, 6], [0, 0, 1]], rtol=1e-5
    )


def test_hypersim_official_table(hypersim):
    rows = [
        "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,"
        "split_partition_name",
        "ai_003_010,cam_00,0,True,,train",
        "ai_003_010,cam_01,0,True,,test",
        "ai_003_010,cam_01,1,False,blank,test",
        "ai_004_001,cam_00,12,True,,test",
    ]
    table = hypersim / "metadata_images_split_scene_v1.csv"
    write(table, "\n".join(rows) + "\n")
    with pytest.raises(BenchmarkError, match="2 images .* where the split has 7690"):
        benchmarks.make("hypersim", hypersim, list_file=table)
    reader = benchmarks.make("hypersim", hypersim, list_file=table, partial=True)
    assert [reader.key(i) for i in range(len(reader))] == HYPERSIM_KEYS[1:]
    reader = benchmarks.make("hypersim", hypersim, list_file=table, partial=True, split="train")
    assert [reader.key(i) for i in range(len(reader))] == HYPERSIM_KEYS[:1]
    with pytest.raises(BenchmarkError, match="looked for frames of the list"):
        benchmarks.make("hypersim", hypersim, list_file=table, partial=True, split="val")
    write(hypersim / "list.txt", "ai_003_010/rgb/0.jpg ai_003_010/depth/0.png\n")
    with pytest.raises(BenchmarkError, match="'ai_003_010/rgb/0.jpg', which is no path like"):
        benchmarks.make("hypersim", hypersim, list_file=hypersim / "list.txt")


def test_hdf5_without_the_array(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra [eval])")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["distance"] = np.ones((2, 3))
    with pytest.raises(FormatError, match="a.hdf5: no array 'dataset'; it holds distance"):
        files.read_hdf5(tmp_path / "a.hdf5", "dataset")
    write(tmp_path / "b.hdf5", b"no HDF5")
    with pytest.raises(FormatError, match="b.hdf5: not an HDF5 file"):
        files.read_hdf5(tmp_path / "b.hdf5", "dataset")


# --- Virtual KITTI 2 -----------------------------------------------------------------------------

VKITTI = [("Scene01", "15-deg-left", 0), ("Scene01", "15-deg-left", 1), ("Scene20", "sunset", 560)]


def vkitti_image(scene, variation, frame, camera=0):
    return f"{scene}/{variation}/frames/rgb/Camera_{camera}/rgb_{frame:05d}.jpg"


@pytest.fixture(params=[("", ""), ("rgb", "depth"), ("vkitti_2.0.3_rgb", "vkitti_2.0.3_depth")])
def vkitti(request, tmp_path):
    """The set below one root or two: where images lie; expected depth and sky by key."""
    image_top, label_top = (f"{part}/" * bool(part) for part in request.param)
    expected, sky = {}, {}
    for frame in VKITTI:
        key = image_top + vkitti_image(*frame)
        write_image(tmp_path / key)
        write_image(tmp_path / image_top / vkitti_image(*frame, camera=1))
        raw = RNG.integers(300, 60000, (6, 8)).astype(np.uint16)
        raw[0, :5] = 65535
        label = tmp_path / label_top / vkitti_image(*frame).replace("rgb", "depth")
        write(label.with_suffix(".png"), png16(raw))
        sky[key] = raw == 65535
        expected[key] = np.where(sky[key], 0, raw / 100)
    return tmp_path, image_top, expected, sky


def test_vkitti2_what_the_training_list_leaves_out(vkitti, monkeypatch):
    root, top, expected, sky = vkitti
    train = vkitti_image(*VKITTI[1])
    chosen = root / "train.txt"
    depth = train.replace("rgb", "depth").replace("jpg", "png")
    write(chosen, f"/x/vkitti_2.0.3/{train} /x/{depth}\n")
    with pytest.raises(BenchmarkError, match="3 frames of Camera_0 .* all of them are 21260"):
        benchmarks.make("vkitti2", root, list_file=chosen)
    rest = {k: v for k, v in expected.items() if k != top + train}
    check_records(benchmarks.make("vkitti2", root, list_file=chosen, partial=True), rest, sky)
    monkeypatch.setattr(rendered.VKITTI2, "all_frames", 3)
    with pytest.raises(BenchmarkError, match="train.txt lists 1 frames, V2's has 19559"):
        benchmarks.make("vkitti2", root, list_file=chosen)
    monkeypatch.setattr(rendered.VKITTI2, "train_frames", 1)
    reader = benchmarks.make("vkitti2", root, list_file=chosen)
    check_records(reader, rest, sky)
    assert reader.expected == 2 and reader[0]["K"][0, 2] == 620.5
    assert reader[1]["scene"] == "Scene20/sunset" and reader[1]["domain"] == "outdoor"
    write(chosen, f"{vkitti_image('Scene02', 'fog', 7)} y\n")  # a frame that is not there
    with pytest.raises(BenchmarkError, match="3 images .* where the split has 2"):
        benchmarks.make("vkitti2", root, list_file=chosen)


def test_vkitti2_counts_are_those_of_the_sets():
    """447, 233, 270, 339 and 837 frames in ten variations; V1 tests on 1,701 of them."""
    assert rendered.VKITTI2.all_frames == 10 * (447 + 233 + 270 + 339 + 837)
    assert rendered.VKITTI2.all_frames - rendered.VKITTI2.train_frames == 1701


def test_vkitti2_frames_of_a_list(vkitti):
    root, top, expected, sky = vkitti
    chosen = root / "list.txt"
    wanted = [vkitti_image(*f) for f in VKITTI[:2]]
    write(chosen, "".join(f"{w}\n" for w in wanted))
    reader = benchmarks.make("vkitti2", root, list_file=chosen, split="list")
    check_records(reader, {top + w: expected[top + w] for w in wanted}, sky)
    write(chosen, f"{wanted[0]}\nScene01/rgb_00000.jpg\n")
    with pytest.raises(BenchmarkError, match="line 2 of .*list.txt names no SceneNN/VARIATION"):
        benchmarks.make("vkitti2", root, list_file=chosen, split="list")
