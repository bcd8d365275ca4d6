"""Evaluation sets: names, options, counts, cards; NYU, ScanNet, iBims-1, SUN RGB-D, TUM."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from depth_anything_jax.data import benchmarks, sources
from depth_anything_jax.data.benchmarks import BenchmarkError, base, indoor
from depth_anything_jax.data.benchmarks.document import document
from depth_anything_jax.data.formats import FormatError
from tests.benchmark_files import RNG, check_records, mask_png, png16, write, write_image

ROOT = pathlib.Path(__file__).resolve().parent.parent


def write_nyu(root, names=("bathroom/00045", "bathroom/00100", "office_1/00009")):
    """Millimetres with holes; returns the expected metres by key."""
    expected = {}
    for name in names:
        scene, number = name.split("/")
        folder = root / "official_splits" / "test" / scene
        write_image(folder / f"rgb_{number}.jpg")
        raw = RNG.integers(500, 9999, (6, 8)).astype(np.uint16)
        raw[0, :3], raw[5, 7] = 0, 10000
        write(folder / f"sync_depth_{number}.png", png16(raw))
        key = f"official_splits/test/{scene}/rgb_{number}.jpg"
        expected[key] = raw.astype(np.float64) / 1000
    write(root / "official_splits" / "train" / "den" / "rgb_00001.jpg", b"not read")
    write(root / "official_splits" / "test" / "bathroom" / "._rgb_00045.jpg", b"not read")
    write(root / "official_splits" / "test" / "notes.txt", "not read")
    return expected


# --- what all readers share ----------------------------------------------------------------------


def test_names_and_options_name_the_nearest(tmp_path):
    with pytest.raises(BenchmarkError, match="unknown evaluation set 'kiti'; did you mean 'kitti'"):
        benchmarks.make("kiti", tmp_path)
    with pytest.raises(BenchmarkError, match="one of nyu, kitti, .*rgbd"):
        benchmarks.make("???", tmp_path)
    with pytest.raises(BenchmarkError, match="no option 'parital'; did you mean 'partial'"):
        benchmarks.make("nyu", tmp_path, parital=True)
    with pytest.raises(BenchmarkError, match="no option 'xyz': it takes depth, form, partial"):
        benchmarks.make("nyu", tmp_path, xyz=1)
    with pytest.raises(BenchmarkError, match="depth must be one of raw, filled, got 'row'"):
        benchmarks.make("nyu", tmp_path, depth="row")
    with pytest.raises(BenchmarkError, match="moge needs the option 'set': set=NYUv2"):
        benchmarks.make("moge", tmp_path)
    with pytest.raises(BenchmarkError, match="nyu: no folder .*nowhere"):
        benchmarks.make("nyu", tmp_path / "nowhere")


LOOKED_FOR = {
    "nyu": "nyu_depth_v2_labeled.mat, or official_splits/test/SCENE/rgb_NNNNN.jpg",
    "sintel": "training/final/SEQUENCE/frame_NNNN.png",
    "eth3d": "SCENE/images/dslr_images/NAME.JPG",
    "diode": "val/{indoors,outdoor}/scene_NNNNN/scan_NNNNN/NAME.png",
    "ddad": "*_rgb.png and *_depth.npy",
    "ibims": "ibims1_core_raw/rgb/NAME.png",
    "sunrgbd": "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat, or rgb/img-NNNNNN.jpg",
    "scannet": "sceneNNNN_NN/color/N.jpg",
    "tum": "rgbd_dataset_*/rgb.txt and depth.txt",
    "middlebury": "SCENE/im0.png",
    "diw": "DIW_Annotations/DIW_test.csv or DIW_test.csv",
    "da2k": "annotations.json",
    "moge": "NYUv2/.index.txt",
}


@pytest.mark.parametrize("name", benchmarks.READERS)
def test_a_wrong_folder_says_what_was_looked_for_and_what_is_there(tmp_path, name):
    (tmp_path / "holiday.avi").touch()
    (tmp_path / "photos").mkdir()
    options = {"set": "NYUv2"} if name == "moge" else {}
    with pytest.raises(BenchmarkError) as caught:
        benchmarks.make(name, tmp_path, **options)
    message = str(caught.value)
    if name not in LOOKED_FOR:  # a list comes first
        assert message.startswith(f"{name}: needs list_file: ")
        return
    assert f"looked for {LOOKED_FOR[name]}" in message and f"below {tmp_path} and" in message
    assert "that folder holds holiday.avi, photos/." in message


def test_a_part_of_a_set_has_to_be_asked_for(tmp_path):
    expected = write_nyu(tmp_path)
    with pytest.raises(BenchmarkError, match=r"3 images below .* where the split has 654.*partial"):
        benchmarks.make("nyu", tmp_path)
    reader = benchmarks.make("nyu", tmp_path, partial=True)
    assert reader.partial and reader.expected == 654 and len(reader) == 3
    check_records(reader, expected)
    missing = tmp_path / "official_splits/test/office_1/sync_depth_00009.png"
    missing.unlink()
    with pytest.raises(BenchmarkError, match="1 of 3 images lack a file.*sync_depth_00009.png"):
        benchmarks.make("nyu", tmp_path)
    assert len(benchmarks.make("nyu", tmp_path, partial=True)) == 2


def test_more_images_than_the_split_has_is_never_accepted(tmp_path, monkeypatch):
    """Exactly as many is a whole set; one more is none, whatever was asked for."""
    expected = write_nyu(tmp_path)
    settle = base.Reader._settle

    def expect(count):
        def patched(self, items, **options):
            settle(self, items, **options | {"expected": count})

        monkeypatch.setattr(base.Reader, "_settle", patched)

    expect(3)
    reader = benchmarks.make("nyu", tmp_path)
    assert not reader.partial and len(reader) == len(expected)
    expect(2)
    for partial in (False, True):
        with pytest.raises(BenchmarkError, match="3 images .*has 2: something else lies among"):
            benchmarks.make("nyu", tmp_path, partial=partial)


def test_readers_are_sources_that_workers_can_receive(tmp_path):
    write_nyu(tmp_path)
    reader = benchmarks.make("nyu", tmp_path, partial=True)
    assert isinstance(reader, sources.Source) and reader.name == "nyu"
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again[1]["depth"], reader[1]["depth"])
    part = sources.Subset(reader, [2])
    assert part[0]["key"] == reader.key(2) and part[0]["scene"] == "office_1"
    assert part[0]["domain"] == "indoor"


def test_frames_are_in_the_order_of_their_numbers():
    names = ["s10/2.png", "s9/10.png", "s9/9.png", "a.png"]
    assert sorted(names, key=base.natural) == ["a.png", "s9/9.png", "s9/10.png", "s10/2.png"]


def test_sky_is_no_measurement_and_depths_stay_as_they_are():
    values = np.array([[3, 10, 0, -1, np.inf, np.nan, 7, 80]], np.float32)
    sky = np.array([[0, 0, 0, 0, 1, 0, 1, 0]], bool)
    valid = np.array([[1, 1, 1, 1, 1, 1, 1, 0]], bool)
    fields = base.depth_fields(values, valid=valid, sky=sky)
    np.testing.assert_array_equal(fields["depth"], [[3, 10, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(fields["valid"], [[1, 1, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(fields["sky"], sky)


def test_an_image_of_another_view_is_refused(tmp_path):
    write_nyu(tmp_path)
    write_image(tmp_path / "official_splits/test/bathroom/rgb_00045.jpg", 8, 6)
    reader = benchmarks.make("nyu", tmp_path, partial=True)
    with pytest.raises(FormatError, match="rgb_00045.jpg: the image is 8x6 and its depth 6x8"):
        reader[0]


def test_any_rgbd_folder_with_a_manifest(tmp_path):
    write_image(tmp_path / "a.png")
    write(tmp_path / "a_depth.png", png16(np.full((6, 8), 2000, np.uint16)))
    write(tmp_path / "manifest.json", '[{"rgb": "a.png", "depth": "a_depth.png", "fmt": "nyu"}]')
    reader = benchmarks.make("rgbd", tmp_path)
    np.testing.assert_array_equal(reader[0]["disparity"], np.full((6, 8), 0.5, np.float32))
    with pytest.raises(sources.SourceError, match="no field 'partial'"):
        benchmarks.make("rgbd", tmp_path, partial=True)


def test_cards_are_complete_and_the_document_is_theirs():
    cards = benchmarks.cards()
    assert set(cards) == set(benchmarks.READERS)
    for name, card in cards.items():
        texts = [getattr(card, f) for f in ("title", "split", "images", "units", "layout", "where")]
        texts += [card.licence, card.size, card.citation, *card.traps]
        assert card.traps and all(len(t) > 2 for t in texts), name
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    command = "python -m depth_anything_jax.data.benchmarks.document > docs/benchmarks.md"
    assert page == document(), f"the cards have changed: {command}"


def test_the_page_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "depth_anything_jax.data.benchmarks.document"],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.stdout == document(), done.stderr[-1000:]


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
