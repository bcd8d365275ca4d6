"""Evaluation sets: NYU in both forms, ScanNet, iBims-1, SUN RGB-D, TUM."""

import pathlib
import pickle
import sys

import numpy as np
import pytest

from depth_anything_jax.data import benchmarks, registry
from depth_anything_jax.data.benchmarks import BenchmarkError, indoor
from depth_anything_jax.data.file_formats.formats import FormatError
from tests.helpers.benchmark_files import RNG, check_records, mask_png, png16, write, write_image

# --- NYU -----------------------------------------------------------------------------------------


def test_nyu_refuses_filled_depth(tmp_path):
    folder = tmp_path / "test" / "den"
    write_image(folder / "rgb_00001.jpg")
    write(folder / "sync_depth_00001.png", png16(np.full((6, 8), 3000, np.uint16)))
    with pytest.raises(BenchmarkError, match="has no hole: these are filled depths"):
        benchmarks.make("nyu", tmp_path, partial=True)
    reader = benchmarks.make("nyu", tmp_path, partial=True, depth="filled")
    assert reader[0]["valid"].all()


def test_nyu_matlab_file(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra [eval])")
    io = pytest.importorskip("scipy.io")
    images = RNG.integers(0, 256, (4, 6, 8, 3), np.uint8)  # rows and columns as one sees them
    filled = RNG.uniform(1, 9, (4, 6, 8)).astype(np.float32)
    raw = filled.copy()
    raw[:, :2, :3], raw[:, 5, 5] = 0, 10.0
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["depths"] = filled.transpose(0, 2, 1)
        file["rawDepths"] = raw.transpose(0, 2, 1)
    with pytest.raises(BenchmarkError, match="looked for splits.mat"):
        benchmarks.make("nyu", tmp_path, partial=True)
    splits = {"testNdxs": np.array([[2], [4]]), "trainNdxs": np.array([[1], [3]])}
    io.savemat(tmp_path / "splits.mat", splits)
    with pytest.raises(BenchmarkError, match="2 images .* where the split has 654"):
        benchmarks.make("nyu", tmp_path)
    reader = benchmarks.make("nyu", tmp_path, partial=True)
    keys = [f"nyu_depth_v2_labeled.mat/{n:05d}" for n in (2, 4)]
    check_records(reader, {keys[0]: raw[1], keys[1]: raw[3]})
    np.testing.assert_array_equal(reader[1]["image"], images[3])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader))[0]["image"], images[1])
    reader = benchmarks.make("nyu", tmp_path, partial=True, depth="filled")
    check_records(reader, {keys[0]: filled[1], keys[1]: filled[3]})
    assert reader[0]["K"][0, 0] == 518.857901 and reader[0]["K"][2].tolist() == [0, 0, 1]
    io.savemat(tmp_path / "splits.mat", {"testNdxs": np.array([[0], [3]])})
    with pytest.raises(BenchmarkError, match="counts from 0, MATLAB from 1"):
        benchmarks.make("nyu", tmp_path, partial=True)


def test_missing_libraries_name_the_extra(tmp_path, monkeypatch):
    write(tmp_path / "nyu_depth_v2_labeled.mat", b"x")
    write(tmp_path / "splits.mat", b"x")
    for module in ("scipy.io", "h5py"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"splits.mat is a MATLAB file.*SciPy.*\[eval\]"):
        benchmarks.make("nyu", tmp_path)
    with pytest.raises(ImportError, match=r"x.h5 is HDF5, which needs h5py.*\[eval\]"):
        benchmarks.files.read_hdf5(tmp_path / "x.h5", "dataset")


# --- ScanNet, iBims-1, SUN RGB-D, TUM ------------------------------------------------------------


def test_scannet(tmp_path):
    expected = {}
    for scene, frame in (("scene0568_00", 9), ("scene0568_00", 10), ("scene0700_01", 0)):
        write_image(tmp_path / scene / "color" / f"{frame}.jpg", 12, 16)
        raw = RNG.integers(0, 5000, (6, 8)).astype(np.uint16)
        raw[1, 1] = 0
        write(tmp_path / scene / "depth" / f"{frame}.png", png16(raw))
        expected[f"{scene}/color/{frame}.jpg"] = raw / 1000
    K = np.array([[577.6, 0, 4, 0], [0, 578.7, 3, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    text = "\n".join(" ".join(map(str, row)) for row in K)
    write(tmp_path / "scene0568_00" / "intrinsic" / "intrinsic_depth.txt", text)
    reader = benchmarks.make("scannet", tmp_path)
    check_records(reader, expected)
    np.testing.assert_array_equal(reader[0]["K"], K[:3, :3])
    assert "K" not in reader[2] and reader[2]["scene"] == "scene0700_01"
    chosen = tmp_path / "list.txt"
    write(chosen, "# two\n/x/scene0700_01/color/0.jpg\nscene0568_00/color/10.jpg y.png\n\n")
    keys = ["scene0568_00/color/10.jpg", "scene0700_01/color/0.jpg"]
    check_records(
        benchmarks.make("scannet", tmp_path, list_file=chosen), {k: expected[k] for k in keys}
    )
    write(chosen, "scene0700_01/color/0.jpg\nscene0700_01/color/1.jpg\n")
    with pytest.raises(BenchmarkError, match="1 of 2 images lack a file.*color/1.jpg"):
        benchmarks.make("scannet", tmp_path, list_file=chosen)
    (tmp_path / "scene0700_01/depth/0.png").unlink()
    reader = benchmarks.make("scannet", tmp_path, partial=True)
    assert reader.partial and len(reader) == 2  # though nobody knows how many there should be
    write(chosen, "rgb/0.jpg\n")
    with pytest.raises(BenchmarkError, match="has 'rgb/0.jpg', not paths like scene0568_00"):
        benchmarks.make("scannet", tmp_path, list_file=chosen)


def test_ibims(tmp_path):
    core, expected = tmp_path / "ibims1_core_raw", {}
    for name in ("corridor_01", "office_02"):
        write_image(core / "rgb" / f"{name}.png")
        raw = RNG.integers(1, 65536, (6, 8)).astype(np.uint16)
        raw[0, 0], raw[5, 5] = 0, 65535
        valid, opaque = np.ones((2, 6, 8), bool)
        valid[1, :4], opaque[4, 2:] = False, False
        write(core / "depth" / f"{name}.png", png16(raw))
        write(core / "mask_invalid" / f"{name}.png", mask_png(valid))
        write(core / "mask_transp" / f"{name}.png", mask_png(opaque))
        write(core / "calib" / f"{name}.txt", "548.5,549.1,319.9,240.2\n")
        metres = raw.astype(np.float64) * 50 / 65535
        expected[f"ibims1_core_raw/rgb/{name}.png"] = np.where(valid & opaque, metres, 0)
    write(core / "rgb" / "._office_02.png", b"what macOS leaves behind")
    with pytest.raises(BenchmarkError, match="2 images .* has 100"):
        benchmarks.make("ibims", tmp_path)
    reader = benchmarks.make("ibims", tmp_path, partial=True)
    check_records(reader, expected)
    assert reader[0]["depth"].max() == np.float32(50)
    np.testing.assert_array_equal(reader[0]["K"], [[548.5, 0, 319.9], [0, 549.1, 240.2], [0, 0, 1]])
    check_records(
        benchmarks.make("ibims", core, partial=True),
        {k.removeprefix("ibims1_core_raw/"): v for k, v in expected.items()},
    )
    write(core / "mask_transp" / "office_02.png", mask_png(np.ones((6, 7), bool)))
    with pytest.raises(FormatError, match=r"mask_transp.*\(6, 7\), its depth \(6, 8\)"):
        reader[1]
    (core / "mask_transp" / "office_02.png").unlink()
    with pytest.raises(BenchmarkError, match="1 masks are missing.*mask_transp/office_02.png"):
        benchmarks.make("ibims", tmp_path, partial=True)


def test_sun_rgbd(tmp_path):
    io = pytest.importorskip("scipy.io", reason="SciPy is not installed (extra [eval])")
    expected, filled, paths = {}, {}, []
    for scene in ("SUNRGBD/kv1/NYUdata/NYU0002", "SUNRGBD/kv2/kinect2data/000065"):
        write_image(tmp_path / scene / "image" / "a.jpg")
        write(tmp_path / scene / "intrinsics.txt", "500 0 4\n0 501 3 \n0 0 1 ")
        for folder, result in (("depth", expected), ("depth_bfx", filled)):
            millimetres = RNG.integers(1, 2**16, (6, 8))  # any of the 16 bits
            millimetres[2, 2] = 0
            stored = (millimetres * 8 % 2**16) + (millimetres * 8 // 2**16)
            write(tmp_path / scene / folder / "b.png", png16(stored.astype(np.uint16)))
            result[f"{scene}/image/a.jpg"] = millimetres / 1000
        paths.append(f"/n/fs/sun3d/data/{scene}")
    write_image(tmp_path / "SUNRGBD/kv1/NYUdata/NYU0001/image/train.jpg")
    cells = np.empty((1, 2), object)
    cells[0, :] = paths
    split = tmp_path / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
    split.parent.mkdir(parents=True)
    io.savemat(split, {"alltest": cells, "alltrain": cells[:, :1]})
    with pytest.raises(BenchmarkError, match="2 images .* has 5050"):
        benchmarks.make("sunrgbd", tmp_path)
    reader = benchmarks.make("sunrgbd", tmp_path, partial=True)
    check_records(reader, expected)
    np.testing.assert_array_equal(reader[0]["K"], [[500, 0, 4], [0, 501, 3], [0, 0, 1]])
    check_records(benchmarks.make("sunrgbd", tmp_path, partial=True, depth="filled"), filled)
    write(tmp_path / paths[1].removeprefix("/n/fs/sun3d/data/") / "depth" / "second.png", b"x")
    with pytest.raises(BenchmarkError, match=r"000065 \(1 images, 2 depth maps\)"):
        benchmarks.make("sunrgbd", tmp_path)


def test_sun_rgbd_flat_copy(tmp_path):
    expected = {}
    for n in (2, 10):
        write_image(tmp_path / "rgb" / f"img-{n:06d}.jpg")
        raw = RNG.integers(0, 2**16, (6, 8)).astype(np.uint16)
        write(tmp_path / "depth" / f"{n}.png", png16(raw))
        expected[f"rgb/img-{n:06d}.jpg"] = raw / 10000
    check_records(benchmarks.make("sunrgbd", tmp_path, partial=True), expected)


def test_tum(tmp_path):
    sequence, expected = tmp_path / "rgbd_dataset_freiburg3_walking", {}
    depths = {1.001: 0, 1.100: 1, 1.205: 2}
    raws = [RNG.integers(0, 2**16, (6, 8)).astype(np.uint16) for _ in depths]
    times = "".join(f"{t:.6f} depth/{t:.6f}.png\n" for t in depths)
    write(sequence / "depth.txt", "# depth maps\n# timestamp filename\n" + times)
    for t, i in depths.items():
        write(sequence / f"depth/{t:.6f}.png", png16(raws[i]))
    # 1.005 and 0.999 both want 1.001, which is nearer to 0.999; 1.15 is too far from any.
    colour = [0.999, 1.005, 1.11, 1.15, 1.2]
    write(sequence / "rgb.txt", "".join(f"{t:.6f} rgb/{t:.6f}.png\n" for t in colour))
    for t in colour:
        write_image(sequence / f"rgb/{t:.6f}.png")
    for t, i in ((0.999, 0), (1.11, 1), (1.2, 2)):
        expected[f"{sequence.name}/rgb/{t:.6f}.png"] = raws[i] / 5000
    reader = benchmarks.make("tum", tmp_path)
    check_records(reader, expected)
    assert reader[0]["scene"] == sequence.name
    check_records(
        benchmarks.make("tum", sequence),
        {k.removeprefix(f"{sequence.name}/"): v for k, v in expected.items()},
    )
    (sequence / "depth.txt").unlink()
    with pytest.raises(BenchmarkError, match="no list at .*depth.txt"):
        benchmarks.make("tum", tmp_path)


def test_time_stamps_are_joined_nearest_first():
    a, b = np.sort(RNG.uniform(0, 1, 40)), np.sort(RNG.uniform(0, 1, 30))
    pairs = indoor.associate(list(a), list(b), 0.02)
    free_a, free_b, best = set(a), set(b), []
    while True:  # by brute force
        left = [(abs(x - y), x, y) for x in free_a for y in free_b if abs(x - y) <= 0.02]
        if not left:
            break
        _, x, y = min(left)
        best.append((x, y))
        free_a.discard(x)
        free_b.discard(y)
    assert pairs == sorted(best) and 10 < len(pairs) < 30


# --- real files ----------------------------------------------------------------------------------


def test_real_files_in_these_layouts(shared, tmp_path):
    """NYU and TUM frames as others cut them, against the manifest's reader."""
    labelled = shared / "data" / "labelled"
    if not (labelled / "manifest.json").exists():
        pytest.skip(f"no labelled images at {labelled}")
    source = registry.make({"type": "rgbd", "path": str(labelled)})
    pairs = {e.rgb: (i, e.depth) for i, e in enumerate(source.entries)}
    nyu = {k: v for k, v in pairs.items() if k.startswith("nyu_metric3d/")}
    tum = {k: v for k, v in pairs.items() if k.startswith("tum_deepic/")}
    folder = tmp_path / "nyu" / "official_splits" / "test" / "somewhere"
    for rgb, (_, depth) in nyu.items():
        for path in (rgb, depth):
            write(folder / pathlib.Path(path).name, (labelled / path).read_bytes())
    lists = {"rgb": "", "depth": ""}
    for rgb, (_, depth) in tum.items():
        for kind, path in (("rgb", labelled / rgb), ("depth", labelled / depth)):
            write(tmp_path / "tum" / "sequence" / kind / path.name, path.read_bytes())
            lists[kind] += f"{path.stem} {kind}/{path.name}\n"
    for kind, text in lists.items():
        write(tmp_path / "tum" / "sequence" / f"{kind}.txt", text)
    readers = benchmarks.make("nyu", tmp_path / "nyu", partial=True), benchmarks.make(
        "tum", tmp_path / "tum"
    )  # fmt: skip
    for reader, wanted in zip(readers, (nyu, tum), strict=True):
        by_name = {pathlib.Path(k).name: i for k, (i, _) in wanted.items()}
        assert len(reader) == len(wanted) > 2
        for i in range(len(reader)):
            ours = reader[i]
            theirs = source[by_name[pathlib.Path(ours["key"]).name]]
            np.testing.assert_array_equal(ours["image"], theirs["image"])
            np.testing.assert_array_equal(ours["valid"], theirs["valid"])
            np.testing.assert_array_equal(ours["depth"], theirs["depth"])
