"""Depth: colours, files that give the numbers back, metres from known distances, points."""

import dataclasses
import json
import os
import struct
import sys
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from depth_anything_jax.inference import camera_intrinsics, depth_files, point_cloud
from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.depth_files import METRIC, RELATIVE
from depth_anything_jax.utils import partial_files
from depth_anything_jax.visualization import colorbars


def relative(values=None, **more) -> Depth:
    if values is None:
        values = np.random.default_rng(0).gamma(2, 1, (12, 16)) + 0.1
    return Depth(np.asarray(values, np.float32), RELATIVE, **more)


def metric(values=None, **more) -> Depth:
    if values is None:
        values = 1 / (np.random.default_rng(1).gamma(2, 0.2, (12, 16)) + 0.02)
    return Depth(np.asarray(values, np.float32), METRIC, **more)


def test_it_is_an_array_and_says_what_it_is():
    depth = metric([[1, 2], [np.inf, np.nan]])
    assert np.asarray(depth) is depth.depth and np.asarray(depth, np.float64).dtype == np.float64
    assert depth.range == (1, 2) and relative([[1, 2]]).range == (2, 1)
    assert repr(depth) == "Depth(2x2, metric depth, near 1 m, far 2 m)"
    assert depth.unit == "m" and relative().unit is None
    copy = np.array(depth)
    copy[:] = 0
    assert depth.depth[0, 0] == 1
    with pytest.raises(ValueError, match="kind='depth'"):
        Depth(np.ones((2, 2), np.float32), "depth")
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(depth, np.float64, copy=False)


# Colours


@pytest.mark.parametrize(
    "depth", [relative([[9, 5, 1]]), metric([[1, 5, 9]])], ids=["relative", "metric"]
)
def test_near_is_white_or_warm(depth):
    grey = np.asarray(depth.to_pil("grey"))
    assert grey.dtype == np.uint8 and grey[0, 0] == 255 and grey[0, 2] == 0
    assert np.asarray(depth.to_pil("grey", invert=True)).tolist() == [[0, 128, 255]]
    near, _, far = np.asarray(depth.to_pil())[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0]  # red and blue


def test_relative_colours_are_the_official_ones():
    """min-max over the picture into matplotlib's Spectral_r."""
    from matplotlib import colormaps

    values = relative().depth
    unit = (values - values.min()) / (values.max() - values.min())
    expected = colormaps["Spectral_r"](unit, bytes=True)[..., :3]
    difference = np.abs(np.asarray(relative().to_pil()).astype(int) - expected)
    assert difference.max() <= 8 and (difference > 0).mean() < 0.01  # one step at a rounding edge


def test_sky_is_far_and_unknown_is_grey():
    depth = metric([[1, 4, np.inf, np.nan]])
    assert depth.colour_range == pytest.approx((1.06, 3.94))
    colours = np.asarray(depth.to_pil())[0]
    assert (colours[2] == colours[1]).all() and colours[3].tolist() == [128] * 3
    assert np.asarray(depth.to_pil("grey"))[0].tolist() == [255, 0, 0, 0]
    assert np.asarray(metric([[np.inf, np.nan]]).to_pil()).shape == (1, 2, 3)


def test_one_range_makes_pictures_comparable():
    a, b = metric([[1, 2]]), metric([[2, 3]])
    pictures = [np.asarray(d.to_pil(range=(1, 3))) for d in (a, b)]
    assert (pictures[0][0, 1] == pictures[1][0, 0]).all()
    assert (np.asarray(metric([[0.5, 9]]).to_pil("grey", range=(1, 3))) == [[255, 0]]).all()
    for bad in ((1, 1), (1, np.nan)):
        with pytest.raises(ValueError, match="two different finite numbers$"):
            a.to_pil(range=bad)
    grey = np.asarray(metric([[*np.linspace(1, 2, 99), 900]]).to_pil("grey"))[0]
    assert grey[0] == 255 and grey[98] == 0 == grey[99], "one far pixel leaves colours to the rest"
    with pytest.raises(ValueError, match="colormap='rainbowish'"):
        a.to_pil("rainbowish")


@pytest.mark.parametrize("depth", [relative(np.arange(1, 97).reshape(8, 12)), metric()])
def test_a_colour_bar_hangs_below(depth):
    depth = dataclasses.replace(depth, depth=np.kron(depth.depth, np.ones((20, 20), np.float32)))
    plain, barred = depth.to_pil(), depth.to_pil(colorbar=True)
    assert barred.width == plain.width and barred.height > plain.height
    pixels = np.asarray(barred)
    np.testing.assert_array_equal(pixels[: plain.height], np.asarray(plain))
    bar = pixels[plain.height + 10]  # near is left, and warm
    assert bar[0, 0] > bar[0, 2] and bar[-1, 2] > bar[-1, 0]
    assert (pixels[plain.height + 18 :] < 100).any(), "no numbers below"


# Files


META = {"model": "m", "licence": "Apache-2.0", "network": [28, 42]}
LENS = camera_intrinsics.Intrinsics(10.0, 11.0, 7.5, 5.5, "EXIF")


@pytest.mark.parametrize("suffix", depth_files.SUFFIXES)
@pytest.mark.parametrize("make", [relative, metric])
def test_what_is_saved_comes_back(tmp_path, suffix, make):
    if suffix == ".exr":
        pytest.importorskip("OpenEXR")
    depth = make(meta=META, intrinsics=LENS)
    path = tmp_path / f"a{suffix}"
    path.write_text("something older")
    depth.save(path)
    silent = suffix in (".npy", ".pfm")
    back = Depth.load(path, kind=depth.kind if silent else None)
    assert back.kind == depth.kind and back.depth.dtype == np.float32
    if not silent:
        assert back.meta == META and back.intrinsics == LENS
    if suffix == ".png":  # half a step: of the range, or a millimetre
        step = 1e-3 if depth.unit else np.ptp(depth.depth) / 65535
        assert 0.1 * step < np.abs(back.depth - depth.depth).max() <= 0.51 * step
    else:
        np.testing.assert_array_equal(back.depth, depth.depth)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "nothing else is left"
    other = METRIC if depth.kind == RELATIVE else RELATIVE
    if not silent:
        with pytest.raises(ValueError, match=f"not {other}"):
            Depth.load(path, kind=other)
    else:
        with pytest.raises(ValueError, match="does not say what its numbers are"):
            Depth.load(path)


def test_pngs_as_other_programs_see_them(tmp_path):
    relative([[3, 1], [2, 3]]).save(tmp_path / "r.png")
    seen = cv2.imread(str(tmp_path / "r.png"), cv2.IMREAD_UNCHANGED)
    assert seen.dtype == np.uint16 and seen.tolist() == [[65535, 0], [32768, 65535]]
    relative([[3, 1], [2, 3]]).save(tmp_path / "i.png", invert=True)
    assert cv2.imread(str(tmp_path / "i.png"), -1).tolist() == [[0, 65535], [32768, 0]]
    np.testing.assert_allclose(Depth.load(tmp_path / "i.png").depth, [[3, 1], [2, 3]], atol=2e-5)
    with Image.open(tmp_path / "r.png") as image:
        assert "larger is nearer" in image.text["Description"]

    metric([[1.2344, 65.535], [np.inf, 1e-5]]).save(tmp_path / "m.png")
    assert cv2.imread(str(tmp_path / "m.png"), -1).tolist() == [[1234, 65535], [0, 1]]
    back = Depth.load(tmp_path / "m.png").depth
    assert np.isnan(back[1, 0]) and back[0, 0] == np.float32(1.234)

    relative([[5, 5]]).save(tmp_path / "flat.png")
    assert Depth.load(tmp_path / "flat.png").depth.tolist() == [[5, 5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged, not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "a JSON list and not an object"),
        ("{}", "kind=None in its metadata is not one of"),
        ('{"kind": "metric depth"}', "no number 'scale'"),
        ('{"kind": "metric depth", "scale": "1", "offset": 0}', "no number 'scale'"),
        ('{"kind": "metric depth", "scale": 1, "offset": 0, "meta": 5}', "meta=5 in its metadata"),
        (
            '{"kind": "metric depth", "scale": 1, "offset": 0, "intrinsics": ["a", 1, 2, 3]}',
            "intrinsics=.*are not fx",
        ),
    ],
)
def test_damaged_metadata_of_a_depth_file(tmp_path, text, message):
    info = PngImagePlugin.PngInfo()
    info.add_text(depth_files.KEY, text)
    Image.fromarray(np.ones((4, 4), np.uint16)).save(tmp_path / "a.png", pnginfo=info)
    arrays = {"depth": np.ones((4, 4), np.float32), depth_files.KEY: np.array(text)}
    np.savez(tmp_path / "a.npz", **arrays)
    for path in (tmp_path / "a.png", tmp_path / "a.npz"):
        if path.suffix == ".png" or "scale'" not in message:
            with pytest.raises(ValueError, match=f"^{path}.*{message}"):
                Depth.load(path)


def test_a_range_in_either_order():
    for depth in (metric([[1, 5, 20]]), relative([[1, 5, 20]])):
        for colorbar in (False, True):
            one, other = (
                np.asarray(depth.to_pil(range=r, colorbar=colorbar)) for r in ((2, 10), (10, 2))
            )
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("suffix", [".npy", ".png", ".npz"])
def test_a_name_of_255_bytes(tmp_path, suffix):
    path = tmp_path / ("é" * 120 + "n" * 11 + suffix)
    assert len(path.name.encode()) == 255
    metric([[1, 2]]).save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("points", [False, True])
def test_align_to_refuses_other_units(points):
    """A reference in millimetres once gave a map that is inf everywhere."""
    metres = np.random.default_rng(0).uniform(1, 5, (20, 30))
    depth = relative(1 / metres)
    np.testing.assert_allclose(depth.align_to(metres).depth, metres, rtol=1e-5)

    def known(x):
        return [(k, k, x[k, k]) for k in range(20)] if points else x

    with pytest.raises(ValueError, match=r"median .* is [23]\d\d\d.*millimetres"):
        depth.align_to(known(1000 * metres))
    with pytest.raises(ValueError, match="median .* beyond far=2 m .* raise far"):
        depth.align_to(known(metres), far=2)
    np.testing.assert_allclose(
        depth.align_to(known(1000 * metres), far=1e4).depth, 1000 * metres, rtol=1e-5
    )
    if not points:
        for units in (256, 1000):
            integers = np.round(units * metres).astype(np.uint16)
            with pytest.raises(ValueError, match="map of uint16 up to .*divide"):
                depth.align_to(integers)
        whole = np.round(metres).astype(np.uint8)  # metres, for all we know
        assert np.isfinite(depth.align_to(whole).depth).any()


@pytest.mark.parametrize(("farthest", "scale"), [(65.6, 256), (256, 100), (700, 10)])
def test_a_png_of_far_depth_has_a_coarser_scale(tmp_path, farthest, scale):
    metric([[1, farthest], [np.inf, 0.001]]).save(tmp_path / "a.png")
    back = Depth.load(tmp_path / "a.png").depth
    np.testing.assert_allclose(back, [[1, farthest], [np.nan, 1 / scale]], atol=0.51 / scale)
    with Image.open(tmp_path / "a.png") as image:
        assert f"metres = pixel / {scale};" in image.text["Description"]


def test_what_a_png_cannot_hold_is_refused(tmp_path):
    far = metric([[1, 65.6]])
    with pytest.raises(ValueError, match=r"reaches 65.6 m.* 65.535 m; use png_scale=256"):
        far.save(tmp_path / "a.png", png_scale=1000)
    with pytest.raises(ValueError, match="png_scale lower"):
        metric([[1, 7000]]).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="1 values are not finite"):
        relative([[1, np.nan]]).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="is negative"):
        metric([[1, -2]]).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="png_scale=0"):
        far.save(tmp_path / "b.png", png_scale=0)
    with pytest.raises(ValueError, match="to_pil"):
        far.save(tmp_path / "b.jpg")
    with pytest.raises(OSError):
        far.save(tmp_path / "no folder" / "b.npy")
    assert not list(tmp_path.glob("*b.*"))


def test_files_of_others(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "foreign.png"), np.ones((3, 4), np.uint16))
    with pytest.raises(ValueError, match="not written by Depth.save"):
        Depth.load(tmp_path / "foreign.png")
    np.savez(tmp_path / "foreign.npz", depth=np.ones((3, 4)))
    assert Depth.load(tmp_path / "foreign.npz", kind=METRIC).unit == "m"
    with pytest.raises(ValueError, match="depth is read from"):
        Depth.load(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="kind='metres'"):
        Depth.load(tmp_path / "foreign.npz", kind="metres")
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ImportError, match=r"depth_anything_jax\[exr\]"):
        metric().save(tmp_path / "a.exr")
    assert not (tmp_path / "a.exr").exists()


# Metres


def scene(scale=0.3, shift=0.05):
    """A relative map and the metres that belong to it."""
    depth = relative(meta=META)
    return depth, 1 / (scale * depth.depth.astype(np.float64) + shift)


def test_metres_from_points_and_from_a_sparse_map():
    depth, metres = scene()
    points = [(x, y, metres[y, x]) for x, y in ((0, 0), (5, 3), (15, 11))]
    sparse = np.zeros_like(metres)
    sparse[2:5] = metres[2:5]
    sparse[3, 3] = np.nan
    for reference in (points, np.array(points), sparse, sparse.astype(np.float32)):
        for robust in (False, True):
            found = depth.align_to(reference, robust=robust)
            assert (found.kind, found.unit) == (METRIC, "m")
            np.testing.assert_allclose(found.depth, metres, rtol=3e-5)  # float32 references
            assert found.meta["alignment"]["scale"] == pytest.approx(0.3, rel=1e-4)
            assert found.meta["model"] == "m"
    json.dumps(found.meta)


def test_beyond_zero_disparity_is_infinitely_far():
    depth = relative([[0.0, 1, 2, 3]])
    found = depth.align_to([(2, 0, 1.0), (3, 0, 0.5)])  # 1 / metres = value - 1
    assert found.depth.tolist() == [[np.inf, np.inf, 1, 0.5]]
    near = depth.align_to([(2, 0, 1.0), (3, 0, 0.5)], far=0.8)
    assert near.depth.tolist() == [[np.inf, np.inf, np.inf, 0.5]]
    with pytest.raises(ValueError, match="far=0"):
        depth.align_to([(2, 0, 1.0), (3, 0, 0.5)], far=0)


def test_a_robust_fit_bears_wrong_points():
    depth, metres = scene()
    wrong = metres.copy()
    wrong[::4, ::3] *= 5
    robust = depth.align_to(wrong, robust=True)
    np.testing.assert_allclose(robust.depth, metres, rtol=1e-4)
    plain = depth.align_to(wrong)
    assert np.median(np.abs(plain.depth / metres - 1)) > 0.05


def test_a_robust_fit_of_a_dense_map_is_quick():
    rng = np.random.default_rng(0)
    depth = relative(rng.gamma(2, 1, (480, 640)))
    metres = 1 / (0.3 * depth.depth.astype(np.float64) + 0.05)
    metres[rng.random(metres.shape) < 0.2] = 3.0
    found = depth.align_to(metres, robust=True)
    assert found.meta["alignment"]["scale"] == pytest.approx(0.3, rel=1e-6)
    assert found.meta["alignment"]["points"] == 64 * 64


@pytest.mark.parametrize(
    "reference, words",
    [
        ([(0, 0, 2.0)], "1 known distances: scale and shift need two"),
        (np.zeros((0, 3)), "0 known distances"),
        (np.zeros((12, 16)), "0 known distances"),
        ([(0, 0, 2.0), (0, 0, 3.0)], "the map has one value"),
        ([(0, 0, 2.0), (5, 5, 2.0)], "the reference has one value"),
        ([(0, 0, 2.0), (16, 0, 3.0)], r"1 of 2 points lie outside .* 16 columns and 12 rows"),
        ([(0, -1, 2.0), (0, 0, 3.0)], "lie outside"),
        ([(0, 0, 0.0), (5, 5, 3.0)], "no distance above 0"),
        ([(0, 0, np.nan), (5, 5, 3.0)], "no distance above 0"),
        (np.ones((16, 12)), r"a reference \(16, 12\) fits no map \(12, 16\)"),
        ([(0, 0, 2.0), (1, 1)], "no array of numbers"),
        ("near", "no array of numbers"),
    ],
)
def test_what_says_nothing_about_metres(reference, words):
    with pytest.raises(ValueError, match=words):
        relative().align_to(reference)


def test_near_must_be_near():
    depth, metres = scene()
    with pytest.raises(ValueError, match="the scale comes out as -"):
        depth.align_to(1 / metres)  # disparity where depth is asked for
    with pytest.raises(ValueError, match="in metres already"):
        metric().align_to(metres)


# Points


def room(h=30, w=40) -> Depth:
    """A wall at 4 m, a box at 2 m before it, and a hole to infinity."""
    values = np.full((h, w), 4.0)
    values[10:20, 10:20] = 2
    values[:3] = np.inf
    colours = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    return metric(values, image=colours)


def test_points_lie_where_the_camera_says():
    depth = room()
    points = depth.to_point_cloud((50, 40, 19.5, 14.5), edge=0)
    assert len(points) == 27 * 40 and points.unit == "m" and points.intrinsics.source == "given"
    z = depth.depth
    rows, columns = np.nonzero(np.isfinite(z))
    x, y, depths = points.points.T
    np.testing.assert_allclose(50 * x / depths + 19.5, columns, atol=1e-4)  # float32
    np.testing.assert_allclose(40 * y / depths + 14.5, rows, atol=1e-4)
    np.testing.assert_array_equal(depths, z[rows, columns])
    np.testing.assert_array_equal(points.colours, depth.image[rows, columns])
    matrix = depth.to_point_cloud([[50, 0, 19.5], [0, 40, 14.5], [0, 0, 1]], edge=0)
    np.testing.assert_array_equal(matrix.points, points.points)


def test_edges_and_the_far_are_left_out():
    depth = room()
    lost = len(depth.to_point_cloud(fov=60, edge=0)) - len(depth.to_point_cloud(fov=60))
    assert lost == 36 + 40  # the box's rim and the wall's pixels around it
    assert len(depth.to_point_cloud(fov=60, edge=1.5)) == 27 * 40  # the jump is 1, of 2 m
    assert set(depth.to_point_cloud(fov=60, far=3).points[:, 2]) == {2}
    mask = np.zeros(depth.depth.shape, bool)
    mask[25] = True
    assert len(depth.to_point_cloud(fov=60, valid=mask)) == 40
    ramp = metric(np.tile(1.03 ** np.arange(9), (3, 1)))
    assert point_cloud.edges(ramp.depth, 0.0295).all(), "of the nearer side: .0291 of the farther"
    assert (
        not point_cloud.edges(ramp.depth, 0.04).any() and point_cloud.edges(ramp.depth, 0.02).all()
    )


def test_where_intrinsics_come_from():
    depth = room()
    with pytest.warns(UserWarning, match="the longer side is assumed to see 60 degrees"):
        guess = depth.to_point_cloud()
    assert guess.intrinsics.source == "guess"
    assert guess.intrinsics.fx == pytest.approx(20 / np.tan(np.radians(30)))
    upright = camera_intrinsics.of_fov(60, (40, 30))
    assert upright.fx == guess.intrinsics.fx and (upright.cx, upright.cy) == (14.5, 19.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exif = dataclasses.replace(
            depth, intrinsics=camera_intrinsics.Intrinsics(50, 50, 19, 14, "EXIF")
        )
        assert exif.to_point_cloud().intrinsics == exif.intrinsics
    assert exif.to_point_cloud(fov=50).intrinsics.source == "field of view"
    with pytest.raises(ValueError, match="give one of them"):
        depth.to_point_cloud((1, 1, 0, 0), fov=50)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"intrinsics": (1, 2, 3)}, "give fx, fy, cx, cy"),
        ({"intrinsics": (0, 1, 0, 0)}, "above 0"),
        ({"intrinsics": [[1, 0.2, 0], [0, 1, 0], [0, 0, 1]]}, "undistort"),
        ({"fov": 180}, "between 0 and 180"),
        ({"fov": 60, "edge": -1}, "edge=-1"),
        ({"fov": 60, "far": 0}, "far=0"),
        ({"fov": 60, "image": np.zeros((5, 5, 3), np.uint8)}, "image is"),
        ({"fov": 60, "valid": np.zeros((5, 5), bool)}, "valid is"),
    ],
)
def test_points_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        room().to_point_cloud(**options)


def test_a_relative_map_has_no_shape_unless_one_is_assumed():
    depth = relative([[1.0, 2, 4, 0]])
    with pytest.raises(ValueError, match="a shift of 0 is assumed"):
        depth.to_point_cloud(fov=60)
    points = depth.to_point_cloud(fov=60, relative=True, edge=0)
    np.testing.assert_allclose(points.points[:, 2], [2, 1, 0.5])  # the median at 1, no sky
    assert points.unit is None and "assumed" in points.note
    with pytest.raises(ValueError, match="no pixel"):
        relative([[0.0, 0]]).to_point_cloud(fov=60, relative=True)
    sky = relative([[1.0, 1, 1, 0.02, 0.005]])  # 50 and 200 times as far as the median
    assert len(sky.to_point_cloud(fov=60, relative=True, edge=0)) == 4


def test_the_end_of_a_metric_models_range_is_sky(tmp_path):
    values = np.array([[1.0, 5, 19.7, 19.9, 20]], np.float32)
    depth = Depth(values, METRIC, meta={"max_depth": 20.0})
    assert len(depth.to_point_cloud(fov=60, edge=0)) == 3
    assert len(depth.to_point_cloud(fov=60, edge=0, far=np.inf)) == 5
    assert len(Depth(values, METRIC).to_point_cloud(fov=60, edge=0)) == 5
    with pytest.raises(ValueError, match="a.ply: there is no point to save: .* edge=0 keeps"):
        depth.to_point_cloud(fov=60, far=0.5).save(tmp_path / "a.ply")


def test_saving_in_threads_leaves_the_umask_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("not safe in threads"))
    room().save(tmp_path / "a.npy")
    assert (tmp_path / "a.npy").stat().st_mode & 0o777 == 0o666 & ~partial_files._UMASK


def test_numbers_below_a_bar_have_room():
    def at(width, near=1.0, far=20.0):
        return colorbars.labels(near, far, "m", width, lambda text: 8 * len(text))

    assert at(400) == ["1 m", "5.75 m", "10.5 m", "15.2 m", "20 m"]
    assert at(160) == ["1 m", "10.5 m", "20 m"]
    assert at(100) == at(20) == ["1 m", "20 m"]
    assert at(400, near=3.7e-7)[0] == "0 m", "a thousandth of the bar is nothing"
    assert at(400, near=20.0, far=1.0)[::-1] == at(400)
    assert at(400, near=np.nan) == ["near", "far"]


def test_ply(tmp_path):
    points = room().to_point_cloud((50, 40, 19.5, 14.5))
    points.save(tmp_path / "a.ply")
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    lines = head.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "comment unit: metres" in lines and f"element vertex {len(points)}" in lines
    assert "comment intrinsics: fx=50 fy=40 cx=19.5 cy=14.5 (given)" in lines
    assert [line.split()[1:] for line in lines if line.startswith("property")] == [
        ["float", "x"], ["float", "y"], ["float", "z"],
        ["uchar", "red"], ["uchar", "green"], ["uchar", "blue"],
    ]  # fmt: skip
    read = np.frombuffer(body, [("p", "<f4", 3), ("c", "u1", 3)])
    np.testing.assert_array_equal(read["p"], points.points)
    np.testing.assert_array_equal(read["c"], points.colours)
    bare = dataclasses.replace(room(), image=None).to_point_cloud(fov=60)
    bare.save(tmp_path / "b.ply")
    assert (tmp_path / "b.ply").read_bytes().endswith(bare.points.astype("<f4").tobytes())
    with pytest.raises(ValueError, match=r"\.ply or \.glb"):
        points.save(tmp_path / "a.obj")
    with pytest.raises(ValueError, match="no point"):
        room().to_point_cloud(fov=60, far=0.1).save(tmp_path / "c.ply")


@pytest.mark.parametrize("coloured", [True, False])
def test_glb(tmp_path, coloured):
    depth = room() if coloured else dataclasses.replace(room(), image=None)
    points = depth.to_point_cloud(fov=60)
    points.save(tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes()
    assert struct.unpack("<4sII", data[:12]) == (b"glTF", 2, len(data)) and len(data) % 4 == 0
    size, kind = struct.unpack("<I4s", data[12:20])
    scene = json.loads(data[20 : 20 + size])
    assert kind == b"JSON" and size % 4 == 0
    length, kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    buffer = data[28 + size :]
    assert kind == b"BIN\0" and length == len(buffer) >= scene["buffers"][0]["byteLength"]

    def array(name, dtype):
        index = scene["meshes"][0]["primitives"][0]["attributes"][name]
        view = scene["bufferViews"][scene["accessors"][index]["bufferView"]]
        start = view["byteOffset"]
        found = np.frombuffer(buffer[start : start + view["byteLength"]], dtype)
        return found.reshape(scene["accessors"][index]["count"], -1), scene["accessors"][index]

    positions, accessor = array("POSITION", "<f4")
    np.testing.assert_array_equal(positions, points.points * np.float32([1, -1, -1]))
    assert positions[:, 2].max() < 0, "the camera looks along -z"
    np.testing.assert_array_equal(accessor["min"], positions.min(0))
    np.testing.assert_array_equal(accessor["max"], positions.max(0))
    if coloured:
        colours, accessor = array("COLOR_0", "<u2")
        assert accessor["normalized"] and (colours[:, 3] == 65535).all()
        linear = colours[:, :3] / 65535
        srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        np.testing.assert_array_equal(np.round(255 * srgb), points.colours)
    else:
        assert "COLOR_0" not in scene["meshes"][0]["primitives"][0]["attributes"]
