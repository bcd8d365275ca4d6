"""Labelled training sets: every layout, holes, sky, damage; labels come back exactly."""

import pathlib
import pickle

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import LeftOut, SourceError, is_labelled
from depth_anything_jax.data.sources.tfds_writer import encode, float16
from depth_anything_jax.data.training_sets import SETS, hypersim_cameras
from tests.helpers import training_set_files as files
from tests.helpers.benchmark_files import npy, png16, write, write_image

RNG = np.random.default_rng(0)
ROOT = pathlib.Path(__file__).resolve().parents[3]
K = np.array([[10.0, 0, 4], [0, 11, 3], [0, 0, 1]])


def make(text, **options):
    return registry.make(registry.parse(text) | options)


def keys(source):
    return [source.key(i) for i in range(len(source))]


def stored(source, index):
    """The label as prepared data give it back, and the example that they hold."""
    example = encode(source, index, encoding=source.encoding, masks=list(source.masks))
    values = example["depth"]
    if source.encoding == "png16":
        values = formats.decode_raw(values, "label", bits=16)
    label = formats.interpret(values, formats.LabelFormat(), example["scale"], example["kind"])
    return label.values, example


def check_camera(source, index, expected):
    np.testing.assert_allclose(source[index]["camera"], expected, rtol=1e-6)


# --- Hypersim ----------------------------------------------------------------------------------


def distances(height=6, width=8):
    values = RNG.uniform(1, 12, (height, width)).astype(np.float16)
    values[0, :2] = np.nan  # a window
    return values


@pytest.fixture
def hypersim(tmp_path):
    pytest.importorskip("h5py")
    cameras = {"ai_001_001": files.SIMPLE, "ai_002_003": files.TILTED, "ai_004_009": files.SIMPLE}
    frames = [
        "ai_001_001,cam_00,0,True,,train",
        "ai_001_001,cam_00,1,True,,val",
        "ai_001_001,cam_00,2,False,broken,",
        "ai_002_003,cam_01,5,True,,train",
        "ai_004_009,cam_01,0,True,,train",
        "ai_001_001,cam_00,3,True,,train",
    ]
    files.hypersim_tables(tmp_path, cameras, frames)
    shown = {}
    for line in frames:
        scene, camera, frame = line.split(",")[:3]
        shown[scene, int(frame)] = distances()
        files.hypersim_frame(tmp_path, scene, camera, int(frame), shown[scene, int(frame)])
    (
        tmp_path / "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0003.depth_meters.hdf5"
    ).unlink()
    write(tmp_path / "ai_001_001/_detail/metadata_scene.csv", "meters_per_asset_unit,0.0254\n")
    return tmp_path, shown


@pytest.mark.filterwarnings("ignore:.*no label file")
def test_hypersim_takes_the_camera_of_each_scene(hypersim):
    root, shown = hypersim
    source = make(f"hypersim:{root}")
    assert keys(source) == [
        "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg",
        "ai_002_003/images/scene_cam_01_final_preview/frame.0005.tonemap.jpg",
    ]
    assert source.left_out == {
        "not in split train: val": 1,
        "not in split train: excluded": 1,
        "broken cameras (ml-hypersim, issue 22)": 1,
        "no label file": 1,
    }
    for index, (scene, M) in enumerate(
        [("ai_001_001", files.SIMPLE), ("ai_002_003", files.TILTED)]
    ):
        distance = shown[scene, (0, 5)[index]].astype(np.float64)
        record = source[index]
        for row, column in ((0, 0), (2, 3), (5, 7)):
            uv = np.array([(column + 0.5) / 4 - 1, 1 - (row + 0.5) / 3, 1])
            ray = M @ uv
            expected = distance[row, column] * abs(ray[2]) / np.linalg.norm(ray)
            if np.isnan(expected):
                assert not record["valid"][row, column] and record["depth"][row, column] == 0
            else:
                assert record["depth"][row, column] == pytest.approx(expected, rel=1e-6)
        values, _ = stored(source, index)
        depth, scale = float16(record["depth"])
        np.testing.assert_array_equal(values, depth.astype(np.float32) / scale)
        np.testing.assert_allclose(values, record["depth"], rtol=2**-11)
    assert len(make(f"hypersim:{root}?split=val")) == 1
    assert len(make(f"hypersim:{root}?split=all")) == 4


def test_hypersim_pinholes():
    """The shortcut of 886.81 pixels is the camera of 60 degrees; a tilted one is no pinhole."""
    camera = hypersim_cameras.pinhole(files.SIMPLE, 768, 1024)
    np.testing.assert_allclose(camera, (886.81, 886.81, 511.5, 383.5), atol=1e-3)
    assert hypersim_cameras.pinhole(files.TILTED, 768, 1024) is None
    shifted = files.SIMPLE + np.array([[0, 0, 0.01], [0, 0, -0.02], [0, 0, 0]])
    fx, fy, cx, cy = hypersim_cameras.pinhole(shifted, 768, 1024)
    ray = hypersim_cameras.rays(shifted, 768, 1024)[100, 200]
    across, down = ray[0] / -ray[2], ray[1] / ray[2]
    np.testing.assert_allclose([fx * across + cx, fy * down + cy], [200, 100])


def test_hypersim_without_previews(hypersim):
    """Radiances become pictures: 90 % of the pixels with geometry lie below 0.8 of white."""
    root, _ = hypersim
    images = root / "ai_001_001/images"
    for file in (images / "scene_cam_00_final_preview").iterdir():
        file.unlink()
    colour = np.full((6, 8, 3), 2.0, np.float16)
    colour[0, 0] = 60000  # a lamp, without geometry
    ids = np.ones((6, 8), np.int16)
    ids[0, 0] = -1
    files.hdf5(images / "scene_cam_00_final_hdf5/frame.0000.color.hdf5", "dataset", colour)
    geometry = images / "scene_cam_00_geometry_hdf5/frame.0000.render_entity_id.hdf5"
    files.hdf5(geometry, "dataset", ids)
    record = make(f"hypersim:{root}")[0]
    assert record["key"].endswith("final_hdf5/frame.0000.color.hdf5")
    assert (record["image"][0, 0] == 255).all() and (record["image"][1:] == 204).all()


def test_hypersim_needs_its_tables(hypersim, tmp_path):
    root, _ = hypersim
    (root / "metadata_images_split_scene_v1.csv").rename(root / "other.csv")
    with pytest.raises(
        SourceError, match="no metadata_images_split_scene_v1.csv at .*splits_file="
    ):
        make(f"hypersim:{root}")
    assert len(make(f"hypersim:{root}?splits_file={root}/other.csv&exclude=ai_001*")) == 1
    with pytest.raises(SourceError, match="other.csv: not Hypersim's metadata_camera"):
        make(f"hypersim:{root}?cameras_file={root}/other.csv&split=all")


def test_a_truncated_hdf5_is_an_error_by_name(hypersim):
    root, _ = hypersim
    name = "ai_002_003/images/scene_cam_01_geometry_hdf5/frame.0005.depth_meters.hdf5"
    files.cut(root / name)
    with pytest.raises((formats.FormatError, OSError), match="frame.0005"):
        make(f"hypersim:{root}", exclude=["ai_001*"])[0]


# --- Virtual KITTI 2 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rgb", "depth"),
    [("", ""), ("rgb", "depth"), ("vkitti_2.0.3_rgb", "vkitti_2.0.3_depth"), ("a/rgb", "a/depth")],
)
def test_vkitti2(tmp_path, rgb, depth):
    values = RNG.integers(1, 60000, (375, 1242)).astype(np.uint16)
    values[:9] = 65535
    for camera in (0, 1):
        files.vkitti_frame(tmp_path / rgb, tmp_path / depth, "Scene01", "fog", camera, 7, values)
    write(tmp_path / rgb / "Scene01/fog/frames/rgb/Camera_0/notes.txt", "unexpected")
    source = make(f"vkitti2:{tmp_path}")
    (key,) = keys(source)
    assert key.endswith("Scene01/fog/frames/rgb/Camera_0/rgb_00007.jpg")
    assert source.left_out == {"Camera_1 (cameras=both reads it)": 1}
    record = source[0]
    assert record["sky"][:9].all() and not record["sky"][9:].any()
    assert not record["valid"][:9].any() and record["valid"][9:].all()
    assert record["depth"][9, 0] == np.float32(values[9, 0]) / np.float32(100)
    check_camera(source, 0, (725.0087, 725.0087, 620.5, 187))
    _, example = stored(source, 0)
    raw = formats.decode_raw(example["depth"], "label", bits=16)
    np.testing.assert_array_equal(raw, np.where(record["sky"], 0, values))
    assert example["image"] == source.image_bytes(0)
    assert len(make(f"vkitti2:{tmp_path}?cameras=both")) == 2
    assert len(make(f"vkitti2:{tmp_path}?cameras=1")) == 1


def test_without_labels_images_alone(tmp_path):
    values = np.ones((6, 8), np.uint16)
    files.vkitti_frame(tmp_path, tmp_path / "elsewhere", "Scene01", "fog", 0, 1, values)
    files.vkitti_frame(tmp_path, tmp_path, "Scene02", "fog", 0, 2, values)
    with pytest.warns(UserWarning, match="1 of 2 images have no label file .*Scene01"):
        source = make(f"vkitti2:{tmp_path}", exclude=["elsewhere/*"])
    assert source.left_out["no label file"] == 1 and is_labelled(source)
    alone = make(f"vkitti2:{tmp_path}", labelled=False)
    assert len(alone) == 2 and not is_labelled(alone) and "depth" not in alone[0]
    assert pickle.loads(pickle.dumps(source))[0]["key"] == source.key(0)


# --- TartanAir ---------------------------------------------------------------------------------


@pytest.mark.parametrize("top", ["hospital", "hospital/hospital"])
@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_tartanair_v1(tmp_path, top, dtype):
    depth = RNG.uniform(1, 90, (480, 640)).astype(np.float16).astype(dtype)
    depth[0], depth[1, 0], depth[1, 1], depth[1, 2] = 10000, np.inf, np.nan, 0
    for env in (top, "amusement"):
        place = tmp_path / env / "Easy/P000"
        write_image(place / "image_left/000000_left.png", 480, 640)
        write(place / "depth_left/000000_left_depth.npy", npy(depth))
        write(place / "seg_left/000000_left_seg.npy", npy(depth))
        write(place / "pose_left.txt", "0 0 0 0 0 0 1")
    source = make(f"tartanair:{tmp_path}")
    assert keys(source) == [f"{top}/Easy/P000/image_left/000000_left.png"]
    assert source.left_out == {"environment amusement, whose sky is a near dome": 1}
    assert len(make(f"tartanair:{tmp_path}?amusement=True")) == 2
    record = source[0]
    assert record["sky"][0].all() and not record["sky"][1:].any()
    assert not record["valid"][1, :3].any() and record["valid"][2:].all()
    check_camera(source, 0, (320, 320, 320, 240))
    values, example = stored(source, 0)
    assert example["scale"] == 1 and example["depth"].dtype == np.float16
    np.testing.assert_array_equal(values[2:], depth[2:].astype(np.float32))
    assert example["image"] == (tmp_path / source.key(0)).read_bytes()


def test_tartanair_v2(tmp_path):
    depth = RNG.uniform(1, 90, (640, 640)).astype(np.float32)
    depth[0] = 8248
    place = tmp_path / "ShoreCaves/Data_easy/P001"
    write_image(place / "image_lcam_front/000003_lcam_front.png", 640, 640)
    write_image(place / "image_rcam_front/000003_rcam_front.png", 640, 640)
    label = place / "depth_lcam_front/000003_lcam_front_depth.png"
    write(label, files.packed_png(depth))
    source = make(f"tartanair:{tmp_path}")
    record = source[0]
    assert len(source) == 1 and record["sky"][0].all()
    np.testing.assert_array_equal(record["depth"][1:], depth[1:])
    check_camera(source, 0, (320, 320, 320, 320))
    files.cut(label)
    with pytest.raises(formats.FormatError, match="000003_lcam_front_depth.png: truncated"):
        source[0]
    write(label, png16(np.ones((640, 640), np.uint16)))
    with pytest.raises(formats.FormatError, match="no PNG of four 8-bit channels"):
        source[0]


# --- IRS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", ["", "IRSDataset/"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_irs(tmp_path, top, dtype):
    pytest.importorskip("OpenEXR")
    disparity = RNG.uniform(2, 90, (540, 960)).astype(dtype)
    disparity[0, :5] = [0.1, 0, -3, np.nan, np.inf]
    disparity[1, 0] = 600
    scenes = ["Home/RoyalRoom", "Office/QAOfficeAndSecurityRoom2_Night", "IRS_small/Home/RoyalRoom"]
    for scene in scenes:
        write_image(tmp_path / f"{top}{scene}/l_321.png", 540, 960)
        write_image(tmp_path / f"{top}{scene}/r_321.png", 540, 960)
        files.exr(tmp_path / f"{top}{scene}/d_321.exr", G=disparity)
    source = make(f"irs:{tmp_path}")
    assert keys(source) == [f"{top}Home/RoyalRoom/l_321.png"]
    assert sum(source.left_out.values()) == 2
    record = source[0]
    assert record["sky"][0, 0] and record["sky"].sum() == 1  # 48 / .1 is farther than 200 m
    assert not record["valid"][0, :5].any() and not record["valid"][1, 0]
    assert record["depth"][5, 5] == np.float32(48) / np.float32(disparity[5, 5])
    check_camera(source, 0, (480, 480, 479.5, 269.5))
    values, _ = stored(source, 0)
    depth, scale = float16(record["depth"])
    np.testing.assert_array_equal(values, depth.astype(np.float32) / scale)
    np.testing.assert_array_equal(values > 0, record["valid"])


def test_irs_reads_channels_by_name(tmp_path):
    pytest.importorskip("OpenEXR")
    disparity, other = np.full((6, 8), 4, np.float32), np.full((6, 8), 9, np.float32)
    for name, channels in {
        "1": {"R": other, "G": disparity, "B": other},
        "2": {"A": other},
        "3": {"G": disparity[:5]},
        "4": {"G": disparity},
    }.items():
        write_image(tmp_path / f"Store/S/l_{name}.png")
        files.exr(tmp_path / f"Store/S/d_{name}.exr", **channels)
    files.cut(tmp_path / "Store/S/d_4.exr", 0.3)
    source = make(f"irs:{tmp_path}")
    assert (source[0]["depth"] == 12).all()
    with pytest.raises(formats.FormatError, match="d_2.exr: no channel G, but A"):
        source[1]
    with pytest.raises(LeftOut, match="l_3.png: disparity of another size than its image"):
        source[2]
    with pytest.raises(formats.FormatError, match="d_4.exr: not an EXR file, or a damaged one"):
        source[3]


# --- HRWSI -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
def test_hrwsi(tmp_path, bits):
    values = RNG.integers(0, 2**bits, (6, 8)).astype(f"u{bits // 8}")
    values[0, :4] = 0
    mask = np.full((6, 8), 255, np.uint8)
    mask[0, :2] = 0
    for split in ("train", "val"):
        write_image(tmp_path / f"{split}/imgs/a.jpg")
        (tmp_path / f"{split}/gts").mkdir(), (tmp_path / f"{split}/valid_masks").mkdir()
        cv2.imwrite(str(tmp_path / f"{split}/gts/a.png"), values)
        cv2.imwrite(str(tmp_path / f"{split}/valid_masks/a.png"), mask)
        write(tmp_path / f"{split}/instance_masks/a.png", b"not read")
    source = make(f"hrwsi:{tmp_path}")
    assert keys(source) == ["train/imgs/a.jpg"] and source.left_out == {"split val": 1}
    record = source[0]
    np.testing.assert_array_equal(record["valid"], mask > 0)
    assert not record["shift_known"]
    np.testing.assert_array_equal(record["disparity"], np.where(mask > 0, values, 0))
    _, example = stored(source, 0)
    np.testing.assert_array_equal(
        formats.decode_raw(example["depth"], "x", bits=16), np.where(mask > 0, values, 0)
    )
    np.testing.assert_array_equal(formats.decode_raw(example["valid"], "x", bits=8) > 0, mask > 0)
    assert len(source.files(0)) == 3
    files.cut(tmp_path / "train/gts/a.png")
    with pytest.raises(formats.FormatError, match="gts/a.png: truncated"):
        source[0]


# --- MegaDepth ---------------------------------------------------------------------------------


@pytest.mark.parametrize("top", ["", "phoenix/S6/zl548/MegaDepth_v1/"])
def test_megadepth(tmp_path, top):
    pytest.importorskip("h5py")
    depth = RNG.uniform(0.5, 3, (10, 12)).astype(np.float32)
    depth[0] = 0
    ordinal = RNG.integers(0, 3, (10, 12)).astype(np.float32)
    place = tmp_path / top / "0000/dense0"
    for name, values in {"a_o.JPG": depth, "b.jpg": ordinal, "c.d.png": -depth}.items():
        write_image(place / "imgs" / name, 10, 12)
        files.hdf5(place / "depths" / f"{name.rpartition('.')[0]}.h5", "depth", values)
    write(place / "imgs/notes.txt", "unexpected")
    source = make(f"megadepth:{tmp_path}")
    assert keys(source) == [f"{top}0000/dense0/imgs/{n}" for n in ("a_o.JPG", "b.jpg", "c.d.png")]
    record = source[0]
    low, high = np.percentile(depth[1:], (1, 98))
    counts = (depth >= low) & (depth <= high)
    np.testing.assert_array_equal(record["valid"], counts)
    np.testing.assert_array_equal(record["disparity"][counts], 1 / depth[counts])
    assert record["shift_known"]
    np.testing.assert_allclose(stored(source, 0)[0], record["disparity"], rtol=2**-11)
    for index in (1, 2):
        with pytest.raises(LeftOut, match="ordinal labels"):
            source[index]


# --- BlendedMVS --------------------------------------------------------------------------------

PID = "5bfe5ae0fe0ea555e6a969ca"


def blended(root, name, depth, nearest=0.4):
    write_image(root / f"{PID}/blended_images/{name}.jpg")
    write_image(root / f"{PID}/blended_images/{name}_masked.jpg")
    write(root / f"{PID}/rendered_depth_maps/{name}.pfm", formats.encode_pfm(depth))
    write(root / f"{PID}/cams/{name}_cam.txt", files.cam_txt(K, nearest))
    write(root / f"{PID}/cams/pair.txt", "1\n")


@pytest.mark.parametrize("top", ["", "dataset_low_res"])
def test_blendedmvs(tmp_path, top):
    depth = RNG.uniform(0.5, 3, (6, 8)).astype(np.float32)
    depth[0], depth[1, 0] = 0, np.nan
    blended(tmp_path / top, "00000000", depth)
    blended(tmp_path / top, "00000001", np.zeros((6, 8), np.float32))
    blended(tmp_path / top, "00000002", depth, nearest=-1)
    blended(tmp_path / top, "00000003", depth)
    files.cut(tmp_path / top / PID / "rendered_depth_maps/00000003.pfm")
    source = make(f"blendedmvs:{tmp_path}")
    assert len(source) == 4 and source.left_out == {"masked copy of another image": 4}
    record = source[0]
    np.testing.assert_array_equal(record["valid"], depth > 0)
    np.testing.assert_array_equal(record["disparity"][2:], 1 / depth[2:])
    check_camera(source, 0, (10, 11, 4, 3))
    with pytest.raises(LeftOut, match="empty depth map"):
        source[1]
    with pytest.raises(LeftOut, match="depth range"):
        source[2]
    with pytest.raises(formats.FormatError, match="00000003.pfm: truncated PFM"):
        source[3]


# --- DIML --------------------------------------------------------------------------------------


def test_diml_full(tmp_path):
    values = RNG.integers(1, 9000, (792, 1408)).astype(np.uint16)
    values[0, 0] = 0
    for top in ("2/16.02.02/1", "16. Billiard Hall/7"):
        write_image(tmp_path / top / "col/in_k_01_c.png", 792, 1408)
        for folder in ("up_png", "raw_png", "warp_png"):
            write(tmp_path / top / folder / f"in_k_01_{folder[:2]}.png", png16(values))
    outdoors = tmp_path / "160319_C1/A"
    write_image(outdoors / "left/1_left.png")
    far = np.full((6, 8), 12345, np.uint16)
    write(outdoors / "depth/1_depth.png", png16(far))
    sure = np.full((6, 8), 200, np.uint8)
    sure[0] = 153  # .6 of 255
    (outdoors / "conf").mkdir()
    cv2.imwrite(str(outdoors / "conf/1_conf.png"), sure)
    source = make(f"diml:{tmp_path}")
    assert keys(source) == [
        "16. Billiard Hall/7/col/in_k_01_c.png",
        "160319_C1/A/left/1_left.png",
        "2/16.02.02/1/col/in_k_01_c.png",
    ]
    assert [source[i]["domain"] for i in range(3)] == ["indoor", "outdoor", "indoor"]
    check_camera(source, 0, (1081, 1081, 704, 396))
    assert "camera" not in source[1]
    raw = formats.decode_raw(stored(source, 2)[1]["depth"], "x", bits=16)
    np.testing.assert_array_equal(raw, values)
    np.testing.assert_array_equal(source[1]["valid"], sure > 153)
    assert [len(source.files(i)) for i in range(3)] == [2, 3, 2]
    assert make(f"diml:{tmp_path}?confidence=0.4")[1]["valid"].all()
    above = tmp_path / "depth/left/depthmap"  # names of the set's own folders, above it
    (above / "160319_C1").mkdir(parents=True)
    (tmp_path / "160319_C1/A").rename(above / "160319_C1/A")
    assert make(f"diml:{above}")[0]["valid"].sum() == (sure > 153).sum()
    (tmp_path / "16. Billiard Hall").rename(above / "16. Billiard Hall")
    source = make(f"diml:{tmp_path}")
    assert keys(source)[1].startswith("depth/left/depthmap/16. ")
    assert [source[i]["domain"] for i in (1, 2)] == ["indoor", "outdoor"]


def test_diml_sample(tmp_path):
    values = RNG.integers(1, 9000, (6, 8)).astype(np.uint16)
    for part in ("train/HR", "train/LR", "test/HR"):
        indoor, outdoor = tmp_path / "indoor" / part / "bedroom", tmp_path / "outdoor" / part
        write_image(indoor / "color/a_c.png")
        write(indoor / "depth_filled/a_depth_filled.png", png16(values))
        write_image(outdoor / "outleft/b.png")
        write(outdoor / "depthmap/b.png", png16(values))
        write_image(outdoor / "confidencemap/b.png")
        (outdoor / "confidencemap/b.png").write_bytes(
            cv2.imencode(".png", np.full((6, 8), 255, np.uint8))[1].tobytes()
        )
    source = make(f"diml:{tmp_path}")
    assert keys(source) == [
        "indoor/train/HR/bedroom/color/a_c.png",
        "outdoor/train/HR/outleft/b.png",
    ]
    assert source.left_out == {"sample release, train/LR": 2, "sample release, test/HR": 2}
    for index in range(2):
        raw = formats.decode_raw(stored(source, index)[1]["depth"], "x", bits=16)
        np.testing.assert_array_equal(raw, values)
    with pytest.raises(SourceError, match="part=val/HR"):
        make(f"diml:{tmp_path}?part=val/HR")


def test_diml_beyond_the_reach_of_16_bits_is_no_depth(tmp_path):
    values = np.full((6, 8), 9000, np.uint16)
    values[0], values[1, 0] = 65535, 65500
    write_image(tmp_path / "2/1/col/a_c.png")
    write(tmp_path / "2/1/up_png/a_up.png", png16(values))
    record = make(f"diml:{tmp_path}")[0]
    assert not record["valid"][0].any() and record["valid"][1:].all()
    assert record["depth"][1, 0] == 65.5


# --- all ---------------------------------------------------------------------------------------


CUT = {
    "vkitti2": "Scene01/fog/frames/depth/Camera_0/depth_00007.png",
    "tartanair": "hospital/Easy/P000/depth_left/000000_left_depth.npy",
    "megadepth": "0000/dense0/depths/a.h5",
    "diml": "S/A/depth/1_depth.png",
    "hrwsi": "train/valid_masks/a.png",
}


@pytest.mark.parametrize("name", sorted(CUT))
def test_a_truncated_label_is_named(tmp_path, name):
    """Those of hypersim, irs, blendedmvs and others are cut in the tests of each set."""
    values = RNG.integers(1, 9000, (6, 8)).astype(np.uint16)
    if name == "vkitti2":
        files.vkitti_frame(tmp_path, tmp_path, "Scene01", "fog", 0, 7, values)
    elif name == "tartanair":
        write_image(tmp_path / "hospital/Easy/P000/image_left/000000_left.png")
        write(tmp_path / CUT[name], npy(values.astype(np.float32)))
    elif name == "megadepth":
        pytest.importorskip("h5py")
        write_image(tmp_path / "0000/dense0/imgs/a.jpg")
        files.hdf5(tmp_path / CUT[name], "depth", values.astype(np.float32))
    elif name == "diml":
        write_image(tmp_path / "S/A/left/1_left.png")
        for file in ("depth/1_depth.png", "conf/1_conf.png"):
            write(tmp_path / "S/A" / file, png16(values))
    else:
        write_image(tmp_path / "train/imgs/a.jpg")
        for folder in ("gts", "valid_masks"):
            (tmp_path / "train" / folder).mkdir()
            cv2.imwrite(str(tmp_path / f"train/{folder}/a.png"), values.astype(np.uint8))
    source = make(f"{name}:{tmp_path}")
    files.cut(tmp_path / CUT[name], 0.6)
    with pytest.raises(formats.FormatError, match=pathlib.Path(CUT[name]).name):
        source[0]


@pytest.mark.parametrize("name", sorted(SETS))
def test_other_layouts_are_refused_by_name(tmp_path, name):
    write(tmp_path / "somewhere/else.txt", "no such set")
    write(tmp_path / "set.zip", "PK")
    if name == "hypersim":
        files.hypersim_tables(tmp_path, {}, [])
    with pytest.raises(SourceError) as error:
        make(f"{name}:{tmp_path}")
    text = str(error.value)
    assert text.startswith(f"{name}: looked for {SETS[name].looked_for} below {tmp_path}")
    assert "somewhere" in text and "1 archives lie there: unpack them" in text
    with pytest.raises(SourceError, match=f"{name}: no folder {tmp_path}/none"):
        make(f"{name}:{tmp_path}/none") if name != "hypersim" else SETS[name](
            f"{tmp_path}/none",
            split="all",
            cameras_file=f"{tmp_path}/metadata_camera_parameters.csv",
        )
    with pytest.raises(SourceError, match=f"'{name}' has no field 'exlude'.*exclude"):
        make(f"{name}:{tmp_path}?exlude=a")


def test_a_missing_module_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"megadepth needs h5py: pip install .*\[sets\]"):
        make(f"megadepth:{tmp_path}")


def test_float16_keeps_small_and_large_values():
    values = np.array([[0, 1e-3, 1e-2], [5, 7e4, 2e5]], np.float32)
    half, scale = float16(values)
    np.testing.assert_allclose(half.astype(np.float32) / scale, values, rtol=2**-11)
    assert np.log2(scale) % 1 == 0 and np.isfinite(half).all()
    exact = np.array([[0, 2.0**-20, 65504]], np.float32)
    assert float16(exact)[1] == 1


def test_readers_stay_small_and_documented():
    """A reader is a page of at most 80 lines, and docs/data.md has a row for each."""
    folder = pathlib.Path(SETS["irs"].__module__.replace(".", "/")).parent
    document = (ROOT / "docs/data.md").read_text()
    for name, reader in SETS.items():
        assert len((ROOT / folder / f"{name}.py").read_text().splitlines()) <= 80, name
        assert reader.licence and f"\n| `{name}` | " in document, name
