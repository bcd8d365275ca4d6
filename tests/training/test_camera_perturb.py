"""Camera perturbations: identity at no strength, definitions, statistics, keys, eight devices."""

import functools
import io
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from depth_anything_jax import configs
from depth_anything_jax.training import camera_perturb as camera
from depth_anything_jax.training import perturb, step
from depth_anything_jax.utils.encoders import DINOV2

SIDE = 37  # odd, and no multiple of JPEG's blocks
DEFAULTS = runpy.run_path(str(configs.folder() / "common.py"))["get_config"]().perturb.camera
KEYS = perturb.example_keys(0, 5, 4)
NONE = {  # the strength at which a kind does nothing
    "haze": {"depth": (0, 0)}, "defocus": {"radius": (0, 0)}, "motion": {"length": (0, 0)},
    "vignetting": {"loss": (0, 0)}, "exposure": {"stops": (0, 0)},
    "low_light": {"stops": (0, 0), "amplified": (0, 1)}, "noise": {"shot": (0, 0)},
}  # fmt: skip


STRONG = {"defocus": {"radius": (12, 16)}, "motion": {"length": (32, 48)}}  # seen at SIDE pixels


def photos(n=4, h=SIDE, w=SIDE, seed=0):
    """Smooth colours with some texture, in [0, 1]."""
    rng = np.random.default_rng(seed)
    coarse = jax.image.resize(rng.random((n, 5, 5, 3)), (n, h, w, 3), "cubic")
    return jnp.clip(coarse + 0.05 * rng.standard_normal((n, h, w, 3)), 0, 1).astype(jnp.float32)


def on(kind, p=1.0, **changes):
    return {kind: {**DEFAULTS[kind], "p": p, **changes}}


@functools.partial(jax.jit, static_argnames="kinds")
def applied(keys, images, kinds):
    return camera.camera(keys, images, **{k: dict(v) for k, v in kinds})


def run(images, keys=KEYS, **kinds):
    frozen = tuple((k, tuple((n, v) for n, v in f.items())) for k, f in kinds.items())
    return np.asarray(applied(keys, images, frozen))


@pytest.mark.parametrize("kind", [k for k in camera.KINDS if k != "jpeg"])
def test_no_strength_leaves_the_image(kind):
    x = photos()
    # 2e-6: sRGB to linear light and back in float32
    np.testing.assert_allclose(run(x, **on(kind, **NONE[kind])), x, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", camera.KINDS)
def test_a_kind_changes_its_examples_alone_by_their_keys(kind):
    """Probability, range, determinism, and independence of the other examples of the batch."""
    x = photos()
    kinds = on(kind, **STRONG.get(kind, {}))
    found = run(x, **kinds)
    assert found.shape == x.shape and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(found, x, strict=True))
    np.testing.assert_array_equal(run(x, **kinds), found)
    other = run(x, perturb.example_keys(0, 6, 4), **kinds)
    assert all((a != b).any() for a, b in zip(other, found, strict=True))
    # rounding of another program; JPEG's own rounding turns one of it into a level of 255
    alone = run(x[2:3], KEYS[2:3], **kinds)
    assert np.abs(alone[0] - found[2]).mean() < 1e-5
    rarely = run(x, **on(kind, p=1e-9))
    np.testing.assert_allclose(rarely, x, rtol=0, atol=2e-6)


def test_unknown_fields_and_ranges_are_refused():
    for kinds, message in (
        ({"snow": {"p": 1.0}}, r"perturb\.camera\.snow: choose among fov, haze"),
        ({"haze": {"p": 1.0}}, r"haze has the fields p; it takes p and depth"),
        (on("noise", p=2.0), r"noise\.p=2\.0"),
        (on("jpeg", quality=(50, 10)), r"jpeg\.quality=\(50, 10\)"),
        (on("defocus", radius=(0, 99)), r"defocus\.radius=\(0, 99\)"),
    ):
        with pytest.raises(ValueError, match=message):
            camera.camera(KEYS, photos(), **kinds)


def test_linear_light_is_srgb():
    x = jnp.linspace(0, 1, 256)
    assert camera.to_linear(jnp.array([0.5]))[0] == pytest.approx(0.21404, abs=1e-5)
    np.testing.assert_allclose(camera.to_srgb(camera.to_linear(x)), x, atol=1e-6)


def test_haze_follows_koschmieder():
    light, depth = photos(), jnp.array([0.0, 0.5, 1.0, 9.0])
    flat = jnp.full((4, 16), 0.5)  # the same optical depth everywhere
    found = camera.haze(light, depth, flat, jnp.full(4, 0.5))
    t = np.exp(-np.asarray(depth))[:, None, None, None]
    np.testing.assert_allclose(found, light * t + 0.8 * (1 - t), atol=1e-6)


def test_defocus_and_motion_are_their_shapes():
    """The image of a point: a disc, a line of the asked length; both keep the light."""
    point = jnp.zeros((2, SIDE, SIDE, 3)).at[:, 18, 18].set(1.0)
    radius = jnp.array([3.0, 6.0])
    disc = np.asarray(camera.defocus(point, radius, 6.0))[..., 0]
    np.testing.assert_allclose(disc.sum((1, 2)), 1, rtol=1e-5)
    y, x = np.mgrid[:SIDE, :SIDE] - 18
    for i in range(2):
        area = disc[i].sum() / disc[i].max()
        assert area == pytest.approx(np.pi * float(radius[i]) ** 2, rel=0.05)
        assert not disc[i][np.hypot(y, x) > radius[i] + 0.5].any()
    line = np.asarray(camera.motion(point, jnp.array([9.0, 9.0]), jnp.array([0, np.pi / 2]), 9.0))
    line = line[..., 0]
    np.testing.assert_allclose(line.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(line[0], line[1].T, atol=1e-6)
    assert (line[0].sum(0) > 1e-3).sum() == 9 and (line[0].sum(1) > 1e-3).sum() == 1


def test_vignetting_takes_the_asked_light_from_the_corners():
    light = jnp.ones((2, 21, 31, 3))
    found = np.asarray(camera.vignetting(light, jnp.array([0.3, 0.8])))
    np.testing.assert_allclose(found[:, 0, 0, 0], [0.7, 0.2], atol=1e-6)
    np.testing.assert_allclose(found[:, 10, 15, 0], 1, atol=1e-6)
    # cosine to the fourth: half-way to the corner
    tangent = (1 - 0.8) ** -0.5 - 1
    assert found[1, 5, 8, 0] == pytest.approx(
        (1 + tangent * (100 + 196) / 4 / (100 + 225)) ** -2, abs=0.02
    )


def test_stops_double_the_light_and_low_light_gives_back_a_share():
    x = camera.to_srgb(0.2 * jnp.ones((4, 8, 8, 3)))

    def light_of(**kinds):
        return np.asarray(camera.to_linear(jnp.asarray(run(x, **kinds))))

    np.testing.assert_allclose(light_of(**on("exposure", stops=(1, 1))), 0.4, rtol=1e-4)
    np.testing.assert_allclose(run(x, **on("exposure", stops=(4, 4))), 1, atol=1e-6)
    lost = on("low_light", stops=(2, 2), amplified=(0, 0))
    np.testing.assert_allclose(light_of(**lost), 0.05, rtol=1e-4)
    half = on("low_light", stops=(2, 2), amplified=(0.5, 0.5))
    np.testing.assert_allclose(light_of(**half), 0.1, rtol=1e-4)


def test_noise_has_the_variance_of_a_sensor():
    light = jnp.broadcast_to(jnp.array([0.1, 0.5])[:, None, None, None], (2, 96, 96, 3))
    shot, read = jnp.array([0.01, 0.002]), jnp.array([0.0, 0.001])
    error = np.asarray(camera.noise(KEYS[:2], light, shot, read) - light)
    want = [0.01 * 0.1, 0.002 * 0.5 + 0.001]
    # 27,648 draws: the variance's own deviation is 0.9 %
    np.testing.assert_allclose(error.var((1, 2, 3)), want, rtol=0.04)
    np.testing.assert_allclose(error.mean((1, 2, 3)), 0, atol=1e-3)
    assert abs(np.corrcoef(error[0, ..., 0].ravel(), error[0, ..., 1].ravel())[0, 1]) < 0.05


def test_noise_grows_where_less_light_is_amplified():
    x = jnp.full((4, 64, 64, 3), 0.5)
    lit = run(x, **on("noise", shot=(0.005, 0.005)))
    kinds = on("noise", shot=(0.005, 0.005)) | on("low_light", stops=(3, 3), amplified=(1, 1))
    dim = run(x, **kinds)
    assert dim.std() > 2 * lit.std()


@pytest.mark.parametrize("quality", [15, 50, 90])
def test_jpeg_is_what_a_codec_makes(quality):
    """Against Pillow's, with colours at half the resolution: the difference is rounding."""
    smooth = np.asarray(jax.image.resize(photos(2, 6, 6), (2, 45, 61, 3), "cubic")).clip(0, 1)
    x = np.round(255 * smooth) / 255
    ours = np.asarray(camera.jpeg(jnp.asarray(x), jnp.full(2, float(quality))))
    for image, coded in zip(x, ours, strict=True):
        data = io.BytesIO()
        Image.fromarray(np.round(255 * image).astype(np.uint8)).save(
            data, "JPEG", quality=quality, subsampling=2
        )
        want = np.asarray(Image.open(data), np.float32) / 255
        difference = np.sqrt(np.mean((coded - want) ** 2))
        lost = np.sqrt(np.mean((want - image) ** 2))
        assert difference < 0.1 * lost + 0.004, (difference, lost)
        assert np.sqrt(np.mean((coded - image) ** 2)) == pytest.approx(lost, rel=0.25, abs=0.002)


def test_a_narrow_field_enlarges_image_and_label_alike():
    """A ramp stays a ramp, over the window's share of its range."""
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, SIDE), (4, SIDE, SIDE))
    batch = {
        "image": jnp.stack([ramp] * 3, -1), "disparity": ramp, "valid": ramp > 0.5,
        "sky": ramp > 2, "shift_known": jnp.arange(4) > 1,
    }  # fmt: skip
    found = jax.jit(functools.partial(camera.narrow, p=1.0, share=(0.5, 0.5)))(KEYS, batch)
    np.testing.assert_allclose(found["image"][..., 0], found["disparity"], atol=0.6 / SIDE)
    spread = np.ptp(np.asarray(found["disparity"]), axis=(1, 2))
    np.testing.assert_allclose(spread, 0.5, atol=1.5 / SIDE)
    np.testing.assert_array_equal(found["valid"], found["disparity"] > 0.5)
    assert found["sky"].dtype == bool and not found["sky"].any()
    np.testing.assert_array_equal(found["shift_known"], batch["shift_known"])
    assert len({float(x) for x in found["disparity"][:, 0, 0]}) > 1
    whole = camera.narrow(KEYS, batch, p=1.0, share=(1.0, 1.0))
    for name, value in batch.items():
        np.testing.assert_array_equal(whole[name], value)


def test_the_step_distorts_as_configured_and_is_unchanged_by_default():
    """Old configs have no field for it; with all probabilities 0 nothing is computed."""
    config = runpy.run_path(str(configs.folder() / "common.py"))["get_config"]()
    label = photos(seed=1)[..., 0]
    yes = jnp.ones(label.shape, bool)
    batch = {
        "image": photos(), "disparity": label, "valid": yes, "sky": ~yes,
        "shift_known": jnp.zeros(4, bool),
    }  # fmt: skip

    def inputs(c):
        return step.unlabelled_inputs(batch, KEYS, c, DINOV2)

    now = inputs(config)
    config.perturb.camera.vignetting.p = config.perturb.camera.fov.p = 1.0
    other = inputs(config)
    assert (other["image"] != now["image"]).any() and (other["label"] != now["label"]).any()
    np.testing.assert_array_equal(other["mask"], now["mask"])
    del config.perturb.camera
    old = inputs(config)
    assert all((old[k] == now[k]).all() for k in now)


def test_eight_devices_see_the_same_camera():
    kinds = {k: v for kind in ("haze", "motion", "noise") for k, v in on(kind, p=0.7).items()}
    keys, x = perturb.example_keys(0, 1, 8), photos(8, 14, 14)
    want = run(x, keys, **kinds)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    found = run(jax.device_put(x, split), jax.device_put(keys, split), **kinds)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)
