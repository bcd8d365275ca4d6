"""Perturbs unlabelled images as another camera would: optics, light, sensor, compression.

The paper's perturbation (`perturb`) does not know the camera that the images come from. These are
off unless a config switches them on (`perturb.camera`), and follow the way of the light: field of
view, haze, defocus, motion, vignetting, exposure and low light, the sensor's noise, JPEG.

As in `perturb`, every draw depends only on (seed, step, index of the example in the global batch),
each kind has draws of its own, and a strength of 0 leaves an image as it is. A kind whose
probability is 0 is no part of the compiled step. Lengths in pixels are those of a crop of 518 and
scale with the shorter side. Everything between haze and noise is computed in linear light.

  field of view  a window of the crop, enlarged to the crop, image and label alike: a longer lens.
                 Ours; the teacher has seen the wider view
  haze           Koschmieder's law: light * t + airlight * (1 - t). The optical depth varies
                 smoothly over the image and is drawn, not made from the label: a student could
                 read the label off a haze that knows it. Ours
  defocus        a disc with a soft edge, the image of a point out of focus. Ours
  motion         a line, the path of a point while the shutter is open. Ours
  vignetting     the cosine to the fourth of the angle to the axis; given by the corners' loss
  exposure       stops, clipped where the sensor is full. Ours
  low light      stops lost before the sensor, a share of which is amplified after its noise. Ours
  noise          Poisson's and the read-out's, as one Gaussian of variance shot * light + read.
                 Ranges and the relation of the two of Brooks et al. 2019 (Unprocessing, section
                 3.1), here in RGB and without demosaicing, which is ours
  JPEG           the standard's tables (ISO/IEC 10918-1, annex K) at IJG's quality, colours at half
                 the resolution, enlarged linearly as libjpeg does: the decoded image without a
                 file, because entropy coding loses nothing
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from depth_anything_jax.losses.order_statistics import at_least_float32
from depth_anything_jax.training.perturb import BLUR_SIZE, wide, within

Vector = Float[Array, " b"]
Images = Float[Array, "b h w 3"]

KINDS = ("haze", "defocus", "motion", "vignetting", "exposure", "low_light", "noise", "jpeg")
RANGES = {  # kind → its ranges; `fov` is applied by `narrow`
    "fov": ("share",), "haze": ("depth",), "defocus": ("radius",), "motion": ("length",),
    "vignetting": ("loss",), "exposure": ("stops",), "low_light": ("stops", "amplified"),
    "noise": ("shot",), "jpeg": ("quality",),
}  # fmt: skip
_STREAMS = {kind: 200 + i for i, kind in enumerate(RANGES)}  # apart from those of `perturb`
_HAZE_GRID = 4  # cells along each side between which the optical depth is interpolated
_AIRLIGHT = (0.6, 1.0)  # grey of the haze itself, in linear light
# Brooks et al.: log read = 2.18 log shot + 1.20, with a standard deviation of .26
_READ = (2.18, 1.20, 0.26)

# The standard's tables K.1 (luminance) and K.2 (chrominance).
_LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TO_YCBCR = np.array([  # JFIF
    [0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312],
])  # fmt: skip
_EXACT = lax.Precision.HIGHEST  # matrix units would round coefficients to bfloat16


def camera(keys: Key[Array, " b"], images: Images, **kinds: Any) -> Images:
    """Applies the kinds of KINDS whose probability is above 0 to images in [0, 1].

    Args:
      keys: of the examples.
      images: square crops, or of any shape.
      **kinds: kind → "p" and the kind's ranges (RANGES) as (low, high).

    Raises:
      ValueError: an unknown kind, or a probability or range out of bounds, naming it.
    """
    on = {k: v for k, v in _checked(kinds).items() if v["p"] > 0 and k in KINDS}
    images = jnp.clip(at_least_float32(images), 0, 1)
    drawn = {k: _draw(keys, k, v) for k, v in on.items()}
    pixel = min(images.shape[1:3]) / BLUR_SIZE
    if set(on) - {"jpeg"}:
        light = to_linear(images)
        if "haze" in on:
            grid = _uniforms(keys, "haze", _HAZE_GRID**2 + 1, start=8)
            light = haze(light, drawn["haze"]["depth"], grid[:, 1:], grid[:, 0])
        if "defocus" in on:
            most = on["defocus"]["radius"][1] * pixel
            light = defocus(light, drawn["defocus"]["radius"] * pixel, most)
        if "motion" in on:
            angle = math.pi * _uniforms(keys, "motion", 1, start=8)[:, 0]
            most = on["motion"]["length"][1] * pixel
            light = motion(light, drawn["motion"]["length"] * pixel, angle, most)
        if "vignetting" in on:
            light = vignetting(light, drawn["vignetting"]["loss"])
        dim = drawn.get("low_light", {"stops": 0.0, "amplified": 0.0})
        stops = drawn.get("exposure", {"stops": 0.0})["stops"] - dim["stops"]
        if {"exposure", "low_light"} & set(on):
            light = expose(light, stops)
        if "noise" in on:
            shot = drawn["noise"]["shot"]
            slope, offset, deviation = _READ
            bell = jax.vmap(lambda k: jax.random.normal(_stream(k, "noise", 8), (), jnp.float32))
            read = jnp.exp(slope * jnp.log(shot) + offset + deviation * bell(keys))
            light = noise(keys, light, shot, jnp.where(shot > 0, read, 0))
        if "low_light" in on:  # after the noise, which grows with the signal
            light = expose(light, dim["amplified"] * dim["stops"])
        # Sensors clip what is too bright; below, they see noise around black.
        images = to_srgb(jnp.clip(light, 0, 1))
    if "jpeg" in on:
        coded = jpeg(images, drawn["jpeg"]["quality"])
        images = jnp.where(wide(drawn["jpeg"]["active"]), coded, images)
    return images


def narrow(
    keys: Key[Array, " b"], batch: Mapping[str, Array], *, p: float, share: tuple[float, float]
) -> dict[str, Array]:
    """Enlarges a random window of each image to the image's size, its label and masks alike.

    Images are interpolated linearly, labels and masks take the nearest pixel.

    Args:
      keys: of the examples.
      batch: image (b, h, w, 3), maps (b, h, w); anything else is passed on.
      p: probability.
      share: of the sides that the window has, (low, high).

    Raises:
      ValueError: a probability or range out of bounds.
    """
    _checked({"fov": {"p": p, "share": share}})
    drawn = _draw(keys, "fov", {"p": p, "share": share})
    side = jnp.where(drawn["active"], drawn["share"], 1.0)
    corner = (1 - side)[:, None] * _uniforms(keys, "fov", 2, start=8)

    def window(x: Array) -> Array:
        if x.ndim < 3:
            return x
        for axis in (1, 2):
            n = x.shape[axis]
            at = (jnp.arange(n) + 0.5) * side[:, None] + corner[:, axis - 1 : axis] * n - 0.5
            at = jnp.clip(at, 0, n - 1)

            def rows(index, x=x, axis=axis):
                index = jnp.clip(index, 0, x.shape[axis] - 1).astype(jnp.int32)
                shape = [len(x)] + [1] * (x.ndim - 1)
                shape[axis] = -1
                return jnp.take_along_axis(x, index.reshape(shape), axis=axis)

            if x.ndim == 4:
                low = jnp.floor(at)
                weight = (at - low).reshape([len(x)] + [-1 if a == axis else 1 for a in (1, 2, 3)])
                first, second = rows(low), rows(low + 1)
                x = first + weight.astype(x.dtype) * (second - first)
            else:
                x = rows(jnp.round(at))
        return x

    return {name: window(x) for name, x in batch.items()}


def to_linear(images: Array) -> Array:
    """Converts sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    curve = ((jnp.maximum(images, 0.04045) + 0.055) / 1.055) ** 2.4
    return jnp.where(images <= 0.04045, images / 12.92, curve)


def to_srgb(light: Array) -> Array:
    """Reverses `to_linear`."""
    curve = 1.055 * jnp.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(light <= 0.0031308, 12.92 * light, curve)


def haze(light: Images, depth: Vector, cells: Float[Array, "b n"], grey: Vector) -> Images:
    """Puts haze of a mean optical depth between camera and scene.

    Args:
      cells: uniform draws of a square grid, which vary the optical depth between .5 and 1.5.
      grey: a uniform draw, of the airlight.
    """
    b, h, w, _ = light.shape
    side = math.isqrt(cells.shape[1])
    field = jax.image.resize(0.5 + cells.reshape(b, side, side), (b, h, w), "bilinear")
    passed = jnp.exp(-depth[:, None, None] * field)[..., None].astype(light.dtype)
    airlight = wide(_AIRLIGHT[0] + (_AIRLIGHT[1] - _AIRLIGHT[0]) * grey).astype(light.dtype)
    return light * passed + airlight * (1 - passed)


def defocus(light: Images, radius: Vector, most: float) -> Images:
    """Blurs with discs of the given radii, in pixels, of which `most` is the largest."""

    def disc(y, x):
        return jnp.clip(radius + 0.5 - math.hypot(y, x), 0, 1)

    return _spread(light, disc, math.floor(most + 0.5))


def motion(light: Images, length: Vector, angle: Vector, most: float) -> Images:
    """Blurs along lines of the given lengths, in pixels, of which `most` is the largest."""
    sine, cosine = jnp.sin(angle), jnp.cos(angle)

    def line(y, x):
        along, beside = jnp.abs(x * cosine + y * sine), jnp.abs(y * cosine - x * sine)
        weight = jnp.clip(length / 2 + 0.5 - along, 0, 1) * jnp.clip(1 - beside, 0, 1)
        return jnp.where(length > 0, weight, float(y == x == 0))

    return _spread(light, line, math.ceil(most / 2 + 0.5))


def _spread(light: Images, weight: Callable[[int, int], Vector], radius: int) -> Images:
    """Convolves each image with its own kernel; edges are repeated.

    A loop over the kernel's pixels: its products stay on the device that holds the example, and the
    program does not grow with the kernel.
    """
    offsets = [(y, x) for y in range(-radius, radius + 1) for x in range(-radius, radius + 1)]
    weights = jnp.stack([weight(y, x) for y, x in offsets]).astype(light.dtype)
    weights = weights / jnp.sum(weights, axis=0)
    padded = jnp.pad(light, [(0, 0), (radius, radius), (radius, radius), (0, 0)], mode="edge")
    side = 2 * radius + 1

    def add(i, total):
        moved = lax.dynamic_slice(padded, (0, i // side, i % side, 0), light.shape)
        return total + wide(weights[i]) * moved

    return lax.fori_loop(0, len(offsets), add, jnp.zeros_like(light))


def vignetting(light: Images, loss: Vector) -> Images:
    """Darkens by the cosine to the fourth; corners lose the given share of their light."""
    h, w = light.shape[1:3]
    y, x = (jnp.linspace(-1, 1, n) for n in (h, w))
    square = (y[:, None] ** 2 * h**2 + x[None] ** 2 * w**2) / (h**2 + w**2)  # 1 in the corners
    tangent = (1 - loss) ** -0.5 - 1
    fall = (1 + tangent[:, None, None] * square) ** -2.0
    return light * fall[..., None].astype(light.dtype)


def expose(light: Images, stops: Vector) -> Images:
    """Multiplies light by two to the power of the stops."""
    return light * wide(2.0**stops).astype(light.dtype)


def noise(keys: Key[Array, " b"], light: Images, shot: Vector, read: Vector) -> Images:
    """Adds Gaussian noise of variance shot * light + read, of its own in every channel."""
    shape = light.shape[1:]
    normal = jax.vmap(lambda k: jax.random.normal(_stream(k, "noise", 9), shape, jnp.float32))
    variance = wide(shot) * jnp.maximum(light, 0) + wide(read)
    return light + jnp.sqrt(variance).astype(light.dtype) * normal(keys).astype(light.dtype)


def jpeg(images: Images, quality: Vector) -> Images:
    """Compresses images in [0, 1] as JPEG of the given quality (1 to 100), and decodes them."""
    b, h, w, _ = images.shape
    pad = [(0, 0), (0, -h % 16), (0, -w % 16), (0, 0)]
    colours = jnp.asarray(_TO_YCBCR, images.dtype)
    pixels = jnp.round(255 * jnp.pad(images, pad, mode="edge"))
    planes = jnp.einsum("bhwc,dc->bdhw", pixels, colours, precision=_EXACT)
    rows, columns = planes.shape[2:]
    luminance = _coded(planes[:, 0] - 128, _tables(_LUMINANCE, quality)) + 128
    halves = planes[:, 1:].reshape(b * 2, rows // 2, 2, columns // 2, 2).mean((2, 4))
    half = _coded(halves, jnp.repeat(_tables(_CHROMINANCE, quality), 2, axis=0))
    chrominance = jax.image.resize(half, (2 * b, rows, columns), "bilinear")
    chrominance = chrominance.reshape(b, 2, rows, columns)
    planes = jnp.concatenate([luminance[:, None], chrominance], axis=1)
    back = jnp.asarray(np.linalg.inv(_TO_YCBCR), images.dtype)
    out = jnp.einsum("bdhw,cd->bhwc", planes, back, precision=_EXACT)[:, :h, :w]
    return jnp.clip(jnp.round(out), 0, 255) / 255


def _tables(table: np.ndarray, quality: Vector) -> Float[Array, "b 8 8"]:
    """Scales a table as IJG's library does."""
    quality = jnp.clip(jnp.round(quality), 1, 100)
    scale = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    return jnp.clip(jnp.floor((table * scale[:, None, None] + 50) / 100), 1, 255)


def _coded(planes: Float[Array, "n h w"], tables: Float[Array, "n 8 8"]) -> Array:
    """Rounds the cosine transform of 8 x 8 blocks to multiples of the tables' entries."""
    n, h, w = planes.shape
    k, x = np.arange(8)[:, None], np.arange(8)[None]
    cosines = np.cos((2 * x + 1) * k * np.pi / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)
    product = functools.partial(jnp.einsum, precision=_EXACT)
    basis = jnp.asarray(cosines, planes.dtype)
    blocks = planes.reshape(n, h // 8, 8, w // 8, 8)
    found = product("ka,niajb,lb->nikjl", basis, blocks, basis)
    steps = tables[:, None, :, None].astype(planes.dtype)
    back = product("ka,nikjl,lb->niajb", basis, jnp.round(found / steps) * steps, basis)
    return jnp.round(back.reshape(n, h, w))


def _checked(kinds: Mapping[str, Any]) -> Mapping[str, Any]:
    for kind, fields in kinds.items():
        if kind not in RANGES:
            raise ValueError(f"perturb.camera.{kind}: choose among {', '.join(RANGES)}")
        if set(fields) != {"p", *RANGES[kind]}:
            raise ValueError(
                f"perturb.camera.{kind} has the fields {', '.join(fields)}; it takes p and "
                f"{', '.join(RANGES[kind])}"
            )
        within(f"perturb.camera.{kind}.p", fields["p"], 0, 1)
        for name in RANGES[kind]:
            low, high = _BOUNDS[kind, name]
            given = tuple(fields[name])
            if len(given) != 2 or not low <= given[0] <= given[1] <= high:
                raise ValueError(
                    f"perturb.camera.{kind}.{name}={given}: give (least, most) in [{low}, {high}]"
                )
    return kinds


# Where a range may lie. The longest blurs bound the loop over the kernel's pixels.
_BOUNDS = {
    ("fov", "share"): (0.1, 1), ("haze", "depth"): (0, 5), ("defocus", "radius"): (0, 16),
    ("motion", "length"): (0, 48), ("vignetting", "loss"): (0, 0.95),
    ("exposure", "stops"): (-6, 6), ("low_light", "stops"): (0, 8),
    ("low_light", "amplified"): (0, 1), ("noise", "shot"): (0, 1), ("jpeg", "quality"): (1, 100),
}  # fmt: skip


def _draw(keys: Key[Array, " b"], kind: str, fields: Any) -> dict[str, Vector | Bool[Array, " b"]]:
    """Draws whether a kind is active, and its ranges' values, 0 where it is not.

    The noise's is uniform in its logarithm, as its source has it.
    """
    u = _uniforms(keys, kind, 1 + len(RANGES[kind]))
    active = u[:, 0] < fields["p"]
    found: dict[str, Any] = {"active": active}
    for i, name in enumerate(RANGES[kind], 1):
        low, high = fields[name]
        if kind == "noise" and low > 0:
            value = low * (high / low) ** u[:, i]
        else:
            value = low + (high - low) * u[:, i]
        found[name] = jnp.where(active, value, 0)
    return found


def _stream(key: Key[Array, ""], kind: str, number: int) -> Key[Array, ""]:
    return jax.random.fold_in(jax.random.fold_in(key, _STREAMS[kind]), number)


def _uniforms(keys: Key[Array, " b"], kind: str, n: int, *, start: int = 0) -> Float[Array, "b n"]:
    """Draws n numbers in [0, 1) for each example, from the kind's stream number `start`."""
    return jax.vmap(lambda key: jax.random.uniform(_stream(key, kind, start), (n,), jnp.float32))(
        keys
    )
