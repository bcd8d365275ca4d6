"""What a depth score depends on besides the prediction and the data: the switches of a protocol.

    protocol = protocol.get("da@1", kind="disparity-affine", dataset="nyu", domain="indoor")
    protocol.hash  # two scores are comparable exactly when these agree

`Protocol` holds the switches of one set and one kind of prediction, `table` has the named
ones. A switch is changed with `dataclasses.replace`, and the hash follows; names and versions are
not in it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from typing import Any

from depth_anything_jax.evaluation.protocols import table
from depth_anything_jax.utils import interpolation

# What a prediction is, up to what: a scale and a shift of 1 / depth, of depth, a scale, nothing.
KINDS = ("disparity-affine", "depth-affine", "depth-scale", "metric")
# Kinds that a prediction may also be scored as: of metres everything can be made, and so on.
VIEWS = {
    "disparity-affine": ("disparity-affine",),
    "depth-affine": ("depth-affine",),
    "depth-scale": ("depth-scale", "depth-affine", "disparity-affine"),
    "metric": ("metric", "depth-scale", "depth-affine", "disparity-affine"),
}
# alignment -> kinds of which it leaves no freedom unfitted and uses no unit that is not there.
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
    """Switches that contradict each other, or a protocol that does not fit the prediction."""


@dataclasses.dataclass(frozen=True)
class Switches:
    """What the switches of depth (`Protocol`) and those of point pairs (`pairs.Rules`) share."""

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
        """Twelve hex digits of the canonical text's SHA-256."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Protocol(Switches):
    """Every switch of the evaluation of one set.

    Attributes:
      alignment: how scale and shift are found: a solver and the space it works in.
      align_on: all valid pixels, a 64 × 64 sample (`scale_shift.grid`), or those that a reduction
        to 1024 pixels keeps (`scale_shift.thin`). The metrics always see all valid pixels.
      space: AbsRel, SqRel and RMSE of depth or of disparity; δ and logarithms are the same in both.
      min_depth, max_depth: metres; labels count between them. Infinite: no cap.
      strict: whether depths equal to a bound are out.
      cap_mode: labels beyond max_depth are left out ("mask"), or, the sky with them, set to it.
      outlier_ratio: labels beyond this many times the image's 1 % quantile are left out; 0: none.
      disparity_floor: least aligned disparity in 1/m: a number, "cap" for 1 / max_depth, "label"
        for 1 / the image's largest valid depth.
      clamp: whether the aligned depth is clamped to min_depth … max_depth.
      frame: window of image and label to which everything is cut before the network sees it.
      crop: window of the label outside which pixels are not scored.
      resize: how the prediction is brought to the label's size.
      per: one alignment for each image or for each sequence.
      aggregate: mean of image scores; over all pixels together; or of the means of sequences.
      flip: whether the prediction is the mean with that of the mirrored image.
      pad: "zoe" reflects int(√(side / 2) · 3) pixels around the image before the network sees it.
      input_size: the network's short side; multiples of the patch size.
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
        # 10 and 10.0 are one switch and must be one text.
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
            f"min_depth {self.min_depth} to max_depth {self.max_depth} holds nothing; "
            "0 <= min_depth < max_depth is needed": not 0 <= self.min_depth < self.max_depth,
            "disparity_floor 'cap' with an infinite max_depth is no floor; set a number or 'label'":
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
        """Raises ProtocolError where the alignment makes no sense for a kind of prediction."""
        _known_kind(kind)
        fitting = ALIGNMENTS[self.alignment]
        if kind not in fitting:
            raise ProtocolError(
                f"alignment {self.alignment!r} does not fit a {kind} prediction (it fits "
                f"{', '.join(fitting)}); use {', '.join(fits(kind))}"
            )


def fits(kind: str) -> list[str]:
    """The alignments that make sense for a kind."""
    return [a for a, kinds in ALIGNMENTS.items() if kind in kinds]


def _known_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ProtocolError(f"kind {kind!r}: one of {', '.join(KINDS)}")


def named(name: str) -> tuple[str, table.Named]:
    """("da@1", its entry) of "da" or "da@1".

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
    """The protocol for a prediction of a kind where none is named."""
    _known_kind(kind)
    return "zoe" if kind == "metric" else "da"


def views(name: str, kind: str) -> tuple[str, ...]:
    """What a named protocol scores a prediction as where nobody asks: its kind, or all views."""
    _, entry = named(name)
    return tuple(v for v in VIEWS[kind] if v in entry.kinds) if entry.all_views else (kind,)


def check_view(kind: str, view: str) -> None:
    """Raises ProtocolError where a view needs what a kind of prediction does not know."""
    for name in (kind, view):
        _known_kind(name)
    if view not in VIEWS[kind]:
        raise ProtocolError(
            f"a {kind} prediction is no {view} one; it can be scored as {', '.join(VIEWS[kind])}"
        )


def get(name: str, kind: str, dataset: str = "", domain: str = "", **switches: Any) -> Protocol:
    """The switches of a named protocol for one set and kind of prediction.

    Values come from the most specific entry there is: the set in that domain ("diode_indoor"), the
    set, the domain ("indoor_synth" counts as indoor), then what holds for all.

    Args:
      name: "da", or with its version "da@1".
      kind: one of KINDS.
      dataset: as records name it; sets that are not in the table get the domain's values.
      domain: "indoor", "outdoor", or "" where it is not known.
      **switches: changed afterwards; the hash tells.

    Raises:
      ProtocolError: an unknown name, kind or switch, or a protocol that has no sense for the kind.
    """
    _known_kind(kind)
    full, entry = named(name)
    if kind not in entry.kinds:
        cure = [n for n, other in table.TABLE.items() if kind in other.kinds]
        raise ProtocolError(
            f"{full} does not score {kind} predictions ({entry.refuses}); use one of "
            f"{', '.join(cure)}"
        )
    unknown = switches.keys() - {f.name for f in dataclasses.fields(Protocol)}
    if unknown:
        raise ProtocolError(f"no switch {', '.join(sorted(unknown))} in a protocol")
    area = "indoor" if domain.startswith("indoor") else domain
    keys = [f"{dataset}_{area}", dataset, area, "*"]
    values = next((entry.sets[k] for k in keys if k in entry.sets), {})
    protocol = Protocol(**{**entry.base, **values, **entry.kinds[kind], **switches})
    protocol.check_kind(kind)
    return protocol


def window(name: str, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a named frame or crop.

    Raises:
      ProtocolError: a fixed frame does not fit into the image.
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
