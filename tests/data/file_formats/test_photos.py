"""Pictures of every kind that phones and tools write; ordinary ones as training reads them."""

import io
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, features

from depth_anything_jax.data.file_formats import decoding_limits, formats, photos
from depth_anything_jax.data.file_formats.formats import FormatError
from tests.helpers.tiff_files import tiff

RNG = np.random.default_rng(0)
RGB = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (40, 24), interpolation=2)  # smooth
GREY = RGB[..., 0]
# orientation: how an upright picture is stored (EXIF 2.32, 4.6.4)
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}


def save(image, fmt, **options) -> bytes:
    file = io.BytesIO()
    image = (
        image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    )
    image.save(file, fmt, **options)
    return file.getvalue()


def heic(image, **options) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra [heic]")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(np.ascontiguousarray(image))).save(file, **options)
    return file.getvalue()


def oriented(value: int, **tags) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    exif.get_ifd(0x8769).update({int(k, 16): v for k, v in tags.items()})
    return exif


def png16(values: np.ndarray) -> bytes:
    """A 16-bit PNG written by hand: grey, grey + alpha, RGB or RGBA by its last axis."""
    h, w, c = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[c]
    out = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0)
    for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out += struct.pack(">I", len(body)) + name + body
        out += struct.pack(">I", zlib.crc32(name + body))
    return out


def tiff16(values: np.ndarray, orientation: int) -> bytes:
    """A 16-bit RGB TIFF written by hand: Pillow writes none, OpenCV no orientation."""
    h, w, _ = values.shape
    pixels = values.astype("<u2").tobytes()
    bits_at = 8 + 2 + 11 * 12 + 4
    tags = [
        (256, 3, 1, w), (257, 3, 1, h), (258, 3, 3, bits_at), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, bits_at + 6), (274, 3, 1, orientation), (277, 3, 1, 3), (278, 3, 1, h),
        (279, 4, 1, len(pixels)), (284, 3, 1, 1),
    ]  # fmt: skip
    out = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag in tags:
        out += struct.pack("<HHII", *tag)
    return out + struct.pack("<I", 0) + struct.pack("<HHH", 16, 16, 16) + pixels


def ink_profile(lab: tuple[int, int, int]) -> bytes:
    """An ICC profile of CMYK in which every ink has one colour (bytes of L*, a*, b*)."""
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    table += b"".join(struct.pack(">i", v) for v in (65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    table += 4 * ramp + 16 * bytes(lab) + 3 * ramp
    text = b"text" + bytes(4) + b"none\0"
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"none\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    bodies = {b"A2B0": table, b"cprt": text, b"desc": name, b"wtpt": white}
    at, index, body = 128 + 4 + 12 * len(bodies), b"", b""
    for tag, content in bodies.items():
        content += bytes(-len(content) % 4)
        index += tag + struct.pack(">II", at + len(body), len(content))
        body += content
    head = bytes(4) + struct.pack(">I", 0x02400000) + b"prtrCMYKLab " + bytes(12) + b"acsp"
    head = bytes(4) + head[4:] + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    head = (struct.pack(">I", at + len(body)) + bytes(4) + head[4:]).ljust(128, b"\0")
    return head + struct.pack(">I", len(bodies)) + index + body


@pytest.mark.parametrize(
    "data",
    [
        save(RGB, "JPEG", quality=90),
        save(RGB, "JPEG", quality=90, exif=oriented(6)),
        save(RGB, "JPEG", progressive=True),
        save(GREY, "JPEG"),
        save(RGB, "PNG"),
        save(GREY, "PNG"),
        save(RGB, "PNG", exif=oriented(8)),
        save(np.dstack([RGB, GREY]), "PNG"),
        save(Image.fromarray(RGB).convert("P"), "PNG"),
        save(Image.fromarray(GREY).convert("1"), "PNG"),
        save(RGB, "BMP"),
        save(RGB, "TIFF"),
        save(RGB, "PPM"),
        save(RGB, "WEBP", lossless=True),
        save(RGB, "WEBP", quality=80),
    ],
    ids=lambda data: ascii(data[:4].decode("latin-1")),
)
def test_ordinary_pictures_are_those_of_training_and_of_opencv(data, tmp_path):
    path = tmp_path / "picture.any"
    path.write_bytes(data)
    got = photos.read(path).image
    np.testing.assert_array_equal(got, formats.decode_image(data))
    np.testing.assert_array_equal(got, cv2.imread(str(path))[..., ::-1])
    np.testing.assert_array_equal(got, photos.read(data).image)
    assert got.flags.c_contiguous and got.flags.writeable


@pytest.mark.parametrize("orientation", STORED)
def test_all_orientations_in_every_format(orientation):
    stored, exif = STORED[orientation](RGB), oriented(orientation)
    for fmt in ("PNG", "TIFF", "WEBP", "JPEG"):
        lossless = {"lossless": True} if fmt == "WEBP" else {}
        data = save(stored, fmt, exif=exif, **lossless)
        got, facts = photos.read(data)
        assert facts.orientation == orientation
        if fmt == "JPEG":
            np.testing.assert_array_equal(got, formats.decode_image(data))
        else:
            np.testing.assert_array_equal(got, RGB, err_msg=fmt)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_and_avif_are_turned_once(orientation):
    smooth = cv2.resize(RGB, (128, 64))
    stored, exif = STORED[orientation](smooth), oriented(orientation)
    pictures = [heic(stored, exif=exif.tobytes(), quality=95)]
    if features.check("avif"):
        pictures.append(save(stored, "AVIF", exif=exif, quality=95))
    for data in pictures:
        got, facts = photos.read(data)
        assert got.shape == smooth.shape and facts.orientation == orientation
        # lossy: far nearer to the picture than to any other way up
        assert np.abs(got.astype(int) - smooth).mean() < 6
        assert np.abs(got[::-1].astype(int) - smooth).mean() > 20


def test_heic_without_the_extra_names_it(monkeypatch):
    data = heic(RGB)
    assert photos.read(data).facts.format == "HEIF"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(FormatError, match=r"IMG_1\.jpg: a HEIC picture.*\[heic\]"):
        photos.read(data, name="IMG_1.jpg")


def test_avif_without_a_pillow_that_reads_it(monkeypatch):
    data = b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B" + bytes(100)
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(FormatError, match=r"a\.avif: .*11\.3"):
        photos.read(data, name="a.avif")


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.arange(65536).astype(np.uint16).reshape(256, 256)
    expected = np.round(ramp / 257).astype(np.uint8)
    colour = np.dstack([ramp, ramp[::-1], ramp.T])
    expected_colour = np.dstack([expected, expected[::-1], expected.T])
    alpha = np.full((256, 256, 1), 1000, np.uint16)
    grey = np.repeat(expected[..., None], 3, axis=2)
    ok, tiff = cv2.imencode(".tiff", colour[..., ::-1])
    assert ok
    for data, want in [
        (png16(ramp[..., None]), grey),
        (png16(np.dstack([ramp[..., None], alpha])), grey),
        (png16(colour), expected_colour),
        (png16(np.dstack([colour, alpha])), expected_colour),
        (save(ramp, "TIFF"), grey),
        (b"P5\n256 256\n65535\n" + ramp.astype(">u2").tobytes(), grey),
        (tiff.tobytes(), expected_colour),
    ]:
        got, facts = photos.read(data)
        np.testing.assert_array_equal(got, want)
        assert facts.bits == 16 and any("16 bits" in n for n in facts.notes)


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_of_sixteen_bit_colour(orientation):
    """OpenCV decodes these; whether it turns them is its affair and depends on the format."""
    stored = STORED[orientation](RGB).astype(np.uint16) * 257
    np.testing.assert_array_equal(photos.read(tiff16(stored, orientation)).image, RGB)
    data = png16(stored)
    exif = oriented(orientation).tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + exif
    at = data.find(b"IDAT") - 4
    chunk = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    np.testing.assert_array_equal(photos.read(data[:at] + chunk + data[at:]).image, RGB)


def test_palette_alpha_and_grey():
    palette = Image.fromarray(RGB).quantize(16)
    want = np.asarray(palette.convert("RGB"))
    for data in (save(palette, "PNG"), save(palette, "PNG", transparency=3), save(palette, "GIF")):
        np.testing.assert_array_equal(photos.read(data).image, want)
    for mode in ("RGBA", "LA"):
        image = Image.fromarray(RGB if mode == "RGBA" else GREY)
        image.putalpha(Image.fromarray(GREY))
        got, facts = photos.read(save(image, "PNG"))
        # the colours below a transparent pixel stay: cv2.imread, and so the official code, does so
        np.testing.assert_array_equal(got, RGB if mode == "RGBA" else np.dstack([GREY] * 3))
        assert facts.alpha and facts.mode == mode and "transparency" in facts.notes[0]


def test_cmyk():
    ink = Image.fromarray(RGB).convert("CMYK")
    for data in (save(ink, "JPEG", quality=100, subsampling=0), save(ink, "TIFF")):
        got, facts = photos.read(data)
        assert facts.mode == "CMYK"
        # Pillow's CMYK is the plain complement; JPEG at quality 100 moves a value by a few steps
        assert np.abs(got.astype(int) - RGB).max() <= 6
    broken = save(ink, "TIFF", icc_profile=b"no profile")
    np.testing.assert_array_equal(photos.read(broken).image, np.asarray(ink.convert("RGB")))


def test_animations_give_their_first_frame_and_say_so():
    frames = [Image.fromarray(np.full((8, 9, 3), v, np.uint8)) for v in (10, 100, 200)]
    for fmt in ("GIF", "PNG", "WEBP", "TIFF"):
        data = save(frames[0], fmt, save_all=True, append_images=frames[1:])
        got, facts = photos.read(data)
        assert facts.frames == 3 and "3 images: the first" in facts.notes[0], fmt
        assert np.abs(got.astype(int) - 10).max() <= 1  # lossy WebP
    mpo = save(frames[0], "MPO", save_all=True, append_images=frames[1:2])
    got, facts = photos.read(mpo)
    assert facts.format == "MPO" and not facts.notes and np.abs(got.astype(int) - 10).max() <= 1


@pytest.mark.parametrize(
    "fmt", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "HEIC"]
)
def test_truncated_files_are_refused(fmt):
    picture = RNG.integers(0, 256, (64, 96, 3), np.uint8)
    data = heic(picture) if fmt == "HEIC" else save(picture, fmt)
    photos.read(data)
    for share in (0.97, 0.5, 0.1):
        with pytest.raises(FormatError, match=r"holiday\.jpg"):
            photos.read(data[: int(share * len(data))], name="holiday.jpg")


def test_a_jpeg_cut_behind_its_thumbnail():
    """The thumbnail inside the EXIF block ends like a whole JPEG does."""
    thumbnail = save(RGB, "JPEG")
    data = save(cv2.resize(RGB, (400, 300)), "JPEG", exif=b"Exif\0\0" + thumbnail)
    start = data.find(thumbnail) + len(thumbnail)
    with pytest.raises(FormatError, match="phone"):
        photos.read(data[: start + 2000], name="phone")


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("grey", [False, True])
def test_a_jpeg_without_its_end_marker_is_whole_only_if_its_pixels_are(grey, options):
    """Some cameras and servers leave the marker out."""
    # Of twenty pictures, because how many bits the last byte holds decides what is hard to see.
    for seed in range(20):
        rng = np.random.default_rng(seed)
        picture = rng.integers(0, 256, (64, 96) if grey else (64, 96, 3), np.uint8)
        data = save(picture, "JPEG", **options)
        whole = formats.decode_image(data)
        for missing in (1, 2, 4, 5, 9):
            try:
                found = formats.decode_image(data[:-missing])
            except FormatError:
                assert missing > 2
            else:
                np.testing.assert_array_equal(found, whole)
    for missing in (1, 2):
        np.testing.assert_array_equal(
            photos.read(data[:-missing]).image, formats.decode_image(data)
        )
        assert formats.decode_image(data[:-missing]).shape == (64, 96, 3)
        assert formats.is_plain_rgb(data) == (not grey)
        assert not formats.is_plain_rgb(data[:-missing])  # other readers may refuse it
    zeros = data[: len(data) // 2] + bytes(len(data) // 2)  # a broken-off download on some disks
    for broken in (zeros, *(data[:-missing] for missing in (100, 1000))):
        with pytest.raises(FormatError, match="p.jpg: truncated"):
            photos.read(broken, name="p.jpg")
        with pytest.raises(FormatError, match="p.jpg: truncated"):
            formats.decode_image(broken, "p.jpg")


def test_a_progressive_jpeg_without_its_end_marker_may_lack_a_scan():
    data = save(RNG.integers(0, 256, (64, 96, 3), np.uint8), "JPEG", progressive=True)
    last_scan = data.rfind(b"\xff\xda")
    for end in (last_scan, len(data) - 2):
        with pytest.raises(FormatError, match="p.jpg: truncated"):
            photos.read(data[:end], name="p.jpg")


def test_damage_in_the_middle_of_a_png():
    data = bytearray(save(RNG.integers(0, 256, (64, 96, 3), np.uint8), "PNG"))
    data[5000:5010] = bytes(10)
    with pytest.raises(FormatError, match="p.png"):
        photos.read(bytes(data), name="p.png")


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (50, 1, 3)])
def test_one_pixel(shape):
    picture = np.full(shape, 77, np.uint8)
    for fmt in ("PNG", "BMP", "GIF", "TIFF"):
        np.testing.assert_array_equal(photos.read(save(picture, fmt)).image, picture)


def test_large_pictures_are_refused_before_decoding(tmp_path):
    panorama = save(np.zeros((4096, 8192), np.uint8), "PNG")
    assert photos.read(panorama).image.shape == (4096, 8192, 3)
    with pytest.raises(FormatError, match=r"8192x4096 is 34 million pixels.*max_pixels"):
        photos.read(panorama, max_pixels=10_000_000)
    # a header that announces 65,535 x 65,535 pixels and holds nothing
    bomb = bytearray(save(np.zeros((1, 1), np.uint8), "PNG"))
    bomb[16:24] = struct.pack(">II", 65535, 65535)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(FormatError, match="4295 million pixels"):
        photos.read(bytes(bomb))
    assert Image.MAX_IMAGE_PIXELS == limit is not None
    huge = tmp_path / "huge.jpg"
    with open(huge, "wb") as file:
        file.truncate(decoding_limits.MAX_FILE + 1)  # sparse
    with pytest.raises(FormatError, match="huge.jpg: 1.1 GB"):
        photos.read(huge)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(
    ("channels", "white_is_zero"),
    [(1, False), (1, True), (2, False), (2, True), (3, False), (4, False)],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiffs_of_every_layout_are_right_or_refused(dtype, channels, white_is_zero, planar):
    white = np.iinfo(dtype).max
    stored = RNG.integers(0, white, (6, 8, channels), dtype, endpoint=True)
    if channels in (2, 4):
        stored[..., -1] = white  # opaque
    colours = stored[..., :3] if channels >= 3 else np.repeat(stored[..., :1], 3, 2)
    expected = np.round(colours / (white / 255)).astype(int)
    if white_is_zero:
        expected = 255 - expected
    data = tiff(stored, planar=planar, white_is_zero=white_is_zero)
    try:
        got = photos.read(data, name="a.tif").image
    except FormatError as error:
        assert channels == 2 or (planar and channels == 1), error
        kind = f"a.tif: a TIFF of a kind that cannot be read ({channels} channels of "
        assert kind in str(error)
    else:
        assert np.abs(got - expected).max() <= (1 if dtype == np.uint16 else 0)


def test_twelve_bits_are_not_taken_for_sixteen():
    values = RNG.integers(0, 4096, (6, 8), np.uint16)
    values[0, 0] = 4095
    packed = np.zeros((6, 12), np.uint8)  # two values in three bytes
    packed[:, 0::3], packed[:, 2::3] = values[:, 0::2] >> 4, values[:, 1::2] & 255
    packed[:, 1::3] = ((values[:, 0::2] & 15) << 4) | (values[:, 1::2] >> 8)
    data = tiff(packed[..., None], bits=12).replace(
        struct.pack("<HHIHH", 256, 3, 1, 12, 0), struct.pack("<HHIHH", 256, 3, 1, 8, 0)
    )
    got, facts = photos.read(data)
    assert facts.bits == 12 and got[0, 0, 0] == 255
    np.testing.assert_allclose(got[..., 0], values / 4095 * 255, atol=0.51)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_jpeg_2000(channels):
    stored = RNG.integers(0, 65536, (48, 64, channels), np.uint16)
    stored[:8] = 65535  # Pillow's 8 bits of it overflow
    ok, data = cv2.imencode(".jp2", stored, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert ok
    exact = cv2.imdecode(data, cv2.IMREAD_UNCHANGED).reshape(stored.shape)
    got, facts = photos.read(data.tobytes())
    assert facts.bits == 16 and (got[:6] == 255).all()
    expected = np.repeat(exact, 3, 2) if channels == 1 else exact[..., ::-1]
    np.testing.assert_allclose(got, expected / 257, atol=0.51)


def test_pictures_that_training_would_misread_are_refused_too(tmp_path):
    small = np.zeros((2, 3, 3), np.uint8)
    ok, radiance = cv2.imencode(".hdr", RNG.uniform(0, 9, (4, 5, 3)).astype(np.float32))
    assert ok
    cases = {
        "grey.tif": (tiff(np.ones((4, 5, 1), np.float32)), "a floating-point TIFF"),
        "rgb.tif": (tiff(np.ones((4, 5, 3), np.float32)), "a floating-point TIFF"),
        "a.hdr": (radiance.tobytes(), "a Radiance HDR"),
        "a.pfm": (formats.encode_pfm(np.ones((4, 5), np.float32)), "a PFM"),
        "two.tif": (tiff(small, tags=[(254, 4, 1)], after=[(RGB, ())]), "thumbnail before"),
        "raw.tif": (tiff(small, tags=[(0xC612, 4, 1)]), "camera raw"),
    }
    for name, (data, message) in cases.items():
        for read in (lambda d, n: photos.read(d, name=n), formats.decode_image):
            with pytest.raises(FormatError, match=f"{name}: .*{message}"):
                read(data, name)
    pyramid = tiff(RGB, after=[(small, [(254, 4, 1)])])  # the smaller ones behind are no harm
    np.testing.assert_array_equal(photos.read(pyramid).image, RGB)


def test_what_is_no_picture(tmp_path):
    cases = {
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"hello, I am a text\n" * 20, "begin with 'hello, I am a text"),
        "page.png": (b"<!DOCTYPE html><html></html>", "begin with '<!DOCTYPE html"),
        "video.jpg": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(50), "a video"),
        "noise.webp": (RNG.integers(0, 256, 500, np.uint8).tobytes(), "not a picture"),
        "float.tif": (save(GREY.astype(np.float32), "TIFF"), "floating-point"),
        "int32.tif": (save(GREY.astype(np.int32), "TIFF"), "32-bit"),
        "raw.dng": (save(RGB, "TIFF", tiffinfo={254: 1}), "camera raw"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FormatError, match=name) as error:
            photos.read(tmp_path / name)
        assert message in str(error.value)
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(FormatError, match="folder.jpg: is a folder"):
        photos.read(tmp_path / "folder.jpg")
    with pytest.raises(FormatError, match="gone.jpg: cannot be read"):
        photos.read(tmp_path / "gone.jpg")


def test_the_suffix_does_not_matter(tmp_path):
    for name, data in (("a.png", save(RGB, "JPEG")), ("b.jpg", heic(RGB)), ("c", save(RGB, "BMP"))):
        (tmp_path / name).write_bytes(data)
        assert photos.read(tmp_path / name).image.shape == RGB.shape


def test_focal_lengths():
    facts = photos.read(save(RGB, "JPEG", exif=oriented(6, **{"0xa405": 26}))).facts
    focal, source = facts.focal_pixels(4032, 3024)
    # an iPhone's main camera: 26 mm against the 43.27 mm of the diagonal, which is 5040 pixels
    assert focal == pytest.approx(26 * 5040 / 43.2666, rel=1e-5) and "26 mm on 35 mm" in source
    # 50 mm on a sensor of 36 x 24 mm, in pixels per cm of the stored, lying picture; standing here
    tags = {"0x920a": 50.0, "0xa20e": 40 / 3.6, "0xa20f": 24 / 2.4, "0xa210": 3,
            "0xa002": 40, "0xa003": 24}  # fmt: skip
    for orientation in (1, 6):
        facts = photos.read(save(RGB, "JPEG", exif=oriented(orientation, **tags))).facts
        sides = (24, 36) if orientation == 1 else (36, 24)
        assert facts.sensor_mm == pytest.approx(sides, rel=1e-3)
        focal, source = facts.focal_pixels(*(sides[0] * 100, sides[1] * 100))
        assert focal == pytest.approx(5000, rel=1e-3) and "50 mm on a sensor" in source
    for tags in ({}, {"0xa405": 0}, {"0x920a": 50.0}):
        facts = photos.read(save(RGB, "JPEG", exif=oriented(1, **tags))).facts
        assert facts.focal_pixels(10, 10) is None
    assert (
        photos.read(heic(RGB, exif=oriented(1, **{"0xa405": 24}).tobytes())).facts.focal_35mm == 24
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_no_harm():
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b""):
        data = save(RGB, "JPEG", exif=exif)
        got, facts = photos.read(data)
        np.testing.assert_array_equal(got, formats.decode_image(data))
        assert facts.orientation == 1 and facts.focal_35mm is None
    data = save(RGB, "JPEG", exif=oriented(9))  # no such orientation
    np.testing.assert_array_equal(photos.read(data).image, formats.decode_image(data))


def test_a_profile_of_inks_is_used():
    """Lab (50, 0, 0) is sRGB 119, 119, 119, whatever the plain complement of the ink would be."""
    ink = Image.fromarray(RGB).convert("CMYK")
    for fmt in ("TIFF", "JPEG"):
        data = save(ink, fmt, icc_profile=ink_profile((128, 128, 128)))
        got = photos.read(data).image
        assert np.abs(got.astype(int) - 119).max() <= 2  # L* is 50.2, and 8-bit tables
    # a profile of something else changes nothing
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = save(ink, "TIFF", icc_profile=profile)
    np.testing.assert_array_equal(photos.read(data).image, np.asarray(ink.convert("RGB")))
