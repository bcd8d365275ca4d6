"""Evaluation sets: ETH3D, DIODE, DDAD, DIML, Middlebury."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.data import benchmarks
from depth_anything_jax.data.benchmarks import BenchmarkError
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.file_formats.formats import FormatError
from tests.helpers.benchmark_files import RNG, check_records, npy, png16, write, write_image


def test_eth3d(tmp_path, monkeypatch):
    expected = {}
    for scene, name in (("courtyard", "DSC_0286"), ("office", "DSC_0219"), ("office", "DSC_0220")):
        # Some cameras write how they were held; the depth map does not turn with it.
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "DSC_0220" else 1
        image = tmp_path / scene / "images" / "dslr_images" / f"{name}.JPG"
        pixels = write_image(image, 6, 9, exif=exif)
        depth = RNG.uniform(0.5, 60, (6, 9)).astype(np.float32)
        depth[1, 2:4], depth[5, 8] = np.inf, np.nan
        write(
            tmp_path / scene / "ground_truth_depth" / "dslr_images" / f"{name}.JPG",
            depth.astype("<f4").tobytes(),
        )
        expected[f"{scene}/images/dslr_images/{name}.JPG"] = depth
    with pytest.raises(BenchmarkError, match="3 images .* where the split has 454"):
        benchmarks.make("eth3d", tmp_path)
    reader = benchmarks.make("eth3d", tmp_path, partial=True)
    check_records(reader, expected)
    assert np.abs(reader[2]["image"].astype(int) - pixels).max() < 12  # JPEG's loss
    assert [reader[i]["domain"] for i in range(3)] == ["outdoor", "indoor", "indoor"]
    # An image of another size: the depth map keeps the distorted image's.
    write_image(tmp_path / "office/images/dslr_images/DSC_0219.JPG", 4, 6)
    monkeypatch.setattr(benchmarks.READERS["eth3d"], "size", (6, 9))
    assert reader[1]["depth"].shape == (6, 9)
    label = tmp_path / "office/ground_truth_depth/dslr_images/DSC_0219.JPG"
    write(label, label.read_bytes()[:-4])
    with pytest.raises(FormatError, match=r"DSC_0219.JPG: 212 bytes are not 6x9 float32 \(216\)"):
        reader[1]
    write_image(label, 6, 9)
    with pytest.raises(BenchmarkError, match="is a photo where ETH3D's raw depth should be"):
        reader[1]
    with pytest.raises(BenchmarkError, match="images must be one of dslr_images, dslr_images_un"):
        benchmarks.make("eth3d", tmp_path, images="rig")


def test_eth3d_really_is_24_megapixels():
    assert benchmarks.READERS["eth3d"].size == (4032, 6048)


def test_diode(tmp_path):
    expected = {}
    for part, scene in (("indoors", "scene_00019"), ("outdoor", "scene_00022")):
        for n in (1, 2):
            stem = f"val/{part}/{scene}/scan_00183/00019_00183_{part}_000_0{n}0"
            write_image(tmp_path / f"{stem}.png")
            depth = RNG.uniform(0.6, 300, (6, 8, 1)).astype(np.float32)
            depth[0, 0] = 0
            mask = np.ones((6, 8))
            mask[3, :5] = 0  # depth there is not zero
            write(tmp_path / f"{stem}_depth.npy", npy(depth))
            write(tmp_path / f"{stem}_depth_mask.npy", npy(mask))
            expected[f"{stem}.png"] = depth[..., 0] * mask
    with pytest.raises(BenchmarkError, match="4 images .* where the split has 771"):
        benchmarks.make("diode", tmp_path)
    for split, count in (("indoor", 325), ("outdoor", 446)):
        with pytest.raises(BenchmarkError, match=f"2 images .* where the split has {count}"):
            benchmarks.make("diode", tmp_path, split=split)
    reader = benchmarks.make("diode", tmp_path, partial=True)
    check_records(reader, expected)
    assert [reader[i]["domain"] for i in range(4)] == ["indoor", "indoor", "outdoor", "outdoor"]
    assert reader[0]["scene"] == "scene_00019/scan_00183" and reader[0]["K"][1, 1] == 927.06
    outdoor = {k.removeprefix("val/"): v for k, v in expected.items() if "outdoor" in k}
    check_records(
        benchmarks.make("diode", tmp_path / "val", split="outdoor", partial=True), outdoor
    )
    mask = tmp_path / (list(expected)[0].removesuffix(".png") + "_depth_mask.npy")
    write(mask, npy(np.ones((6, 9))))
    with pytest.raises(FormatError, match=r"_depth_mask.npy: \(6, 9\), its depth \(6, 8\)"):
        reader[0]
    mask.unlink()
    with pytest.raises(BenchmarkError, match="1 masks are missing"):
        benchmarks.make("diode", tmp_path, partial=True)


def test_ddad(tmp_path):
    expected = {}
    for n in (1, 2, 10):
        write_image(tmp_path / f"{n}_rgb.png")
        depth = np.where(RNG.uniform(size=(6, 8)) < 0.3, RNG.uniform(1, 200, (6, 8)), 0)
        write(tmp_path / f"{n}_depth.npy", npy(depth))
        expected[f"{n}_rgb.png"] = depth
    with pytest.raises(BenchmarkError, match="3 images .* where the split has 3950"):
        benchmarks.make("ddad", tmp_path)
    check_records(benchmarks.make("ddad", tmp_path, partial=True), expected)
    chosen = tmp_path / "val.txt"
    write(chosen, f"{tmp_path}/10_rgb.png {tmp_path}/10_depth.npy\n1_rgb.png 1_depth.npy\n")
    reader = benchmarks.make("ddad", tmp_path, list_file=chosen, partial=True)
    check_records(reader, {k: v for k, v in expected.items() if k != "2_rgb.png"})
    write(chosen, "1_rgb.png\n")
    with pytest.raises(BenchmarkError, match=r"val.txt has \['1_rgb.png'\], not 'image depth'"):
        benchmarks.make("ddad", tmp_path, list_file=chosen)


def test_diml(tmp_path):
    expected, sure = {}, RNG.integers(0, 256, (6, 8)).astype(np.uint8)
    for name in ("a/color/1_c.png", "b/color/1_c.png"):
        path = tmp_path / "indoor/test/LR" / name
        write_image(path)
        values = RNG.integers(0, 3, (6, 8)) * 1500
        label = str(path).replace("/color/", "/depth_filled/").replace("_c.", "_depth_filled.")
        write(pathlib.Path(label), png16(values))
        expected[f"indoor/test/LR/{name}"] = values / np.float32(1000)
    write_image(tmp_path / "outdoor/test/LR/outleft/7.png")
    values = RNG.integers(1, 60000, (6, 8))
    write(tmp_path / "outdoor/test/LR/depthmap/7.png", png16(values))
    (tmp_path / "outdoor/test/LR/confidencemap").mkdir()
    Image.fromarray(sure).save(tmp_path / "outdoor/test/LR/confidencemap/7.png")
    outdoor = {"outdoor/test/LR/outleft/7.png": (values / np.float32(1000)).astype(np.float32)}
    with pytest.raises(BenchmarkError, match="3 images .* where the split has 1003"):
        benchmarks.make("diml", tmp_path)
    reader = benchmarks.make("diml", tmp_path, partial=True)
    check_records(reader, expected | outdoor)
    assert [reader[i]["domain"] for i in range(3)] == ["indoor", "indoor", "outdoor"]
    assert reader[1]["scene"] == "b"
    kept = {k: np.where(sure > 0.6 * 255, v, 0) for k, v in outdoor.items()}
    how = {"split": "outdoor", "partial": True}
    check_records(benchmarks.make("diml", tmp_path, confidence=0.6, **how), kept)
    with pytest.raises(BenchmarkError, match="confidence=60 is a share"):
        benchmarks.make("diml", tmp_path, confidence=60, **how)
    with pytest.raises(BenchmarkError, match="size must be one of LR, HR, got 'lr'"):
        benchmarks.make("diml", tmp_path, size="lr")


def test_middlebury(tmp_path):
    scenes = {"trainingQ/Adirondack": "disp0GT.pfm", "Piano-perfect": "disp0.pfm"}
    values = {}
    for scene, name in scenes.items():
        folder = tmp_path / scene
        pixels = write_image(folder / "im0.png")
        write_image(folder / "im1.png")
        disparity = RNG.uniform(2, 60, (6, 8)).astype(np.float32)
        disparity[2, 1:3], disparity[0, 0] = np.inf, 0
        file = io.BytesIO(b"Pf\n8 6\n-1\n")
        file.seek(0, 2)
        file.write(disparity[::-1].astype("<f4").tobytes())  # bottom row first
        write(folder / name, file.getvalue())
        doffs = "doffs=31.086\n" if name == "disp0.pfm" else ""
        write(
            folder / "calib.txt",
            f"cam0=[3979.9 0 1244.7; 0 3979.9 1019.5; 0 0 1]\ncam1=[1 0 0; 0 1 0; 0 0 1]\n{doffs}"
            "baseline=193.001\nwidth=8\nheight=6\n",
        )
        values[scene] = disparity
    reader = benchmarks.make("middlebury", tmp_path)
    assert [reader.key(i) for i in range(2)] == [
        "Piano-perfect/im0.png", "trainingQ/Adirondack/im0.png",
    ]  # fmt: skip
    for i, (scene, doffs) in enumerate((("Piano-perfect", 31.086), ("trainingQ/Adirondack", 0))):
        record, valid = reader[i], np.isfinite(values[scene]) & (values[scene] > 0)
        assert record["scene"] == scene
        assert "depth" not in record and record["shift_known"]
        np.testing.assert_array_equal(record["valid"], valid)
        shifted = (values[scene] + np.float32(doffs)).astype(np.float32)
        np.testing.assert_array_equal(record["disparity"], np.where(valid, shifted, 0))
        np.testing.assert_array_equal(record["K"][:2, 2], [1244.7, 1019.5])
    np.testing.assert_array_equal(reader[1]["image"], formats.read_image(
        tmp_path / "trainingQ/Adirondack/im0.png"
    ))  # fmt: skip
    assert pixels.shape == (6, 8, 3)
    write(tmp_path / "Piano-perfect" / "calib.txt", "doffs=1\n")
    with pytest.raises(FormatError, match="no line 'cam0="):
        reader[0]
    (tmp_path / "Piano-perfect" / "calib.txt").unlink()
    with pytest.raises(BenchmarkError, match=r"1 scenes .*lack their calib.txt \(Piano-perfect/"):
        benchmarks.make("middlebury", tmp_path)
    (tmp_path / "Piano-perfect" / "disp0.pfm").unlink()
    with pytest.raises(BenchmarkError, match="1 of 2 images lack a file.*Piano-perfect/disp0.pfm"):
        benchmarks.make("middlebury", tmp_path)
