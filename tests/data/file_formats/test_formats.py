"""Every label format against hand-made files; image decoding against cv2.imread; clear errors."""

import io
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.file_formats.formats import FormatError, LabelFormat
from tests.helpers.tiff_files import tiff

RNG = np.random.default_rng(0)
DEPTH = RNG.uniform(0.5, 12, (6, 9)).astype(np.float32)
DEPTH[2, 3] = 0


def npy(array, **arrays):
    file = io.BytesIO()
    np.savez(file, **arrays) if array is None else np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("fmt", "scale"), [("kitti", 256), ("nyu", 1000), ("tum", 5000), ("vkitti", 100)]
)
def test_sixteen_bit_conventions(tmp_path, fmt, scale):
    raw = np.round(DEPTH * scale).astype(np.uint16)
    path = tmp_path / "d.png"
    cv2.imwrite(str(path), raw)
    expected = raw.astype(np.float64) / scale
    for spec in (LabelFormat(fmt), LabelFormat("png16", scale), LabelFormat(None, scale)):
        got = formats.read_label(path, spec)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-7)  # one float32 rounding
    assert got[2, 3] == 0


def test_pgm_and_tiff_are_sixteen_bit_images_too(tmp_path):
    raw = np.round(DEPTH * 1000).astype(np.uint16)
    for name in ("d.pgm", "d.tiff"):
        cv2.imwrite(str(tmp_path / name), raw)
        got = formats.read_label(tmp_path / name, LabelFormat("nyu"))
        np.testing.assert_allclose(got, raw / 1000, rtol=1e-7)


def test_sky_of_renderers():
    raw = formats.encode_png(np.array([[100, 65534, 65535, 0]], np.uint16))
    spec = LabelFormat("vkitti")
    values, sky, _ = formats.decode_with_masks(raw, "d.png", spec)
    np.testing.assert_array_equal(sky, [[False, True, True, False]])
    np.testing.assert_array_equal(values, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(formats.decode_label(raw, "d.png", spec), values)
    data = npy(np.array([[3, 999, 1001, np.inf, np.nan]], np.float32))
    values, sky, _ = formats.decode_with_masks(data, "d.npy", LabelFormat(sky_above=1000))
    np.testing.assert_array_equal(sky, [[False, False, True, True, False]])
    np.testing.assert_array_equal(values, [[3, 999, 0, 0, 0]])
    assert spec.tells_sky and LabelFormat(sky_above=9).tells_sky and not LabelFormat().tells_sky


def test_sentinels_and_limits_are_invalid_and_no_sky():
    raw = np.array([[0, 200, 1000, 5000, 65000, 65535]], np.uint16)
    data = formats.encode_png(raw)

    def decode(fmt="nyu", kind="depth", **fields):
        return formats.decode_with_masks(data, "d.png", LabelFormat(fmt, **fields), kind)

    def expect(label, values, sky=(), invalid=()):
        np.testing.assert_array_equal(label.values, np.float32([values]))
        np.testing.assert_array_equal(np.flatnonzero(label.sky), sky)
        np.testing.assert_array_equal(np.flatnonzero(label.invalid), invalid)

    expect(decode(), [0, 0.2, 1, 5, 65, 65.535])
    expect(decode(invalid=(65535,)), [0, 0.2, 1, 5, 65, 0], invalid=[5])
    expect(decode(invalid=(65535, 200)), [0, 0, 1, 5, 65, 0], invalid=[1, 5])
    expect(decode(min_depth=0.5, max_depth=60), [0, 0, 1, 5, 0, 0], invalid=[0, 1, 4, 5])
    expect(decode(max_depth=10, sky_above=65.2), [0, 0.2, 1, 5, 0, 0], sky=[5], invalid=[4])
    expect(decode("vkitti", invalid=(65535,)), [0, 2, 10, 50, 650, 0], invalid=[5])
    expect(decode("vkitti"), [0, 2, 10, 50, 650, 0], sky=[5])
    expect(decode("png16", "disparity", scale=1, invalid=(65535,)), [*raw[0, :5], 0], invalid=[5])
    values = np.array([[np.nan, np.inf, -1, -9999, 3.4028235e38, 2]], np.float32)
    data = npy(values)
    label = formats.decode_with_masks(data, "d.npy", LabelFormat(invalid=(3.4028235e38,)))
    expect(label, [0, 0, 0, 0, 0, 2], invalid=[0, 1, 2, 3, 4])
    label = formats.decode_with_masks(data, "d.npy", LabelFormat(invalid=(-9999,), absolute=True))
    expect(label, [0, 0, 1, 0, 3.4028235e38, 2], invalid=[0, 1, 3])


def test_sunrgbd_bits_are_rotated_back():
    depth_mm = RNG.integers(1, 2**13, (5, 7)).astype(np.uint16)
    stored = (depth_mm << 3) | (depth_mm >> 13)
    data = formats.encode_png(stored)
    got = formats.decode_label(data, "d.png", LabelFormat("sunrgbd_png16"))
    np.testing.assert_allclose(got, depth_mm / 1000, rtol=1e-7)


def test_eight_bit_disparity():
    raw = RNG.integers(0, 256, (4, 5), np.uint8)
    data = formats.encode_png(raw)
    got = formats.decode_label(data, "d.png", LabelFormat("png8"), "disparity")
    np.testing.assert_array_equal(got, raw)
    got = formats.decode_label(data, "d.png", LabelFormat("png8", scale=4, offset=2))
    np.testing.assert_allclose(got, np.where(raw > 0, raw / 4 + 2, 0), rtol=1e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_numpy_files(dtype):
    values = DEPTH.astype(dtype)
    metres = LabelFormat(scale=1)
    data = npy(values)
    got = formats.decode_label(data, "d.npy", metres)
    np.testing.assert_array_equal(got, values.astype(np.float32))
    data = npy(None, depth=values, other=values + 1)
    got = formats.decode_label(data, "d.npz", LabelFormat(field="depth", scale=1))
    np.testing.assert_array_equal(got, values.astype(np.float32))
    for stacked in (values[None], values[..., None]):
        assert formats.decode_label(npy(stacked), "d.npy", metres).shape == (6, 9)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_whole_numbers_of_depth_need_a_scale(dtype):
    """Read as metres, 8-bit maps that are bright where near would train inverted."""
    values = np.array([[0, 3, 200]], dtype)
    files = [("d.npy", npy(values), None), ("d.npz", npy(None, depth=values), None)]
    if dtype == np.uint8:
        files.append(("d.png", formats.encode_png(values), "png8"))
    for name, data, fmt in files:
        with pytest.raises(FormatError, match=f"{name}: .*needs 'scale'.*kind=disparity"):
            formats.decode_label(data, name, LabelFormat(fmt))
        got = formats.decode_label(data, name, LabelFormat(fmt), "disparity")
        np.testing.assert_array_equal(got, [[0, 3, 200]])
        got = formats.decode_label(data, name, LabelFormat(fmt, scale=100))
        np.testing.assert_array_equal(got, np.float32([[0, 0.03, 2]]))
    assert formats.decode_label(npy(values.astype(np.float64)), "d.npy")[0, 2] == 200  # metres


def test_non_finite_and_negative_values_are_invalid():
    values = np.array([[np.nan, np.inf, -np.inf, -2, 0, 3]], np.float32)
    np.testing.assert_array_equal(formats.decode_label(npy(values), "d.npy"), [[0, 0, 0, 0, 0, 3]])
    got = formats.decode_label(npy(values), "d.npy", LabelFormat(absolute=True))
    np.testing.assert_array_equal(got, [[0, 0, 0, 2, 0, 3]])


def test_pfm_round_trip_and_byte_order():
    np.testing.assert_array_equal(formats.decode_pfm(formats.encode_pfm(DEPTH)), DEPTH)
    big = b"Pf\n9 6\n1.0\n" + DEPTH[::-1].astype(">f4").tobytes()
    np.testing.assert_array_equal(formats.decode_label(big, "d.pfm"), DEPTH)
    colour = np.repeat(DEPTH[::-1, :, None], 3, 2).astype("<f4")
    np.testing.assert_array_equal(formats.decode_pfm(b"PF 9 6 -0.5\n" + colour.tobytes()), DEPTH)


def test_pfm_pixels_may_look_like_whitespace():
    values = np.frombuffer(b"\n\n\n\n    ", "<f4").reshape(1, 2)
    data = b"Pf\n2 1\n-1.0\n" + values.tobytes()
    np.testing.assert_array_equal(formats.decode_pfm(data), values)


def test_a_jpeg_cut_behind_its_thumbnail_is_truncated():
    """OpenCV 4 fills the rest with grey and says nothing; the thumbnail ends like a whole JPEG."""
    picture = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (400, 300))
    small, whole = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture[:40, :40]).save(small, "JPEG")
    Image.fromarray(picture).save(whole, "JPEG", exif=b"Exif\0\0" + small.getvalue())
    data = whole.getvalue()
    behind = data.find(small.getvalue()) + len(small.getvalue())
    assert formats.decode_image(data).shape == (300, 400, 3)
    assert formats.decode_image(data + b"a video of a phone").shape == (300, 400, 3)
    for length in (behind, behind + 300, behind + 1500):
        with pytest.raises(FormatError, match=r"p\.jpg: truncated"):
            formats.decode_image(data[:length], "p.jpg")


def test_pfm_agrees_with_opencv(tmp_path):
    path = tmp_path / "d.pfm"
    path.write_bytes(formats.encode_pfm(DEPTH))
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), DEPTH)


@pytest.mark.parametrize(
    ("data", "name", "spec", "message"),
    [
        (formats.encode_png(np.ones((3, 4), np.uint16)), "a.png", LabelFormat(), "needs 'scale'"),
        (formats.encode_png(np.ones((3, 4), np.uint8)), "a.png", LabelFormat("nyu"), "holds uint8"),
        (formats.encode_png(np.ones((3, 4), np.uint16)), "a.png", LabelFormat("png8", 9), "16"),
        (
            formats.encode_png(RNG.integers(0, 255, (3, 4, 3), np.uint8)),
            "a.png",
            LabelFormat("nyu"),
            "colour-mapped",
        ),
        (b"hello", "a.png", LabelFormat("nyu"), "not an image"),
        (b"hello", "a.pfm", LabelFormat(), "no PFM header"),
        (formats.encode_pfm(DEPTH)[:-1], "a.pfm", LabelFormat(), "truncated PFM"),
        (npy(DEPTH)[:-1], "a.npy", LabelFormat(), "not a NumPy file"),
        (npy(None, a=DEPTH, b=DEPTH), "a.npz", LabelFormat(), r"arrays \['a', 'b'\]"),
        (npy(None, a=DEPTH), "a.npz", LabelFormat(field="depth"), "no array 'depth'"),
        (npy(np.ones((2, 3, 4))), "a.npy", LabelFormat(), r"\(2, 3, 4\)"),
        (b"", "a.exr", LabelFormat(), "suffix '.exr'"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_labels_are_named(data, name, spec, message):
    with pytest.raises(FormatError, match=f"a.*{message}"):
        formats.decode_label(data, name, spec)


def test_label_tiffs_that_decoders_misread_are_refused():
    """Where white is zero OpenCV gives 16-bit TIFFs as stored, 8-bit ones as 255 - x."""
    for dtype, fmt in ((np.uint8, "png8"), (np.uint16, "png16")):
        values = RNG.integers(1, 200, (6, 9, 1)).astype(dtype)
        spec = LabelFormat(fmt, 1)
        got = formats.decode_label(tiff(values), "d.tif", spec)
        np.testing.assert_array_equal(got, values[..., 0])
        with pytest.raises(FormatError, match="d.tif: a TIFF whose white is zero"):
            formats.decode_label(tiff(values, white_is_zero=True), "d.tif", spec)
        thumbnail = tiff(values[:2, :3], tags=[(254, 4, 1)], after=[(values, ())])
        with pytest.raises(FormatError, match="d.tif: the first image .* thumbnail"):
            formats.decode_label(thumbnail, "d.tif", spec)


def test_labels_that_are_small_on_disk_and_huge_in_memory_are_refused(tmp_path, monkeypatch):
    """By their headers: unpacking is not begun."""
    zeros = np.zeros((1000, 2000), np.float32)
    packed = io.BytesIO()
    np.savez_compressed(packed, depth=zeros, other=np.ones((2, 3), np.float32))
    lying = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(lying, header)
    files = {
        "a.npz": (packed.getvalue(), LabelFormat(field="depth")),
        "a.npy": (npy(zeros), LabelFormat()),
        "a.png": (formats.encode_png(zeros.astype(np.uint16)), LabelFormat("nyu")),
        "b.png": (formats.encode_png(zeros.astype(np.uint8)), LabelFormat("png8", 1)),
        "a.tif": (tiff(zeros[..., None].astype(np.uint16)), LabelFormat("nyu")),
        "a.pfm": (formats.encode_pfm(zeros), LabelFormat()),
    }
    for name, (data, spec) in files.items():
        assert formats.decode_label(data, name, spec).shape == zeros.shape
    monkeypatch.setattr(formats.decoding_limits, "MAX_MAP", zeros.nbytes - 1)
    tracemalloc.start()
    for name, (data, spec) in files.items():
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        message = f"{name}: would take 8 MiB of memory .*limit is 8 MiB"
        with pytest.raises(FormatError, match=message):
            formats.decode_label(data, name, spec)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < 2 * len(data) + 200_000, name  # the file itself, at most
    tracemalloc.stop()
    with pytest.raises(FormatError, match="would take 3,814,697 MiB"):
        formats.decode_label(lying.getvalue(), "b.npy")
    for name in ("a.npz", "a.png", "a.tif"):
        (tmp_path / name).write_bytes(files[name][0])
        with pytest.raises(FormatError, match=f"{name}: (would take|holds the arrays)"):
            formats.read_mask(tmp_path / name)


def test_a_label_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "d.npy"
    with open(path, "wb") as file:
        file.truncate(formats.decoding_limits.MAX_FILE + 1)  # sparse
    with pytest.raises(FormatError, match="d.npy: 1.1 GB, more than"):
        formats.read_label(path)


def test_bad_descriptions_are_refused():
    with pytest.raises(FormatError, match="'kiti'.*kitti"):
        LabelFormat("kiti")
    with pytest.raises(FormatError, match="positive"):
        LabelFormat("png16", 0.0)
    with pytest.raises(FormatError, match="min_depth must be a positive depth"):
        LabelFormat("nyu", min_depth=0)
    with pytest.raises(FormatError, match="min_depth=5 must be below max_depth=5"):
        LabelFormat("nyu", min_depth=5, max_depth=5)


# --- images ------------------------------------------------------------------------------------


def photo(height=20, width=30, channels=3, dtype=np.uint8):
    top = np.iinfo(dtype).max
    shape = (height, width, channels) if channels else (height, width)
    return RNG.integers(0, top, shape, dtype, endpoint=True)


def test_images_decode_as_cv2_imread_does(tmp_path):
    files = {
        "rgb.png": photo(),
        "alpha.png": photo(channels=4),
        "grey.png": photo(channels=0),
        "deep.png": photo(dtype=np.uint16),
        "rgb.jpg": photo(),
        "rgb.bmp": photo(),
        "rgb.tiff": photo(),
    }
    for name, pixels in files.items():
        cv2.imwrite(str(tmp_path / name), pixels)
        got = formats.read_image(tmp_path / name)
        assert got.dtype == np.uint8 and got.shape == (20, 30, 3)
        np.testing.assert_array_equal(got, cv2.imread(str(tmp_path / name))[..., ::-1], name)
    np.testing.assert_array_equal(
        formats.read_image(tmp_path / "rgb.png"), files["rgb.png"][..., ::-1]
    )


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(photo())
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to show
    image.save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    got = formats.read_image(tmp_path / "turned.jpg")
    assert got.shape == (30, 20, 3)
    np.testing.assert_array_equal(got, cv2.imread(str(tmp_path / "turned.jpg"))[..., ::-1])
    assert not formats.is_plain_rgb((tmp_path / "turned.jpg").read_bytes())


def test_plain_rgb_is_recognised():
    def png(image):
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    assert formats.is_plain_rgb(png(Image.fromarray(photo())))
    assert not formats.is_plain_rgb(png(Image.fromarray(photo(channels=4))))
    assert not formats.is_plain_rgb(png(Image.fromarray(photo(channels=0))))
    assert not formats.is_plain_rgb(png(Image.fromarray(photo()).convert("P")))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_images_are_errors(tmp_path, suffix):
    ok, encoded = cv2.imencode(suffix, photo(200, 300))
    assert ok
    data = encoded.tobytes()
    assert formats.decode_image(data).shape == (200, 300, 3)
    with pytest.raises(FormatError, match="a/b.*truncated"):
        formats.decode_image(data[: len(data) * 2 // 3], "a/b")
    # A photo with a video behind its end marker is whole.
    assert formats.decode_image(data + b"\0" * 9000).shape == (200, 300, 3)


def test_no_image_and_empty_file(tmp_path):
    with pytest.raises(FormatError, match="x.jpg.*not an image"):
        formats.decode_image(b"<html>404</html>", "x.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(FormatError, match="empty.jpg.*empty"):
        formats.read_image(tmp_path / "empty.jpg")


def test_masks(tmp_path):
    mask = photo(6, 7, 0) > 128
    cv2.imwrite(str(tmp_path / "m.png"), mask.astype(np.uint8) * 255)
    cv2.imwrite(str(tmp_path / "ids.png"), mask.astype(np.uint16) * 3)
    np.save(tmp_path / "m.npy", mask[..., None])
    for name in ("m.png", "ids.png", "m.npy"):
        np.testing.assert_array_equal(formats.read_mask(tmp_path / name), mask, name)
    np.save(tmp_path / "bad.npy", np.zeros((2, 3, 4)))
    with pytest.raises(FormatError, match="bad.npy"):
        formats.read_mask(tmp_path / "bad.npy")
