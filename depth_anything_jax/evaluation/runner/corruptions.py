"""Applies image corruptions: 12 kinds of noise, blur, weather and digital, in five severities.

Kinds, formulas and constants are those of ImageNet-C (Hendrycks & Dietterich 2019, section 3 and
the authors' make_imagenet_c.py), without three: elastic and glass move pixels, while labels do not
move, and frost needs photographs of frost. Seven come from albumentations 2 (extra [corrupt]; its
last release under the MIT licence, no longer maintained), where its operation is the same as
ImageNet-C's. Five are implemented here, because the library's operations differ: shot noise, motion
blur, snow (which overflows in 2.0.8), fog and brightness.

Differences from ImageNet-C: impulse noise replaces whole pixels, not channels; fog is one cloud
over the image whatever its size. Radii are pixels at the image's own size, as in earlier uses of
ImageNet-C on larger images (Michaelis et al. 2019): a blur is milder on larger images, and numbers
at different resolutions cannot be compared.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from depth_anything_jax.evaluation.scores import relative_improvement
from depth_anything_jax.utils.choices import did_you_mean

SEVERITIES = (1, 2, 3, 4, 5)
KINDS = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "motion_blur", "zoom_blur",
    "snow", "fog", "brightness",
    "contrast", "pixelate", "jpeg",
)  # fmt: skip
# The constants c of make_imagenet_c.py, by severity.
_STRENGTHS: dict[str, Sequence[Any]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg": (25, 18, 15, 10, 7),
}  # fmt: skip


def parse(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Parses "all", "fog", "fog:3", "all:5" into (kind, severity) pairs without duplicates.

    Raises:
      ValueError: an unknown kind or severity.
    """
    found: dict[tuple[str, int], None] = {}
    for text in texts:
        name, colon, severity = text.partition(":")
        if name != "all" and name not in KINDS:
            hint = did_you_mean(name, KINDS)
            raise ValueError(f"corruption {name!r}: all, or one of {', '.join(KINDS)}{hint}")
        if colon and severity not in map(str, SEVERITIES):
            raise ValueError(f"corruption {text!r}: severities are 1 to {SEVERITIES[-1]}")
        for kind in KINDS if name == "all" else (name,):
            for level in (int(severity),) if colon else SEVERITIES:
                found[kind, level] = None
    return list(found)


def apply(
    image: UInt8[np.ndarray, "h w 3"], kind: str, severity: int, key: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a corrupted copy of an image, determined by key, kind and severity.

    Raises:
      ImportError: the extra is not installed.
    """
    name = f"{kind}\n{severity}\n{key}".encode(errors="surrogateescape")
    seed = int.from_bytes(hashlib.sha256(name).digest()[:4], "big")
    strength = _STRENGTHS[kind][severity - 1]
    image = np.ascontiguousarray(image)
    if kind in _OURS:
        changed = _OURS[kind](image.astype(np.float32) / 255, strength, np.random.default_rng(seed))
        return np.round(255 * np.clip(changed, 0, 1)).astype(np.uint8)
    return _library().Compose([_transform(kind, strength)], seed=seed)(image=image)["image"]


@functools.cache
def _library() -> Any:
    # By default its import asks a server for the newest version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        import albumentations
    except ImportError as error:
        raise ImportError(
            f"--corrupt needs albumentations ({error}): pip install 'depth_anything_jax[corrupt]'"
        ) from error
    return albumentations


def _transform(kind: str, c: Any) -> Any:
    A = _library()
    pair = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_NEAREST}
    make: Mapping[str, Any] = {
        "gaussian_noise": lambda: A.GaussNoise(std_range=(c, c), p=1),
        "impulse_noise": lambda: A.SaltAndPepper(amount=(c, c), salt_vs_pepper=(0.5, 0.5), p=1),
        "defocus_blur": lambda: A.Defocus(radius=(c[0],) * 2, alias_blur=(c[1],) * 2, p=1),
        "zoom_blur": lambda: A.ZoomBlur(max_factor=(c[0],) * 2, step_factor=(c[1],) * 2, p=1),
        "contrast": lambda: A.RandomBrightnessContrast(  # (x − mean) · c + mean
            brightness_limit=(1 - c, 1 - c), contrast_limit=(c - 1, c - 1),
            brightness_by_max=False, p=1,
        ),
        "pixelate": lambda: A.Downscale(scale_range=(c, c), interpolation_pair=pair, p=1),
        "jpeg": lambda: A.ImageCompression(quality_range=(c, c), p=1),
    }  # fmt: skip
    return make[kind]()


# Our own corruptions take an image in 0-1 and may return values outside that range.


def _shot_noise(x: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(x * photons) / photons


def _brightness(x: np.ndarray, added: float, _: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _streak(radius: int, sigma: float, degrees: float) -> np.ndarray:
    """Builds a blur kernel that fades along a line from its centre."""
    kernel = np.zeros((2 * radius + 1,) * 2, np.float32)
    angle = np.deg2rad(degrees)
    for t in np.linspace(0, radius, 4 * radius + 1):
        at = np.round(radius + t * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        kernel[tuple(at)] += np.exp(-(t**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def _motion_blur(x: np.ndarray, c: Any, rng: np.random.Generator) -> np.ndarray:
    radius, sigma = c
    return cv2.filter2D(x, -1, _streak(radius, sigma, rng.uniform(-45, 45)))


def _snow(x: np.ndarray, c: Any, rng: np.random.Generator) -> np.ndarray:
    mean, deviation, zoom, threshold, radius, sigma, keep = c
    h, w = x.shape[:2]
    small = max(1, round(h / zoom)), max(1, round(w / zoom))
    layer = rng.normal(mean, deviation, small).astype(np.float32)
    layer = cv2.resize(layer, (w, h), interpolation=cv2.INTER_LINEAR)
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1)
    layer = cv2.filter2D(layer, -1, _streak(radius, sigma, rng.uniform(-135, -45)))[..., None]
    white = np.maximum(x, cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None] * 1.5 + 0.5)
    return keep * x + (1 - keep) * white + layer + layer[::-1, ::-1]


def _fog(x: np.ndarray, c: Any, rng: np.random.Generator) -> np.ndarray:
    thickness, decay = c
    cloud, spread = np.zeros((2, 2), np.float32), 1.0
    while len(cloud) < 256:  # displaced midpoints; each octave is weaker by `decay`
        cloud = cv2.resize(cloud, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        cloud = cloud + rng.uniform(-spread, spread, cloud.shape).astype(np.float32)
        spread /= decay
    cloud = (cloud - np.min(cloud)) / np.ptp(cloud)
    side = max(x.shape[:2])
    cloud = cv2.resize(cloud, (side, side))[: x.shape[0], : x.shape[1], None]
    most = float(x.max())
    return (x + thickness * cloud) * most / (most + thickness)


_OURS = {
    "shot_noise": _shot_noise,
    "motion_blur": _motion_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
}


class Corrupted:
    """Wraps a source and corrupts its images; labels and keys do not change.

    Attributes:
      facts: {"corruption": …, "severity": …}.
    """

    def __init__(self, source: Any, kind: str, severity: int):
        self._source, self._kind, self._severity = source, kind, severity
        self.facts = {"corruption": kind, "severity": severity}

    def __len__(self) -> int:
        return len(self._source)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = dict(self._source[index])
        record["image"] = apply(record["image"], self._kind, self._severity, record["key"])
        return record


def expand(sets: Sequence[tuple[str, Any]], texts: Sequence[str]) -> list[tuple[str, Any]]:
    """Expands the list of sets: each set as it is, then with each of the chosen corruptions.

    Raises:
      ValueError: an unknown kind or severity.
      ImportError: the extra is not installed.
    """
    wanted = parse(texts)
    if wanted:
        _library()
    return [
        (title, each)
        for title, source in sets
        for each in (source, *(Corrupted(source, *what) for what in wanted))
    ]


def facts(source: Any, sets: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A source's corruption and severity; empty where the run has no corrupted set."""
    clean = {"corruption": "none", "severity": 0} if any(_facts(s) for _, s in sets) else {}
    return _facts(source) or clean


def _facts(source: Any) -> dict[str, Any]:
    return getattr(source, "facts", {})


def check(checkpoints: Sequence[str], texts: Sequence[str]) -> None:
    """Raises ValueError where a corruption cannot affect a checkpoint's predictions."""
    blind = [c for c in checkpoints if c.partition(":")[0] in ("baseline", "predictions")]
    if texts and blind:
        raise ValueError(f"--corrupt has no effect on {blind[0]}, which does not read images")


def mean_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Averages the corrupted rows of each checkpoint, view, set and protocol into one row.

    All kinds and severities have the same weight. The row's corruption is "mean", its severity the
    number of averaged rows."""
    parts: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("severity"):
            name = tuple(row[k] for k in ("checkpoint", "view", "reader", "set", "hash"))
            parts.setdefault(name, []).append(row)
    return [
        {
            k: float(np.mean([r[k] for r in part])) if isinstance(v, float) else v
            for k, v in part[0].items()
        }
        | {"corruption": "mean", "severity": len(part), "notes": []}
        for part in parts.values()
    ]


def compare(
    rows: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]], reference: str
) -> list[dict[str, Any]]:
    """Computes `relative_improvement.rows` for clean and for corrupted images; "over" says which.

    Args:
      rows, images: of the program, without means.
      reference: the checkpoint that others are compared with.
    """
    if not any("corruption" in row for row in rows):
        return relative_improvement.rows(rows, images, reference)
    by = ("reader", "set", "hash", "corruption", "severity")
    found = []
    for over, wanted in (("clean images", False), ("corrupted images", True)):
        some, theirs = (
            [r for r in every if bool(r["severity"]) == wanted] for every in (rows, images)
        )
        found += [
            {"over": over, **r} for r in relative_improvement.rows(some, theirs, reference, by=by)
        ]
    return found
