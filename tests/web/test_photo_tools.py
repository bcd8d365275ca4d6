"""What the page shows beside the map: values, metres, the view in 3-D, rendered scenes, names."""

import copy
import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.data.file_formats import photos
from depth_anything_jax.data.scenes import SceneSource
from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.depth_files import METRIC
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.web import examples, page, points_view, problems, results
from depth_anything_jax.web import handlers as work_lib
from depth_anything_jax.web import upload_folder as folder_lib
from tests.helpers import api_models
from tests.helpers.app_files import glb, holiday_photo, surroundings


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    with surroundings(tmp_path_factory.mktemp("tmp")):
        yield


@pytest.fixture(scope="module")
def models(environment):
    return {
        "relative": DepthAnything(api_models.instant()),
        "metric": DepthAnything(api_models.instant(max_depth=20.0)),
    }


@pytest.fixture
def private():
    with folder_lib.Folder(60.0).open() as folder:
        yield folder


@pytest.fixture
def make(models, private):
    def made(kind="relative", **limits):
        return work_lib.Work(models[kind], private, work_lib.Limits(**limits))

    return made


@pytest.fixture
def photo(tmp_path):
    return holiday_photo(tmp_path / "holiday photo.jpg")


# Values, metres, examples


def test_values_are_read_at_pixels(make, photo):
    work = make()
    result = work.depth(str(photo))
    values = work.model(photo).depth
    nearest = np.unravel_index(values.argmax(), values.shape)
    text = work.value(result, int(nearest[1]), int(nearest[0]))
    assert f"column {nearest[1]}, row {nearest[0]}: **{values.max():.4g}** (100 % of" in text
    assert "outside the photo" in work.value(result, 80, 0)
    metric = make("metric")
    metres = metric.model(photo).depth
    text = metric.value(metric.depth(str(photo)), 7, 5)
    assert text == f"column 7, row 5: **{metres[5, 7]:.3g} m**"


def test_two_known_distances_give_metres(make, photo):
    work = make()
    result = work.depth(str(photo))
    own = work.model(photo)
    (y1, x1), (y2, x2) = (
        map(int, np.unravel_index(i, own.depth.shape))
        for i in (own.depth.argmax(), np.abs(own.depth - np.median(own.depth)).argmin())
    )
    points = [(x1, y1, 2.0), (x2, y2, 5.0)]
    metric = work.align(result, points)
    expected = own.align_to(np.array(points))
    assert "2 m" in work.value(metric, x1, y1) and "5 m" in work.value(metric, x2, y2)
    found = Depth.load(work.files(metric)[1])
    assert found.kind == METRIC
    np.testing.assert_array_equal(found.depth, expected.depth)
    assert "Fitted to 2 known distances" in metric.text and result.metres is None
    path, text, _ = work.cloud(metric)
    assert "in metres" in text and glb(path)["extras"]["unit"] == "m"
    # What cannot be: too few, the wrong way round, outside. The relative map is kept.
    for wrong, message in (
        ([(x1, y1, 2.0), (x2, y2, None)], "click two places"),
        ([(x1, y1, 5.0), (x2, y2, 2.0)], "point 1 is the nearer one, by the distances .5 and 2 m."),
        ([(x1, y1, 2.0), (x2, 60, 5.0)], "lie outside the picture"),
        ([(x1, y1, 2.0), (x1, y1, 5.0)], "one value at all 2 known distances"),
    ):
        with pytest.raises(work_lib.Problem, match=message):
            work.align(result, wrong)
    assert work.cloud(result)[0] is None


def test_sliders_in_metres_set_colours_and_points(make, photo):
    work = make("metric")
    result = work.depth(str(photo))
    ends, own = result.metres, work.model(photo)
    near, far = own.colour_range
    assert (ends.near, ends.far) == pytest.approx((near, far), rel=1e-3)
    assert 0 < ends.near < ends.far <= ends.most and 0 < ends.clip <= ends.most
    limits = (near, (near + far) / 2)
    colours = np.asarray(work.pair(result, "turbo", limits=limits)[1])
    expected = own.to_pil("turbo", range=limits, colorbar=True).convert("RGB")
    assert np.array_equal(colours, np.asarray(expected))
    path = work.colours(result, "turbo", limits=limits)
    assert np.array_equal(Image.open(path), colours) and path != work.colours(result, "turbo")
    with pytest.raises(work_lib.Problem, match="two distances"):
        work.colours(result, "turbo", limits=limits[::-1])
    ramp = np.tile(np.linspace(2, 6, 80, dtype=np.float32), (60, 1))
    depth = dataclasses.replace(own, depth=ramp)
    result = results.keep(depth, result.folder, "ramp", "")
    assert result.metres.clip == pytest.approx(np.percentile(ramp, 98), rel=1e-3)
    counts = []
    for most in (None, 4.0):
        head = glb(work.cloud(result, far=most)[0])["accessors"][0]
        counts.append(head["count"])
        assert -head["min"][2] <= (most or result.metres.clip) * 1.001  # depth is -z
    assert counts[1] == 60 * (ramp[0] <= 4).sum() < counts[0] == 60 * 79


def street(sky):
    """A relative map of a street, 60 % of it sky with so small a value."""
    rows = np.linspace(-0.5, 0.5, 400)[:, None]
    distance = np.where(rows > 0.1, 1.5 / np.maximum(rows, 0.1), np.inf) * np.ones(80)
    relative = np.where(np.isfinite(distance), 1 / distance, sky).astype(np.float32)
    return Depth(relative, "relative inverse depth", np.zeros((400, 80, 3), np.uint8))


@pytest.mark.parametrize("sky", [0.0, 1e-4, 3e-3])
def test_a_tall_sky_makes_no_smear_of_a_street(sky):
    plain, depth = street(0.0), street(sky)
    shown = points_view.without_sky(depth)
    np.testing.assert_array_equal(shown.depth, plain.depth)
    clip = points_view.clip(depth)
    points = shown.to_point_cloud(far=clip, relative=True, edge=0, fov=60).points
    assert 0.95 < len(points) / (plain.depth > 0).sum() < 1  # 98 %
    assert np.ptp(points[:, 2]) < 2.5  # the unit is the median of the street, not of the sky
    metric = street(sky).align_to([(0, 399, 3.0), (0, 260, 10.0)])
    assert points_view.clip(metric) == pytest.approx(15, abs=2)
    assert np.isposinf(points_view.without_sky(metric).depth[:200]).all()


def test_the_end_of_a_metric_models_range_is_sky():
    values = np.full((4, 5), 3.0, np.float32)
    values[0] = 75
    depth = Depth(values, METRIC, meta={"max_depth": 80.0})
    assert np.isposinf(points_view.without_sky(depth).depth[0]).all()
    assert points_view.clip(depth) == 3
    nothing = Depth(np.full((4, 5), np.inf, np.float32), METRIC)
    assert points_view.clip(nothing) == np.inf and points_view.without_sky(nothing) is nothing


@pytest.mark.parametrize("shape", [(90, 160), (160, 90), (100, 100)], ids=str)
def test_points_are_first_seen_from_the_camera(shape):
    """As far back on the camera's own line of sight as all of them need, and no farther."""
    rng = np.random.default_rng(0)
    values = rng.uniform(2, 6, shape).astype(np.float32)
    cloud = Depth(values, METRIC).to_point_cloud(fov=60, edge=0)
    alpha, beta, radius = points_view.camera(cloud)
    points = cloud.points * (1, -1, -1)
    centre = (points.min(0) + points.max(0)) / 2
    a, b = np.radians([alpha, beta])
    back = np.array([np.cos(a) * np.sin(b), np.cos(b), np.sin(a) * np.sin(b)])
    place = centre + radius * back  # as Babylon's ArcRotateCamera
    along = place - (place @ back) * back
    assert np.linalg.norm(along) < 1e-6 and place @ back >= -1e-6, "on the line of sight, behind"
    seen = points - place
    depth = -(seen @ back)
    right = np.cross(-back, (0, 1, 0))
    right /= np.linalg.norm(right)
    tall = np.tan(points_view.FOV / 2) * depth
    inside = (np.abs(seen @ right) <= tall * points_view.ASPECT * 1.001) & (
        np.abs(seen @ np.cross(right, -back)) <= tall * 1.001
    )
    assert 0.985 <= inside.mean() <= 0.995


def test_rendered_scenes_are_photos_with_a_lens(make, private):
    work = make("metric")
    for name in examples.SCENES:
        path = pathlib.Path(work.example(name))
        assert private.holds(path) and path.stat().st_size < 100_000
        result = work.depth(str(path))
        assert result.size == (examples.SIZE, examples.SIZE)
        assert "EXIF: 24 mm" in work.cloud(result)[1]
        assert examples.thumbnail(name).startswith("data:image/jpeg;base64,")
    source = SceneSource("A", 27, seed=7, size=examples.SIZE, fov=examples._FOV)
    focal = photos.read(work.example("Rendered room")).facts.focal_pixels(448, 448)[0]
    assert focal == pytest.approx(source[26]["camera"].fx, rel=1e-6)
    with pytest.raises(work_lib.Problem, match="one of Rendered room, Rendered street"):
        work.example("../../etc/passwd")


def test_the_page_shows_the_models_name_not_its_files(make):
    work = make("metric")
    work.model = copy.copy(work.model)
    work.model.source, work.model.variant = "/somewhere/secret.safetensors", "vits"
    assert page.model_name(work) == "Depth Anything V2 Small, metric"
    assert "secret" not in page._head(work) and "somewhere" not in page._head(work)


def test_messages_show_a_files_name_as_it_is():
    assert problems.plain("<b>*x*</b> [a](b) & $c$") == (
        r"&lt;b&gt;\*x\*&lt;/b&gt; \[a\](b) &amp; \$c\$"
    )
