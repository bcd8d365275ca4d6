"""DepthAnything: pictures of all kinds in, maps at their size out, equal to the official code."""

import dataclasses
import io
import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

import depth_anything_jax
from depth_anything_jax.checkpoints import pretrained
from depth_anything_jax.checkpoints.bundle import bundle_of
from depth_anything_jax.data import transforms
from depth_anything_jax.inference import compilation_cache as cache
from depth_anything_jax.inference import images, input_sizes, predictor, processing, tiles
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.models import build
from depth_anything_jax.models.outputs import raw_output
from depth_anything_jax.utils import interpolation
from depth_anything_jax.utils.encoders import DINOV2
from tests import parity
from tests.helpers import api_models
from tests.helpers.small_networks import KERNEL, MetricConvolution

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE = 112
# The program that a single picture runs in, so that it is compiled once.
ONE = {"devices": jax.devices()[:1], "output": raw_output}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    """Nothing is written to the cache folder of whoever runs the tests."""
    monkeypatch.setenv(cache.VARIABLE, "")


@pytest.fixture(scope="module")
def network():
    """A whole network, which takes seconds to compile for each shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, "")
        return api_models.small()


@pytest.fixture(scope="module")
def model():
    """What goes around a network that is one convolution."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, "")
        return DepthAnything(api_models.instant())


def png(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()


# Against the official code


GOLDEN = (
    "labelled/nyu_metric3d/rgb/rgb_00000.jpg",
    "labelled/kitti_metric3d/rgb/0000000005.png",
    "photos/demo/depth_anything_v1_examples_demo2.jpg",
    "photos/demo/depth_anything_v2_examples_demo07.jpg",
)
HALF_FLOAT16 = 5e-4  # the stored maps are float16 and reach 1.05, where half an ulp is 4.9e-4


@pytest.mark.parametrize(
    "name", [GOLDEN[0], *(pytest.param(n, marks=pytest.mark.nightly) for n in GOLDEN[1:])]
)
def test_from_the_file_on_disk_to_the_official_map(shared, name):
    model = depth_anything_jax.DepthAnything.from_pretrained(
        shared / "weights" / "depth_anything_v2_vits.partial.fp16.safetensors",
        allow_missing="resize_layers.3.weight",
        fill="zeros",
    )
    entries = json.loads((shared / "golden" / "outputs.json").read_text())
    (entry,) = (e for e in entries if e["image"] == name)
    reference = np.load(shared / "golden" / entry["full"])
    depth = model(shared / "data" / name)
    error = parity.relative_error(depth.depth, reference)
    assert error <= parity.GOLDEN_MAX + HALF_FLOAT16 < 2e-3
    assert depth.kind == "relative inverse depth" and depth.unit is None
    assert depth.meta["network"] == entry["input_hw"]


@pytest.mark.parametrize("version, corners", [("v1", False), ("v2", True)])
def test_each_version_is_resized_as_its_own_code_does(version, corners):
    torch = pytest.importorskip("torch")
    how = processing.recipe_of(api_models.found(version=version))
    output = np.random.default_rng(0).random((28, 42), dtype=np.float32)
    ours = how.finish(output, (75, 91))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(output).double()[None, None],
        (75, 91),
        mode="bilinear",
        align_corners=corners,
    )[0, 0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=3e-7)  # float32
    assert ours.dtype == np.float32


# Pictures


def same_pictures() -> dict[str, object]:
    """One picture of five grey levels in many forms."""
    grey = np.repeat(np.array([0, 51, 102, 204, 255], np.uint8), 6).reshape(5, 6)
    rgb = np.stack([grey, grey, grey], -1)
    alpha = np.full((5, 6, 1), 7, np.uint8)
    return {
        "uint8": rgb,
        "grey": grey,
        "grey, one channel": grey[..., None],
        "grey and alpha": np.concatenate([grey[..., None], alpha], -1),
        "alpha": np.concatenate([rgb, alpha], -1),
        "uint16": rgb.astype(np.uint16) * 257,
        "uint16, big-endian": (rgb.astype(np.uint16) * 257).astype(">u2"),
        "int64": rgb.astype(np.int64),
        "float64": rgb / 255,
        "float16 of jax": jax.numpy.asarray(rgb / 255, jax.numpy.float32),
        "reversed in memory": rgb[::-1][::-1],
        "PIL": Image.fromarray(rgb),
        "PIL L": Image.fromarray(grey),
        "PIL RGBA": Image.fromarray(np.concatenate([rgb, alpha], -1)),
        "PIL LA": Image.fromarray(grey).convert("LA"),
        "PIL P": Image.fromarray(grey).convert("P"),
        "PIL CMYK": Image.fromarray(rgb).convert("CMYK"),
        "PIL I;16": Image.fromarray(grey.astype(np.uint16) * 257),
        "PIL I": Image.fromarray(grey.astype(np.int32) * 257),
        "PIL F": Image.fromarray((grey / 255).astype(np.float32)),
        "bytes": png(rgb),
    }


@pytest.mark.parametrize("name", same_pictures())
def test_a_picture_is_the_same_in_any_form(name, tmp_path):
    (tmp_path / "a.png").write_bytes(png(same_pictures()["uint8"]))
    expected = images.read(str(tmp_path / "a.png")).pixels
    found = images.read(same_pictures()[name]).pixels
    assert found.shape == (5, 6, 3) and found.dtype in (np.uint8, np.float32)
    shown = found if found.dtype == np.uint8 else found * 255
    np.testing.assert_allclose(shown, expected, atol=1e-4)
    a, b = (transforms.resize_image(x, 14, 14) for x in (found, expected))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_masks_are_black_and_white():
    mask = np.eye(4, dtype=bool)
    for image in (mask, Image.fromarray(mask)):
        np.testing.assert_array_equal(images.read(image).pixels[..., 0], 255 * mask)


def test_exif_turns_files_and_pil_images_upright(tmp_path):
    image = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    exif.get_ifd(0x8769)[0xA405] = 26  # 35 mm equivalent focal length
    image.save(tmp_path / "turned.png", exif=exif)
    expected = np.rot90(np.asarray(image), -1)
    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        picture = images.read(given)
        np.testing.assert_array_equal(picture.pixels, expected)
        fx, fy, cx, cy, source = picture.intrinsics
        assert fx == fy == pytest.approx(26 / 43.2666 * 13**0.5) and (cx, cy) == (0.5, 1)
        assert source == "EXIF: 26 mm on 35 mm"


@pytest.mark.parametrize(
    "bad, words",
    [
        (np.full((4, 4, 3), 1.2), "floats are in 0-1; divide"),
        (np.full((4, 4, 3), -0.1), "floats are in 0-1"),
        (np.full((4, 4), np.nan), "floats are in 0-1"),
        (np.full((4, 4, 3), 300), "integers are 0-255"),
        (np.full((4, 4, 3), -1), "integers are 0-255"),
        (np.zeros((4, 4, 3), complex), "is no picture"),
        (np.zeros((4, 4, 3), "U2"), "is no picture"),
        (np.zeros((3, 40, 40), np.uint8), "channels come last"),
        (np.zeros((40, 40, 7), np.uint8), r"no picture \(h, w, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "is a batch"),
        (np.zeros(12, np.uint8), "no picture"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        (np.uint8(3), "no picture"),
        (None, "NoneType is no picture"),
        ({"a": 1}, "dict is no picture"),
        ("https://example.org/a.jpg", "not fetched"),
        (b"", "no bytes"),
        (b"GIF", "not a picture"),
        (ROOT, "is a folder"),
        ("nothing.jpg", "nothing.jpg"),
    ],
)
def test_what_is_no_picture_is_told_so(model, bad, words):
    with pytest.raises((TypeError, ValueError, OSError), match=words):
        model(bad, input_size=SIZE)


# Calls


def test_a_map_is_the_networks_own_at_the_pictures_size(network):
    photo, found = api_models.photo(), api_models.found()
    depth = network(photo, input_size=SIZE)
    predict = predictor.Predictor(build("demo"), found.params, **ONE)
    raw = np.asarray(predict(transforms.network_input(photo, SIZE)[None])[0])
    expected = interpolation.resize(raw, photo.shape[:2], "bilinear-corners")
    assert depth.depth.shape == photo.shape[:2] and depth.depth.dtype == np.float32
    assert np.ptp(expected) > 0.1  # or the comparison would show nothing
    assert parity.relative_error(depth.depth, expected) < parity.OUTPUT_FLOAT32["vits"]
    np.testing.assert_array_equal(np.asarray(depth), depth.depth)
    np.testing.assert_array_equal(depth.image, photo)


def test_a_list_of_many_sizes_comes_back_in_order(model, tmp_path):
    sizes = [(60, 80), (80, 60), (1, 1), (60, 80), (60, 90), (33, 47)]
    pictures = [api_models.photo(*s, seed=i) for i, s in enumerate(sizes)]
    alone = [model(p, input_size=SIZE) for p in pictures]
    pictures[1] = Image.fromarray(pictures[1])
    Image.fromarray(pictures[4]).save(tmp_path / "4.png")
    pictures[4] = tmp_path / "4.png"
    for given in (pictures, iter(pictures)):
        together = model(given, input_size=SIZE)
        assert [d.depth.shape for d in together] == sizes
        for a, b in zip(alone, together, strict=True):
            # one device and eight: other fusions, the same numbers to rounding
            np.testing.assert_allclose(a.depth, b.depth, atol=1e-4 * np.ptp(alone[0].depth))
    assert model([]) == []


def test_metric_maps_stay_in_metres():
    assert bundle_of(api_models.found(max_depth=20.0)).network.decoder.max_depth == 20
    params = {"kernel": 9 * KERNEL["kernel"]}  # nearer than any floor that 1 / x needs
    model = DepthAnything(api_models.instant(max_depth=20.0, params=params))
    photo = api_models.photo()
    depth = model(photo, input_size=SIZE)
    assert (model.kind, depth.kind, depth.unit) == ("metric depth", "metric depth", "m")
    images = transforms.network_input(photo, SIZE)[None]
    raw = np.asarray(model.bundle.network.apply({"params": params}, images)[0])
    assert raw.min() < 1e-4 < 19 < raw.max()
    expected = interpolation.resize(raw, photo.shape[:2], "bilinear-corners")
    np.testing.assert_allclose(depth.depth, expected, atol=2e-4)  # float32 of 20 m


def test_a_canonical_camera_scales_metres(tmp_path):
    """Twice the focal length, twice the depth; in pixels of the network's input."""
    model = DepthAnything(api_models.instant(max_depth=20.0, focal=100.0))
    photo = api_models.photo(56, 70)
    plain = dataclasses.replace(model.recipe, focal=None)
    images = transforms.network_input(photo, 112)[None]  # twice as large
    network = np.asarray(MetricConvolution().apply({"params": KERNEL}, images)[0])
    for fx, fy, ratio in ((50, 50, 1), (100, 100, 2), (40, 60, 1)):
        depth = model(photo, input_size=112, intrinsics=(fx, fy, 34.5, 27.5))
        expected = ratio * plain.finish(network, (56, 70))
        np.testing.assert_allclose(depth.depth, expected, rtol=1e-4)  # float32
        assert depth.intrinsics == (fx, fy, 34.5, 27.5, "given")
        assert depth.meta["max_depth"] == pytest.approx(20 * ratio)
    tiled = model(photo, input_size=112, tile=40, intrinsics=(50, 50, 34.5, 27.5))
    assert tiled.depth.shape == (56, 70)
    seen = model(photo, input_size=112, fov=2 * math.degrees(math.atan(35 / 50)))
    np.testing.assert_allclose(seen.depth, plain.finish(network, (56, 70)), rtol=1e-4)
    with pytest.raises(ValueError, match="say the same thing"):
        model(photo, fov=60, intrinsics=(50, 50, 34.5, 27.5))
    with pytest.raises(ValueError, match="depend on the focal length"):
        model(photo)
    exif = Image.Exif()
    exif[0x0112] = 1
    exif.get_ifd(0x8769)[0xA405] = 50
    (tmp_path / "a.png").write_bytes(png(photo, exif=exif))
    found = dict(model.stream([photo, tmp_path / "a.png"], input_size=112))
    assert isinstance(found[0], ValueError) and found[1].intrinsics.source.startswith("EXIF")


def test_a_model_sees_the_input_it_was_trained_with():
    """V1's metric models: one shape, another rule of resizing, V2's way back to the picture."""
    seen = transforms.InputTransform((28, 42), False, "bilinear-corners", DINOV2)
    model = DepthAnything(api_models.instant(max_depth=20.0, version="v1", input=seen))
    pictures = [api_models.photo(60, 80), api_models.photo(80, 33).astype(np.float32) / 255]
    for photo, depth in zip(pictures, model(pictures), strict=True):
        raw = MetricConvolution().apply({"params": KERNEL}, seen(photo)[None])[0]
        expected = interpolation.resize(np.asarray(raw), photo.shape[:2], "bilinear-corners")
        np.testing.assert_allclose(depth.depth, expected, rtol=1e-4)  # float32
        assert depth.meta["network"] == [28, 42]
    assert model(pictures[0], tile=40).depth.shape == (60, 80)
    with pytest.raises(ValueError, match="size=56: every input of this network is 28x42"):
        model(pictures[0], input_size=56)
    with pytest.raises(ValueError, match="buckets=2: every input .* use 0"):
        model(pictures, buckets=2)
    larger = api_models.instant(input=transforms.InputTransform(56, True, "bicubic", DINOV2))
    assert DepthAnything(larger).recipe.shape((60, 80), None) == (56, 70)


def test_a_stream_goes_on_past_what_cannot_be_read(model, tmp_path):
    (tmp_path / "torn.png").write_bytes(png(api_models.photo())[:200])
    pictures = [api_models.photo(), tmp_path / "torn.png", None, api_models.photo(8, 8)]
    found = dict(model.stream(iter(pictures), input_size=SIZE))
    assert sorted(found) == [0, 1, 2, 3]
    assert "torn.png" in str(found[1]) and isinstance(found[2], TypeError)
    assert found[0].depth.shape == (60, 80) and found[3].depth.shape == (8, 8)
    assert found[0].image is None  # a folder's pictures do not pile up
    with pytest.raises(ValueError, match=r"picture 1 of the list.*torn.png"):
        model([pictures[0], pictures[1]], input_size=SIZE)
    tiled = dict(model.stream(pictures, input_size=14, tile=30))
    assert isinstance(tiled[2], TypeError) and tiled[0].depth.shape == (60, 80)


def test_frames_of_one_size_stream_in_order_and_lazily(model):
    drawn = []

    def frames():
        for i in range(200):
            drawn.append(i)
            yield api_models.photo(14, 14, seed=i)

    stream = model.stream(frames(), input_size=14)
    assert [next(stream)[0] for _ in range(20)] == list(range(20))
    assert len(drawn) < 120  # of the reading threads and of three batches
    stream.close()


def test_thin_pictures_are_refused_with_what_to_do(model):
    thin = np.zeros((100, 4000, 3), np.uint8)
    with pytest.raises(ValueError, match=r"518x20720, 54,760 patches") as error:
        model(thin)
    (fits,) = [int(w[11:]) for w in str(error.value).split() if w.startswith("input_size=")]
    assert fits % 14 == 0
    assert input_sizes.of_network(thin.shape, fits, patch_size=14)[0] == fits
    with pytest.raises(ValueError, match="max_tokens=16,384"):
        input_sizes.of_network(thin.shape, fits + 14, patch_size=14)
    small = DepthAnything(api_models.instant(), max_tokens=15)
    with pytest.raises(ValueError, match=r"max_tokens=15: crop it, give input_size=42 or less"):
        small(api_models.photo(), input_size=56)
    assert DepthAnything(api_models.instant(), max_tokens=20)(api_models.photo(), input_size=56)
    with pytest.raises(ValueError, match="crop it$"):
        model(np.zeros((1, 60_000, 3), np.uint8))
    assert model(np.zeros((20, 900, 3), np.uint8), input_size=14, tile=300).depth.shape == (20, 900)
    small = DepthAnything(api_models.instant(), max_tokens=15)  # of the whole and of a tile
    assert small(np.zeros((20, 200, 3), np.uint8), input_size=56, tile=90).depth.shape == (20, 200)


def test_buckets_leave_few_shapes_and_stretch(model):
    pictures = [api_models.photo(60, w) for w in (75, 90, 105, 120, 150, 240)]
    exact = {tuple(d.meta["network"]) for d in model(pictures, input_size=56)}
    for buckets in (2, (56, 112)):
        found = model(pictures, input_size=56, buckets=buckets)
        shapes = {tuple(d.meta["network"]) for d in found}
        assert len(shapes) == 2 < len(exact) and all(s[0] == 56 for s in shapes)
        assert [d.depth.shape for d in found] == [p.shape[:2] for p in pictures]
    with pytest.raises(ValueError, match="needs a list"):
        list(model.stream(iter(pictures), buckets=2))
    with pytest.raises(ValueError, match="multiples of 14"):
        model(pictures, buckets=(57,))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"input_size": 13}, "14 pixels or more"),
        ({"tile": 5}, "tile=5"),
        ({"tile": -1}, "tile=-1"),
        ({"buckets": -1}, "how many lengths"),
    ],
)
def test_options_that_cannot_work(model, options, words):
    with pytest.raises(ValueError, match=words):
        model(api_models.photo(), **options)


def test_batches_divide_over_the_devices(model, monkeypatch):
    assert model.devices == jax.local_devices()
    with pytest.raises(ValueError, match="does not divide over 8 devices; use 8"):
        api_models.small(batch_size=9)
    monkeypatch.setattr(pretrained, "load", lambda source: api_models.found())
    assert DepthAnything.from_pretrained("x", dtype="bfloat16").dtype == jax.numpy.bfloat16
    with pytest.raises(ValueError, match="dtype='float8'"):
        DepthAnything.from_pretrained("x", dtype="float8")


def test_lazily_and_by_name():
    code = (
        "import sys, depth_anything_jax; assert not {'jax', 'numpy', 'cv2'} & set(sys.modules);"
        "from depth_anything_jax import Depth, DepthAnything, load_pretrained"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        DepthAnything.from_pretrained("nowhere.safetensors")


# Tiles


def test_windows_cover_the_picture_and_overlap():
    for shape, tile in (((100, 250), 60), ((64, 64), 64), ((50, 400), 64), ((61, 60), 60)):
        found = tiles.windows(shape, tile)
        assert len({(w.height, w.width) for w in found}) == 1
        count = np.zeros(shape, int)
        for w in found:
            assert count[w.slices].shape == (w.height, w.width)
            count[w.slices] += 1
        assert count.min() >= 1
        columns = sorted({w.left for w in found})
        assert all(b - a <= 0.75 * tile + 1 for a, b in zip(columns, columns[1:], strict=False))


def test_tiles_in_scales_of_their_own_give_the_whole_again():
    rng = np.random.default_rng(0)
    whole = rng.random((90, 130), dtype=np.float32)
    maps = [(w, whole[w.slices] * rng.uniform(0.1, 9) + 3) for w in tiles.windows((90, 130), 40)]
    found = tiles.blend(whole, ((w, m.astype(np.float32)) for w, m in maps))
    np.testing.assert_allclose(found, whole, atol=2e-6)  # float32
    upside_down = [(w, -m) for w, m in maps]
    np.testing.assert_allclose(tiles.blend(whole, upside_down), whole, atol=2e-6)
    flat = [(w, np.zeros_like(m)) for w, m in maps]
    np.testing.assert_allclose(tiles.blend(whole, flat), whole, atol=2e-6)


def test_a_tile_that_contradicts_the_whole_map_is_left_out():
    rng = np.random.default_rng(1)
    whole, noise = rng.random((2, 60, 60), dtype=np.float32)
    found = tiles.blend(
        whole, [(w, noise[w.slices] - whole[w.slices]) for w in tiles.windows((60, 60), 60)]
    )
    np.testing.assert_allclose(found, whole, atol=2e-6)


def test_tiles_fade_towards_their_edges():
    fade = tiles._fade(40, 100)
    np.testing.assert_allclose(fade, fade[::-1], atol=1e-6)
    assert fade[0] < 0.01 and fade[19] > 0.99 and (np.diff(fade[:20]) > 0).all()
    assert (tiles._fade(40, 40) == 1).all()


def curvature(values: np.ndarray, axis: int) -> np.ndarray:
    """|second difference| along an axis, as the largest of each line across it."""
    return np.abs(np.diff(values.astype(np.float64), 2, axis=axis)).max(axis=1 - axis)


def test_no_seam_is_seen_on_a_smooth_picture(network):
    """Where tiles begin and end the map bends no more than in their middles."""
    photo, tile = api_models.photo(160, 220, seed=3), 100
    depth = network(photo, input_size=SIZE, tile=tile)
    plain = network(photo, input_size=SIZE)
    assert parity.relative_error(depth.depth, plain.depth) > 1e-2  # the tiles do say something
    windows = tiles.windows(photo.shape[:2], tile)
    for axis, (length, edges) in enumerate(
        zip(
            photo.shape[:2],
            (
                {e for w in windows for e in (w.top, w.top + w.height)},
                {e for w in windows for e in (w.left, w.left + w.width)},
            ),
            strict=False,
        )
    ):
        bend = curvature(depth.depth, axis)
        seams = [n for e in edges if 0 < e < length for n in (e - 2, e - 1) if n < len(bend)]
        inside = np.delete(bend, seams)
        assert len(seams) >= 4 and bend[seams].max() <= inside.max()
        assert np.median(bend[seams]) <= np.quantile(inside, 0.75)


def test_tiles_next_to_each_other_would_show_seams(network, monkeypatch):
    """The test above can fail: without overlap and fading it does."""
    monkeypatch.setattr(tiles, "OVERLAP", 0.0)
    monkeypatch.setattr(tiles, "_fade", lambda size, length: np.ones(size, np.float32))
    with pytest.raises(AssertionError):
        test_no_seam_is_seen_on_a_smooth_picture(network)


# Compiled programs


@pytest.fixture
def jax_cache():
    """JAX's own setting as it was, afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {n: getattr(jax.config, n) for n in names}
    jax.config.update(names[0], None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_compiled_programs_are_kept_and_found_again(tmp_path, monkeypatch, jax_cache):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setattr(cache, "LEAST_SECONDS", 0.0)
    model = DepthAnything(api_models.instant())
    assert model.cache == str(tmp_path / "kept")
    first = model(api_models.photo(), input_size=28)
    kept = {p.name for p in (tmp_path / "kept").iterdir()}
    assert any("jit_run" in name for name in kept)
    hits: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
    jax.clear_caches()  # what another process would not have
    again = DepthAnything(api_models.instant())(api_models.photo(), input_size=28)
    assert "/jax/compilation_cache/cache_hits" in hits
    runs = {p.name for p in (tmp_path / "kept").glob("jit_run-*-cache")}
    assert len(runs) == 1 and runs <= kept
    np.testing.assert_array_equal(first.depth, again.depth)


def test_where_programs_are_kept(tmp_path, monkeypatch, jax_cache, caplog):
    assert cache.folder() is None and cache.switch_on() is None  # the variable is empty
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "depth_anything_jax" / "compiled"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "below"))
    assert cache.switch_on() is None and jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert cache.switch_on() == str(tmp_path / "own")  # what somebody set stays


@pytest.mark.nightly
def test_a_second_process_starts_faster(shared, tmp_path):
    code = (
        "import time; start = time.monotonic()\n"
        "import numpy as np\n"
        "from depth_anything_jax import DepthAnything\n"
        f"model = DepthAnything.from_pretrained({str(shared / 'weights')!r} + '/depth_anything_v2"
        "_vits.partial.fp16.safetensors', allow_missing='resize_layers.3.weight')\n"
        "model(np.zeros((70, 70, 3), np.uint8), input_size=70)\n"
        "print(time.monotonic() - start)"
    )
    seconds = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True,
            env={"PATH": "", "JAX_PLATFORMS": "cpu", cache.VARIABLE: str(tmp_path)},
        )  # fmt: skip
        seconds.append(float(done.stdout))
    assert seconds[1] < 0.8 * seconds[0], seconds
