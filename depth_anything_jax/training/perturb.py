"""Strong perturbation of unlabelled images: colour, blur, CutMix.

Depth Anything V1 §3.2; ranges and probabilities of UniMatch, which its authors name as the source.

Every draw depends only on (seed, step, index of the example in the global batch), so that any
number of devices draws the same. Each random function is a draw followed by a deterministic
function of the drawn values: `draw_colour` and `apply_colour`, `draw_boxes` and `boxes_to_mask`.
Draws are always float32; images are computed in at least float32.

The factors have torchvision's meaning. A colour jitter is three blends with something grey (black,
the image's mean grey, its own grey) and a rotation of hue, in an order of its own per example.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from depth_anything_jax.losses.order_statistics import at_least_float32
from depth_anything_jax.utils.encoders import EncoderSpec

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # torchvision's rounding of ITU-R 601
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # values of `ColourFactors.order`

BLUR_SIGMA = (0.1, 2.0)  # UniMatch, in pixels of a crop of BLUR_SIZE
BLUR_SIZE = 518
BLUR_TRUNCATE = 4.0  # kernel radius in standard deviations: leaves out 6e-5 of the mass
BOX_PROPOSALS = 256  # at an area of .4 of a square one in 16 fits

_COLOUR_STREAM, _BOX_STREAM = 0, 100  # keeps draws apart that are made from the same key


class ColourFactors(NamedTuple):
    """The random factors of b examples, drawn by `draw_colour`."""

    jitter: Bool[Array, " b"]
    brightness: Float[Array, " b"]  # 1 leaves the image as it is
    contrast: Float[Array, " b"]
    saturation: Float[Array, " b"]
    hue: Float[Array, " b"]  # in turns of the colour circle, 0 leaves the image as it is
    order: Int[Array, "b 4"]  # the operations (BRIGHTNESS, …, HUE), first to last
    grey: Bool[Array, " b"]
    blur: Bool[Array, " b"]
    sigma: Float[Array, " b"]  # in pixels of a crop of BLUR_SIZE


class Boxes(NamedTuple):
    """Rows y0 ≤ y < y1 and columns x0 ≤ x < x1 of b boxes; all 0 where there is none."""

    y0: Int[Array, " b"]
    x0: Int[Array, " b"]
    y1: Int[Array, " b"]
    x1: Int[Array, " b"]


def example_keys(
    seed: int, step: Int[Array, ""] | int, n: int, start: Int[Array, ""] | int = 0
) -> Key[Array, " n"]:
    """Makes the keys of examples start … start + n - 1 of the global batch at a step."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(start + jnp.arange(n, dtype=jnp.uint32))


def normalise(images: Float[Array, "b h w 3"], encoder: EncoderSpec) -> Float[Array, "b h w 3"]:
    """Normalises RGB images in [0, 1] for the encoder, in at least float32."""
    return encoder.normalise(at_least_float32(images))


def colour(
    keys: Key[Array, " b"],
    images: Float[Array, "b h w 3"],
    *,
    blur_sigma: tuple[float, float] = BLUR_SIGMA,
    **ranges: float,
) -> Float[Array, "b h w 3"]:
    """Applies jitter, greyscale, Gaussian blur and clip to images in [0, 1]; see `draw_colour`."""
    factors = draw_colour(keys, blur_sigma=blur_sigma, **ranges)
    return apply_colour(images, factors, max_sigma=blur_sigma[1])


def draw_colour(
    keys: Key[Array, " b"],
    *,
    brightness: float = 0.5,
    contrast: float = 0.5,
    saturation: float = 0.5,
    hue: float = 0.25,
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: float = 0.5,
    blur_sigma: tuple[float, float] = BLUR_SIGMA,
) -> ColourFactors:
    """Draws the random factors of `colour`; every factor of every example has its own key.

    Args: brightness … hue and the probabilities as in torchvision's ColorJitter, RandomApply and
      RandomGrayscale. `blur_sigma` is the range of the standard deviation in pixels of a crop of
      518; it scales with the shorter side of the images.

    Raises:
      ValueError: for a range or probability out of bounds, naming it.
    """
    for name, value in dict(jitter_p=jitter_p, grey_p=grey_p, blur_p=blur_p).items():
        within(name, value, 0, 1)
    for name, value in dict(
        brightness=brightness, contrast=contrast, saturation=saturation
    ).items():
        within(name, value, 0, math.inf)
    within("hue", hue, 0, 0.5)
    if not 0 < blur_sigma[0] <= blur_sigma[1]:
        raise ValueError(f"blur_sigma={blur_sigma}: give (low, high) with 0 < low <= high")

    def draw(key):
        u = _uniforms(key, _COLOUR_STREAM, 9, 4)

        def between(i, low, high):
            return low + (high - low) * u[i, 0]

        return ColourFactors(
            jitter=u[0, 0] < jitter_p,
            brightness=between(1, max(0.0, 1 - brightness), 1 + brightness),
            contrast=between(2, max(0.0, 1 - contrast), 1 + contrast),
            saturation=between(3, max(0.0, 1 - saturation), 1 + saturation),
            hue=between(4, -hue, hue),
            order=jnp.argsort(u[5]).astype(jnp.int32),
            grey=u[6, 0] < grey_p,
            blur=u[7, 0] < blur_p,
            sigma=between(8, *blur_sigma),
        )

    return jax.vmap(draw)(keys)


def apply_colour(
    images: Float[Array, "b h w 3"], factors: ColourFactors, *, max_sigma: float = BLUR_SIGMA[1]
) -> Float[Array, "b h w 3"]:
    """Applies drawn factors; `max_sigma` bounds the sigmas and sets the kernel's radius."""
    images = jnp.clip(at_least_float32(images), 0, 1)
    images = _jitter(images, factors)
    images = jnp.where(wide(factors.grey), _grey(images), images)
    scale = min(images.shape[1:3]) / BLUR_SIZE
    images = _blur(
        images, factors.blur, factors.sigma.astype(images.dtype) * scale, max_sigma * scale
    )
    return jnp.clip(images, 0, 1)


def _jitter(images, factors) -> Array:
    """Applies the blends and the hue rotation in each example's own order.

    In a batch every branch is computed for every example, and hue is the expensive one. So it is
    computed once: first the blends before it, then hue, then the blends after it.
    """
    order = factors.order
    is_hue = order == HUE
    turn = jnp.argmax(is_hue, axis=1)  # how many blends come before hue
    # the three blends in order, hue taken out
    slot = jnp.arange(3)[None] + (jnp.arange(3)[None] >= turn[:, None])
    blends = jnp.take_along_axis(order, slot, axis=1)
    amounts = jnp.stack([factors.brightness, factors.contrast, factors.saturation], axis=1)
    amounts = jnp.take_along_axis(amounts, blends, axis=1).astype(images.dtype)

    def blend(images, i, active):
        grey = _grey(images)
        mean = jnp.mean(grey, axis=(1, 2, 3), keepdims=True)
        kind = wide(blends[:, i])
        other = jnp.where(kind == BRIGHTNESS, 0, jnp.where(kind == CONTRAST, mean, grey))
        amount = wide(amounts[:, i])
        mixed = jnp.clip(amount * images + (1 - amount) * other, 0, 1)
        return jnp.where(wide(factors.jitter & active), mixed, images)

    for i in range(3):
        images = blend(images, i, i < turn)
    rotated = _rotate_hue(images, factors.hue.astype(images.dtype))
    images = jnp.where(wide(factors.jitter), rotated, images)
    for i in range(3):
        images = blend(images, i, i >= turn)
    return images


def _grey(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 1"]:
    red, green, blue = GREY_WEIGHTS
    return red * images[..., :1] + green * images[..., 1:2] + blue * images[..., 2:]


def _rotate_hue(images: Float[Array, "b h w 3"], turns: Float[Array, " b"]) -> Array:
    """Rotates the hue of the HSV hexcone; saturation and value stay."""
    r, g, b = images[..., 0], images[..., 1], images[..., 2]
    value = jnp.maximum(jnp.maximum(r, g), b)
    chroma = value - jnp.minimum(jnp.minimum(r, g), b)
    per = 1 / jnp.where(chroma == 0, 1, chroma)
    sixths = jnp.where(
        value == r, (g - b) * per, jnp.where(value == g, 2 + (b - r) * per, 4 + (r - g) * per)
    )
    sixths = sixths + 6 * turns[:, None, None]

    def channel(offset):
        k = jnp.mod(offset + sixths, 6)
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


def _blur(images, active, sigma, max_sigma: float) -> Array:
    """Blurs with a separable Gaussian of each example's sigma; edges are repeated, as PIL does.

    The kernel's radius is fixed by the largest sigma; inactive examples get a kernel of one pixel.
    """
    radius = math.ceil(BLUR_TRUNCATE * max_sigma)
    offsets = jnp.arange(-radius, radius + 1, dtype=images.dtype)
    weights = jnp.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    weights = jnp.where(active[:, None], weights, offsets == 0)
    for axis in (1, 2):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(4)]
        padded = jnp.pad(images, pad, mode="edge")
        size = images.shape[axis]
        images = sum(
            wide(weights[:, i]) * lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i in range(2 * radius + 1)
        )
    return images


def cutmix_masks(keys: Key[Array, " b"], h: int, w: int, **ranges: float) -> Bool[Array, "b h w"]:
    """Draws masks, True inside a random box (the partner's pixels), if any; see `draw_boxes`."""
    return boxes_to_mask(draw_boxes(keys, h, w, **ranges), h, w)


def draw_boxes(
    keys: Key[Array, " b"],
    h: int,
    w: int,
    *,
    p: float = 0.5,
    size_min: float = 0.02,
    size_max: float = 0.4,
    ratio_min: float = 0.3,
    ratio_max: float = 1 / 0.3,
) -> Boxes:
    """Draws boxes as UniMatch does: area once, aspect and corner repeatedly until they fit.

    The area is a uniform share of h·w in [size_min, size_max], the aspect (height / width) uniform
    in [ratio_min, ratio_max], the corner a uniform pixel; sides are rounded down. The redrawing is
    BOX_PROPOSALS draws at once, of which the first that fits is taken; if none does (less than
    1e-6 of the boxes at the default ranges) the box has the image's aspect.

    Raises:
      ValueError: for a probability or range out of bounds, naming it.
    """
    within("p", p, 0, 1)
    if not 0 < size_min <= size_max <= 1:
        raise ValueError(f"size_min={size_min}, size_max={size_max}: 0 < min <= max <= 1 is needed")
    if not 0 < ratio_min <= ratio_max:
        raise ValueError(f"ratio_min={ratio_min}, ratio_max={ratio_max}: 0 < min <= max is needed")

    def draw(key):
        u = _uniforms(key, _BOX_STREAM, 5, BOX_PROPOSALS + 1)
        drawn, y, x = u[0, 0] < p, u[3], u[4]
        area = (size_min + (size_max - size_min) * u[1, 0]) * (h * w)
        # the last one always fits: the image's aspect, its corner drawn from those that fit
        last = jnp.arange(BOX_PROPOSALS + 1) == BOX_PROPOSALS
        ratio = jnp.where(last, h / w, ratio_min + (ratio_max - ratio_min) * u[2])
        height = jnp.clip(jnp.floor(jnp.sqrt(area * ratio)), 1).astype(jnp.int32)
        width = jnp.clip(jnp.floor(jnp.sqrt(area / ratio)), 1).astype(jnp.int32)
        height = jnp.where(last, jnp.minimum(height, h), height)
        width = jnp.where(last, jnp.minimum(width, w), width)
        rows, columns = jnp.where(last, h - height + 1, h), jnp.where(last, w - width + 1, w)
        y = jnp.minimum((y * rows).astype(jnp.int32), rows - 1)
        x = jnp.minimum((x * columns).astype(jnp.int32), columns - 1)
        first = jnp.argmax((y + height <= h) & (x + width <= w))
        corners = jnp.stack([y, x, y + height, x + width])[:, first]
        return Boxes(*jnp.where(drawn, corners, 0))

    return jax.vmap(draw)(keys)


def boxes_to_mask(boxes: Boxes, h: int, w: int) -> Bool[Array, "b h w"]:
    """Returns masks that are True inside each box."""
    y, x = jnp.arange(h)[None, :, None], jnp.arange(w)[None, None, :]
    y0, x0, y1, x1 = (side[:, None, None] for side in boxes)
    return (y >= y0) & (y < y1) & (x >= x0) & (x < x1)


def partner(x: Array, shift: int = 1) -> Array:
    """Rolls the batch by `shift`: row i gets row i - shift. On a mesh one collective-permute.

    Raises:
      ValueError: where an image would be its own partner.
    """
    if shift % len(x) == 0:
        raise ValueError(
            f"CutMix with shift={shift} in a batch of {len(x)} makes every image its own partner:"
            " use at least 2 unlabelled images a batch and a shift that they do not divide"
        )
    return jnp.roll(x, shift, axis=0)


def mix(x: Array, partner_x: Array, mask: Bool[Array, "b h w"]) -> Array:
    """Returns partner_x where the mask holds, else x; of shape (b, h, w) or (b, h, w, c)."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), partner_x, x)


def _uniforms(key, stream: int, n: int, size: int) -> Float[Array, "n size"]:
    """Draws uniformly in [0, 1), each of the n rows from its own key; compiled once for all."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(stream + jnp.arange(n, dtype=jnp.uint32))
    return jax.vmap(lambda key: jax.random.uniform(key, (size,), jnp.float32))(keys)


def wide(per_example: Array) -> Array:
    """Reshapes (b,) to (b, 1, 1, 1)."""
    return per_example[:, None, None, None]


def within(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError for a value outside [low, high], naming it."""
    if not low <= value <= high:
        raise ValueError(f"{name}={value}: must lie in [{low}, {high}]")
