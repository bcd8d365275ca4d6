"""Colour, blur and CutMix: against definitions, against torchvision, and on eight devices."""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from depth_anything_jax.training import perturb
from depth_anything_jax.utils.encoders import DINOV2
from tests.helpers import colour_reference

ROUNDING = 1e-12  # float64, a few dozen operations on numbers below 1


@functools.partial(jax.jit, static_argnames="max_sigma")
def colour(images, factors, **how):  # by the module's name, so that mutations reach it
    return perturb.apply_colour(images, factors, **how)


@jax.jit
def draw_colour(keys):
    return perturb.draw_colour(keys)


@functools.partial(jax.jit, static_argnums=(1, 2))
def draw_boxes(keys, h, w):
    return perturb.draw_boxes(keys, h, w, p=1.0)


def images(seed, b, h=7, w=9):
    """Random colours, with pixels of equal channels, black, white and saturated among them."""
    x = np.random.default_rng(seed).random((b, h, w, 3))
    x[:, 0, :5] = [[0, 0, 0], [1, 1, 1], [0.4, 0.4, 0.4], [1, 0, 0], [0.7, 0.7, 0.1]]
    return x


def factors_of(n, **changes):
    """Factors that leave every image as it is, with changes."""
    no, one, zero = np.zeros(n, bool), np.ones(n), np.zeros(n)
    neutral = dict(
        jitter=no, brightness=one, contrast=one, saturation=one, hue=zero,
        order=np.tile(np.arange(4, dtype=np.int32), (n, 1)), grey=no, blur=no, sigma=one,
    )  # fmt: skip
    return perturb.ColourFactors(**{k: jnp.asarray(v) for k, v in (neutral | changes).items()})


def every_order(**changes):
    rng = np.random.default_rng(1)
    order = np.array(list(itertools.permutations(range(4))), np.int32)
    ranges = dict(brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5))
    drawn = {k: rng.uniform(*v, 24) for k, v in ranges.items()}
    drawn["hue"] = rng.uniform(-0.25, 0.25, 24)
    return factors_of(24, jitter=np.ones(24, bool), order=order, **drawn, **changes)


def amounts(factors, i):
    return [
        float(f[i]) for f in (factors.brightness, factors.contrast, factors.saturation, factors.hue)
    ]


def test_jitter_in_every_order_equals_the_definitions(x64):
    x, factors = images(0, 24), every_order()
    got = colour(jnp.asarray(x), factors)
    for i in range(24):
        want = colour_reference.jitter(x[i], amounts(factors, i), np.asarray(factors.order[i]))
        np.testing.assert_allclose(got[i], want, rtol=0, atol=ROUNDING)
    assert len({got[i].tobytes() for i in range(24)}) == 24


def test_jitter_and_grey_only_where_drawn(x64):
    x = images(1, 4)
    on = np.array([False, True, False, True])
    factors = factors_of(4, jitter=on, brightness=np.full(4, 0.7), grey=on[::-1])
    got = colour(jnp.asarray(x), factors)
    grey = np.repeat(colour_reference.grey_of(x)[..., None], 3, axis=-1)
    want = np.where(on[:, None, None, None], 0.7 * x, grey)
    np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING)


def test_neutral_factors_only_clip():
    x = jnp.asarray(3 * images(2, 2) - 1, jnp.float32)
    np.testing.assert_array_equal(colour(x, factors_of(2)), jnp.clip(x, 0, 1))


def test_blur_is_the_gaussian_scaled_with_the_crop(x64):
    """At 37 = 518 / 14 pixels a sigma of 518 is divided by 14; edges repeat."""
    x = images(3, 4, 37, 40)
    sigma = np.array([0.1, 5.0, 14.0, 28.0])
    on = np.array([True, True, True, False])
    got = colour(jnp.asarray(x), factors_of(4, blur=on, sigma=sigma), max_sigma=28.0)
    for i in range(3):
        want = colour_reference.blur(x[i], sigma[i] / 14, radius=8)  # 4 · 28 / 14
        np.testing.assert_allclose(got[i], want, rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(got[3], x[3])
    np.testing.assert_array_equal(got[0], x[0])  # a sigma of 1 / 140 pixel


def torchvision_functional():
    """torchvision's functions, also where its compiled operators do not fit the torch at hand.

    A torchvision built for CUDA refuses to be imported beside a torch without. The transforms use
    none of its operators; naming the two that its import asks for is enough.
    """
    torch = pytest.importorskip("torch")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pytest.skip("no torchvision")
    except RuntimeError:
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in "nms", "qnms":
            library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from torchvision.transforms import functional

    return functional


@pytest.mark.parametrize(
    "hue, tolerance",
    [(False, 1e-9), (True, 1e-5)],  # torchvision turns hue in float32; blends after it amplify
)
def test_jitter_grey_and_blur_equal_torchvision_with_the_same_factors(x64, hue, tolerance):
    functional = torchvision_functional()
    import torch

    x = images(4, 24, 37, 38)
    grey, blur = np.arange(24) % 5 == 0, np.arange(24) % 2 == 0
    sigma = np.random.default_rng(2).uniform(2, 28, 24)
    factors = every_order(grey=grey, blur=blur, sigma=sigma)
    if not hue:
        factors = factors._replace(hue=0 * factors.hue)
    got = colour(jnp.asarray(x), factors, max_sigma=28.0)
    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue if hue else lambda image, turns: image,
    )
    for i in range(24):
        image = torch.tensor(x[i]).permute(2, 0, 1)
        for operation in factors.order[i]:
            image = adjust[operation](image, amounts(factors, i)[operation])
        inside = slice(None)
        if grey[i]:
            image = functional.rgb_to_grayscale(image, 3)
        if blur[i]:
            image = functional.gaussian_blur(image, [17, 17], [sigma[i] / 14] * 2)
            inside = slice(8, -8)  # torchvision reflects at the edge
        want = image.permute(1, 2, 0).numpy()
        np.testing.assert_allclose(
            got[i][inside, inside], want[inside, inside], rtol=0, atol=tolerance
        )


def kolmogorov_smirnov(a, b):
    """Largest difference of two samples' distribution functions, over its 99.9 % bound."""
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    difference = np.searchsorted(a, both, "right") / len(a) - np.searchsorted(
        b, both, "right"
    ) / len(b)
    return np.abs(difference).max() / (1.95 * np.sqrt(1 / len(a) + 1 / len(b)))


def test_colour_factors_are_drawn_as_asked():
    n = 6000
    factors = draw_colour(perturb.example_keys(0, 7, n))
    grid = (np.arange(100_000) + 0.5) / 100_000
    for name in "brightness", "contrast", "saturation":
        assert kolmogorov_smirnov(np.asarray(getattr(factors, name)), 0.5 + grid) < 1
    assert kolmogorov_smirnov(np.asarray(factors.hue), 0.5 * grid - 0.25) < 1
    assert kolmogorov_smirnov(np.asarray(factors.sigma), 0.1 + 1.9 * grid) < 1
    for name, p in ("jitter", 0.8), ("grey", 0.2), ("blur", 0.5):
        share = np.asarray(getattr(factors, name)).mean()
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / n), name
    orders, counts = np.unique(np.asarray(factors.order), axis=0, return_counts=True)
    assert len(orders) == 24 and (np.abs(counts - n / 24) < 4.5 * np.sqrt(n / 24)).all()
    columns = np.stack([np.asarray(c, float) for c in factors if c.ndim == 1])
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(n)


@pytest.mark.parametrize("h, w", [(56, 56), (42, 70)])
def test_boxes_are_distributed_as_by_rejection(h, w):
    n = 3000
    boxes = np.stack(draw_boxes(perturb.example_keys(1, 0, n), h, w))
    rng = np.random.default_rng(0)
    want = np.array([colour_reference.box(rng, h, w) for _ in range(n)]).T
    biased = np.array([colour_reference.box(rng, h, w, redraw_area=True) for _ in range(n)]).T

    def area(b):
        return (b[2] - b[0]) * (b[3] - b[1])

    def aspect(b):
        return (b[2] - b[0]) / (b[3] - b[1])

    figures = (area, aspect, *(lambda b, i=i: b[i] for i in range(4)))
    assert max(kolmogorov_smirnov(f(boxes), f(want)) for f in figures) < 1
    assert kolmogorov_smirnov(area(biased), area(want)) > 2  # the check can tell
    y0, x0, y1, x1 = boxes
    assert (0 <= y0).all() and (y0 < y1).all() and (y1 <= h).all()
    assert (0 <= x0).all() and (x0 < x1).all() and (x1 <= w).all()


def test_half_of_the_masks_are_empty_and_the_others_are_their_boxes():
    keys = perturb.example_keys(2, 3, 400)
    boxes, masks, none = jax.jit(
        lambda k: (
            perturb.draw_boxes(k, 20, 30),
            perturb.cutmix_masks(k, 20, 30),
            perturb.cutmix_masks(k, 20, 30, p=0.0),
        )
    )(keys)
    masks = np.asarray(masks)
    drawn = masks.any(axis=(1, 2))
    assert abs(drawn.mean() - 0.5) < 4 * 0.5 / np.sqrt(400)
    for mask, y0, x0, y1, x1 in zip(masks, *map(np.asarray, boxes), strict=True):
        want = np.zeros((20, 30), bool)
        want[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(mask, want)
    assert not none.any()


def test_a_box_that_never_fits_takes_the_aspect_of_the_image():
    """Area .9 and an aspect of 4 or more: no proposal fits a square."""
    large = dict(p=1.0, size_min=0.9, size_max=0.9, ratio_min=4.0, ratio_max=9.0)
    draw = jax.jit(lambda keys: perturb.draw_boxes(keys, 40, 40, **large))
    boxes = draw(perturb.example_keys(0, 0, 50))
    y0, x0, y1, x1 = map(np.asarray, boxes)
    assert (y1 - y0 == 37).all() and (x1 - x0 == 37).all()
    assert set(y0) == set(x0) == {0, 1, 2, 3}


def test_partner_and_mix_take_pixels_and_labels_from_the_same_image():
    x = jnp.arange(4.0)[:, None, None, None] * jnp.ones((4, 6, 6, 3))
    label = x[..., 0] + 10
    mask = perturb.boxes_to_mask(
        perturb.Boxes(*jnp.array([[1] * 4, [2] * 4, [3] * 4, [5] * 4])), 6, 6
    )
    mixed = perturb.mix(x, perturb.partner(x), mask)
    mixed_label = perturb.mix(label, perturb.partner(label), mask)
    np.testing.assert_array_equal(mixed[..., 0] + 10, mixed_label)
    for i in range(4):
        assert (mixed[i][mask[i]] == (i - 1) % 4).all() and (mixed[i][~mask[i]] == i).all()
        assert mask[i].sum() == 6


def test_draws_hang_on_seed_step_and_global_index_alone():
    keys = perturb.example_keys(5, 11, 8)
    data = jax.random.key_data
    parts = [perturb.example_keys(5, jnp.int32(11), 4, start) for start in (0, 4)]
    np.testing.assert_array_equal(data(keys), np.concatenate([data(k) for k in parts]))
    others = [perturb.example_keys(6, 11, 8), perturb.example_keys(5, 12, 8)]
    assert len(np.unique(np.concatenate([data(k) for k in (keys, *others)]), axis=0)) == 24
    draw = jax.jit(lambda keys: (perturb.draw_colour(keys), perturb.draw_boxes(keys, 30, 30)))
    narrow = draw(keys)
    with jax.enable_x64(True):  # the draws are float32 all the same
        jax.tree.map(np.testing.assert_array_equal, narrow, draw(keys))


def test_eight_devices_perturb_as_one_does():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    x = jnp.asarray(images(5, 16, 14, 14), jnp.float32)

    @jax.jit
    def step(x, step):
        keys = perturb.example_keys(0, step, 16)
        x = perturb.normalise(perturb.colour(keys, x), DINOV2)
        mask = perturb.cutmix_masks(keys, 14, 14)
        return perturb.mix(x, perturb.partner(x), mask), mask, perturb.draw_colour(keys)

    want, want_mask, want_factors = step(x, jnp.int32(4))
    spread = jax.device_put(x, sharding)
    program = step.lower(spread, jnp.int32(4)).compile()
    got, mask, factors = program(spread, jnp.int32(4))
    np.testing.assert_array_equal(mask, want_mask)
    jax.tree.map(np.testing.assert_array_equal, factors, want_factors)
    # float32; only the mean grey of an image is a sum, and it is summed on one device
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert mask.any() and not mask.all()
    colours = DINOV2.denormalise(got)
    assert colours.min() > -1e-6 and colours.max() < 1 + 1e-6  # float32
    assert "all-gather" not in program.as_text() and "collective-permute" in program.as_text()


def test_precision_of_the_images_is_kept_or_widened(x64):
    keys = perturb.example_keys(0, 0, 2)
    for narrow, wide in ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64"):
        x = jax.ShapeDtypeStruct((2, 7, 9, 3), narrow)
        assert jax.eval_shape(perturb.colour, keys, x).dtype == wide
        assert jax.eval_shape(lambda x: perturb.normalise(x, DINOV2), x).dtype == wide


def test_normalisation_is_imagenets():
    x = images(7, 1)
    want = (x - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        perturb.normalise(jnp.asarray(x), DINOV2), want, rtol=1e-5
    )  # float32


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda k: perturb.draw_colour(k, hue=0.6), "hue=0.6"),
        (lambda k: perturb.draw_colour(k, jitter_p=1.2), "jitter_p=1.2"),
        (lambda k: perturb.draw_colour(k, brightness=-1.0), "brightness=-1"),
        (lambda k: perturb.draw_colour(k, blur_sigma=(0.0, 1.0)), "blur_sigma"),
        (lambda k: perturb.draw_boxes(k, 9, 9, p=-1.0), "p=-1"),
        (lambda k: perturb.draw_boxes(k, 9, 9, size_min=0.5), "size_min=0.5, size_max=0.4"),
        (lambda k: perturb.draw_boxes(k, 9, 9, ratio_max=0.1), "ratio_max=0.1"),
        (lambda k: perturb.partner(jnp.ones((1, 2))), "own partner"),
        (lambda k: perturb.partner(jnp.ones((4, 2)), shift=8), "shift=8.*batch of 4"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(perturb.example_keys(0, 0, 2))


def test_overshoot_of_the_resize_is_clipped_before_the_jitter():
    """1.2 darkened by half is half of white, not .6: the jitter is of images in 0-1."""
    over = jnp.full((1, 6, 6, 3), 1.2, jnp.float32)
    dark = factors_of(1, jitter=np.array([True]), brightness=np.full(1, 0.5))
    np.testing.assert_allclose(colour(over, dark), 0.5, atol=1e-6)
