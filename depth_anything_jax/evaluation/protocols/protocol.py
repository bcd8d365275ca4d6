"""Defines evaluation protocols: all switches a depth score depends on beside prediction and data.

    protocol = protocol.get("da@1", kind="disparity-affine", dataset="nyu", domain="indoor")
    protocol.hash  # two scores are comparable exactly when their hashes agree

`Protocol` holds the switches for one data set and one kind of prediction; `table` defines the named
protocols. Switches are changed with `dataclasses.replace`, which also changes the hash; names and
versions are not part of the hash.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from typing import Any

from depth_anything_jax.evaluation.protocols import table
from depth_anything_jax.utils import interpolation, map_kinds

# Kinds of prediction, by what is unknown: scale and shift of 1 / depth; scale and shift of depth;
# scale only; nothing.
KINDS = map_kinds.PREDICTIONS
# Kinds that a prediction may also be scored as: metres can be converted to every other kind, etc.
VIEWS = {
    "disparity-affine": ("disparity-affine",),
    "depth-affine": ("depth-affine",),
    "depth-scale": ("depth-scale", "depth-affine", "disparity-affine"),
    "metric": ("metric", "depth-scale", "depth-affine", "disparity-affine"),
}
# alignment -> kinds that it suits: it fits all that is unknown of them, and needs no unit that they
# lack.
ALIGNMENTS = {
    "none": ("metric",),
    "median": ("depth-scale", "metric"),
    "lsq-depth-scale": ("depth-scale", "metric"),
    "l1-depth-scale": ("depth-scale", "metric"),
    "lsq-depth": ("depth-affine", "depth-scale", "metric"),
    "l1-depth": ("depth-affine", "depth-scale", "metric"),
    "lsq-disparity": ("disparity-affine", "depth-scale", "metric"),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "alignment": tuple(ALIGNMENTS),
    "align_on": ("all", "grid-64", "thin-1024"),
    "space": ("depth", "disparity"),
    "cap_mode": ("mask", "clip"),
    "frame": ("none", "kb", "vda-kitti", "vda-scannet"),
    "crop": ("none", "nyu", "eigen-kitti", "garg"),
    "resize": interpolation.RULES,
    "per": ("image", "sequence"),
    "aggregate": ("image", "pixel", "sequence"),
    "pad": ("none", "zoe"),
}


class ProtocolError(ValueError):
    """Raised for contradictory switches, or a protocol that does not suit the prediction."""


@dataclasses.dataclass(frozen=True)
class Switches:
    """Base class of depth protocols (`Protocol`) and point-pair protocols (`pairs.Rules`)."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            allowed, value = CHOICES.get(field.name), getattr(self, field.name)
            if allowed is not None and value not in allowed:
                raise ProtocolError(
                    f"{field.name} {value!r}: one of {', '.join(map(repr, allowed))}"
                )

    @functools.cached_property
    def canonical(self) -> str:
        """All switches as JSON, sorted by name; infinity is "inf"."""
        plain = {k: "inf" if v == math.inf else v for k, v in dataclasses.asdict(self).items()}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @functools.cached_property
    def hash(self) -> str:
        """The first twelve hex digits of the SHA-256 of `canonical`."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Protocol(Switches):
    """All switches for the evaluation of one data set.

    Attributes:
      alignment: how scale and shift are fitted: a solver and the space it works in.
      align_on: pixels used for the fit: all valid ones, a 64 × 64 sample (`scale_shift.grid`), or
        those kept by a reduction to 1024 pixels (`scale_shift.thin`). The metrics always use all
        valid pixels.
      space: whether AbsRel, SqRel and RMSE are computed in depth or in disparity; δ and logarithms
        are the same in both.
      min_depth, max_depth: metres; labels outside this range are not scored. Infinite: no cap.
      strict: whether depths equal to a bound are excluded.
      cap_mode: "mask" excludes labels beyond max_depth; "clip" sets them, and the sky, to
        max_depth.
      outlier_ratio: labels beyond this multiple of the image's 1 % quantile are excluded; 0
        excludes none.
      disparity_floor: smallest aligned disparity in 1/m: a number, "cap" for 1 / max_depth, "label"
        for 1 / the image's largest valid depth.
      clamp: whether the aligned depth is clamped to min_depth … max_depth.
      frame: window to which image and label are cropped before inference.
      crop: window of the label; pixels outside are not scored.
      resize: how the prediction is resized to the label's size.
      per: whether each image or each sequence is aligned on its own.
      aggregate: mean of image scores; over all pixels together; or mean of the sequences' means.
      flip: whether the prediction is averaged with that of the mirrored image.
      pad: "zoe" pads the image by reflecting int(√(side / 2) · 3) pixels before inference.
      input_size: the network's short side, multiples of the patch size.
      min_valid: an image with fewer valid pixels is not scored.
    """

    alignment: str
    align_on: str = "all"
    space: str = "depth"
    min_depth: float = 1e-3
    max_depth: float = 80.0
    strict: bool = True
    cap_mode: str = "mask"
    outlier_ratio: float = 0.0
    disparity_floor: float | str = "cap"
    clamp: bool = False
    frame: str = "none"
    crop: str = "none"
    resize: str = "bilinear-corners"
    per: str = "image"
    aggregate: str = "image"
    flip: bool = False
    pad: str = "none"
    input_size: int = 518
    min_valid: int = 1

    def __post_init__(self):
        super().__post_init__()
        # 10 and 10.0 mean the same and must give the same canonical text.
        for name in ("min_depth", "max_depth", "outlier_ratio"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.disparity_floor not in ("cap", "label"):
            object.__setattr__(self, "disparity_floor", float(self.disparity_floor))
        for name, bad in self._contradictions().items():
            if bad:
                raise ProtocolError(name)

    def _contradictions(self) -> dict[str, bool]:
        floor, endless = self.disparity_floor, math.isinf(self.max_depth)
        return {
            f"min_depth {self.min_depth} to max_depth {self.max_depth} is an empty range; "
            "0 <= min_depth < max_depth is needed": not 0 <= self.min_depth < self.max_depth,
            "disparity_floor 'cap' needs a finite max_depth; set a number or 'label'":
                floor == "cap" and endless,
            f"disparity_floor {floor} is not positive; aligned disparities of 0 have no depth":
                isinstance(floor, float) and not floor > 0,
            "cap_mode 'clip' with an infinite max_depth clips nothing; set max_depth, or 'mask'":
                self.cap_mode == "clip" and endless,
            f"per 'sequence' with alignment {self.alignment!r}: only 'lsq-…' on all pixels and "
            "'none' can be fitted to a sequence":
                self.per == "sequence"
                and (self.alignment[:3] not in ("lsq", "non") or self.align_on != "all"),
            f"input_size {self.input_size} and min_valid {self.min_valid} must be positive":
                min(self.input_size, self.min_valid) < 1,
            f"outlier_ratio {self.outlier_ratio}: 0, or more than 1":
                self.outlier_ratio != 0 and not self.outlier_ratio > 1,
        }  # fmt: skip

    def check_kind(self, kind: str) -> None:
        """Raises ProtocolError where the alignment does not suit a kind of prediction."""
        _known_kind(kind)
        fitting = ALIGNMENTS[self.alignment]
        if kind not in fitting:
            raise ProtocolError(
                f"alignment {self.alignment!r} does not fit a {kind} prediction (it fits "
                f"{', '.join(fitting)}); use {', '.join(fits(kind))}"
            )


def fits(kind: str) -> list[str]:
    """The alignments that suit a kind of prediction."""
    return [a for a, kinds in ALIGNMENTS.items() if kind in kinds]


def _known_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ProtocolError(f"kind {kind!r}: one of {', '.join(KINDS)}")


def named(name: str) -> tuple[str, table.Named]:
    """Looks up "da" or "da@1" in the table: ("da@1", its entry).

    Raises:
      ProtocolError: no such protocol, or no such version of it.
    """
    short, _, version = name.partition("@")
    found = table.TABLE.get(short)
    known = ", ".join(f"{n}@{entry.version}" for n, entry in table.TABLE.items())
    if found is None or version not in ("", str(found.version)):
        raise ProtocolError(f"no protocol {name!r}; there are {known}")
    return f"{short}@{found.version}", found


def default(kind: str) -> str:
    """The name of the default protocol for a kind of prediction."""
    _known_kind(kind)
    return "zoe" if kind == "metric" else "da"


def views(name: str, kind: str) -> tuple[str, ...]:
    """The views a named protocol scores by default: the prediction's own kind, or all of them."""
    _, entry = named(name)
    return tuple(v for v in VIEWS[kind] if v in entry.kinds) if entry.all_views else (kind,)


def check_view(kind: str, view: str) -> None:
    """Raises ProtocolError where a kind of prediction cannot be converted to a view."""
    for name in (kind, view):
        _known_kind(name)
    if view not in VIEWS[kind]:
        raise ProtocolError(
            f"a {kind} prediction cannot be scored as {view}; only as {', '.join(VIEWS[kind])}"
        )


def get(name: str, kind: str, dataset: str = "", domain: str = "", **switches: Any) -> Protocol:
    """Builds the switches of a named protocol for one data set and kind of prediction.

    Values come from the most specific entry of the table: the set in that domain ("diode_indoor"),
    the set, the domain ("indoor_synth" counts as indoor), then the values for all sets.

    Args:
      name: "da", or with its version "da@1".
      kind: one of KINDS.
      dataset: the set's name as in records; sets that are not in the table get the domain's values.
      domain: "indoor", "outdoor", or "" where it is not known.
      **switches: override the table's values, which changes the hash.

    Raises:
      ProtocolError: an unknown name, kind or switch, or a protocol that does not suit the kind.
    """
    _known_kind(kind)
    full, entry = named(name)
    if kind not in entry.kinds:
        suitable = [n for n, other in table.TABLE.items() if kind in other.kinds]
        raise ProtocolError(
            f"{full} does not score {kind} predictions ({entry.refuses}); use one of "
            f"{', '.join(suitable)}"
        )
    unknown = switches.keys() - {f.name for f in dataclasses.fields(Protocol)}
    if unknown:
        raise ProtocolError(f"a protocol has no switch {', '.join(sorted(unknown))}")
    area = "indoor" if domain.startswith("indoor") else domain
    keys = [f"{dataset}_{area}", dataset, area, "*"]
    values = next((entry.sets[k] for k in keys if k in entry.sets), {})
    protocol = Protocol(**{**entry.base, **values, **entry.kinds[kind], **switches})
    protocol.check_kind(kind)
    return protocol


def window(name: str, height: int, width: int) -> tuple[slice, slice]:
    """Returns the row and column slices of a named frame or crop.

    Raises:
      ProtocolError: a frame of fixed size is larger than the image.
    """
    if name == "none":
        return slice(0, height), slice(0, width)
    if name in table.SHARES:
        top, bottom, left, right = table.SHARES[name]
        return (
            slice(int(top * height), int(bottom * height)),
            slice(int(left * width), int(right * width)),
        )
    if name == "kb":
        rows, columns = table.KB_FRAME
        if height < rows or width < columns:
            raise ProtocolError(f"frame 'kb' is {rows}x{columns}, the image {height}x{width}")
        left = (width - columns) // 2
        return slice(height - rows, height), slice(left, left + columns)
    top, bottom, left, right = table.PIXELS[name]
    return slice(top, bottom), slice(left, right)
