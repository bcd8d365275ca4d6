"""The table of named protocols: the switches of each published evaluation program, set by set.

The lines of `notes` give the sources of the values. "unverified:" marks what is remembered or
inferred, not read in a paper or in code. Changing a switch here requires a new version of the
protocol; a test compares the hashes. Resumable score logs store `protocol.digest` of the protocols
that they use: an edit of their switches, but not of their notes, ends the resuming of older runs.

No official code for the zero-shot evaluation of Depth Anything was ever published: `da` is the
interpretation best supported by its authors' answers and by related code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Windows: [top, bottom), [left, right).
SHARES = {  # of height and width
    "eigen-kitti": (0.3324324, 0.91351351, 0.0359477, 0.96405229),  # Eigen et al. 2014
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),  # Garg et al. 2016
}
PIXELS: dict[str, tuple[int, int, int, int]] = {
    "nyu": (45, 471, 41, 601),  # Eigen et al. 2014: the border of NYU's 480 x 640 that has depth
    "vda-kitti": (0, 374, 0, 1242),
    "vda-scannet": (8, -8, 11, -11),
}
KB_FRAME = (352, 1216)  # KITTI's benchmark images: bottom centre


class Named(NamedTuple):
    """A named protocol.

    Attributes:
      version: incremented with every change of a switch.
      base: switches for all sets.
      kinds: kind of prediction -> its switches; protocol and kind together decide the alignment.
      sets: set, "set_domain" or domain -> its switches; "*" for all others.
      refuses: why other kinds are not scored.
      notes: sources and choices.
      all_views: whether a prediction is scored by default as every kind that it converts to.
    """

    version: int
    base: dict[str, Any]
    kinds: dict[str, dict[str, Any]]
    sets: dict[str, dict[str, Any]]
    refuses: str
    notes: tuple[str, ...]
    all_views: bool = False


def _range(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"min_depth": low, "max_depth": high, **more}


INF = float("inf")
DISPARITY, DEPTH = {"alignment": "lsq-disparity"}, {"alignment": "lsq-depth"}
ALL_BY_DISPARITY = {
    "disparity-affine": DISPARITY,
    "depth-affine": DEPTH,
    "depth-scale": DISPARITY,
    "metric": DISPARITY,
}

TABLE = {
    "golden": Named(
        version=1,
        base={"disparity_floor": "cap", "min_valid": 10},
        kinds={k: DISPARITY for k in ("disparity-affine", "depth-scale", "metric")},
        sets={"indoor": {"max_depth": 10}, "outdoor": {"max_depth": 80}, "*": {"max_depth": 80}},
        refuses="it fits 1 / depth, in which a shift of depth is no shift",
        notes=(
            "the protocol of the stored official scores: least squares in disparity, strict caps "
            "of 10 m indoors and 80 m outdoors, floor 1 / cap, AbsRel and delta1 in depth",
            "images with fewer than 10 valid pixels say nothing (as in the training loss)",
        ),
    ),
    "da": Named(
        version=1,
        base={"space": "disparity", "min_depth": 1e-5, "disparity_floor": "cap", "min_valid": 10},
        kinds=ALL_BY_DISPARITY,
        sets={
            "nyu": {"max_depth": 10},
            "kitti": {"max_depth": 80},
            "sintel": {"max_depth": 72, "cap_mode": "clip"},
            "eth3d": {"max_depth": 200},
            "diode": {"max_depth": 150},
            "ddad": {"max_depth": 80},
            "indoor": {"max_depth": 10},
            "outdoor": {"max_depth": 80},
            "*": {"max_depth": 80},
        },
        refuses="",
        notes=(
            "V1 appendix 6: at the original resolution, scale and shift 'following MiDaS'",
            "metrics in disparity: an author's answer, V1 issue 174. delta1 is the same in both "
            "spaces but for caps; AbsRel is not",
            "unverified: bilinear with align_corners, as the released inference code resizes",
            "unverified: caps 10 (NYU), 80 (KITTI), 150 (DIODE), 200 (ETH3D) and Sintel clipped, "
            "not masked, at 72 m are those of DepthAnythingAC, code in the style of V1 and V2; 80 "
            "for DDAD is ZoeDepth's (UniDepth: 120, others: 200)",
            "unverified: no crop. DepthAnythingAC builds the Garg mask and never applies it",
            "unverified: bounds are strict, and images with fewer than 10 valid pixels are left "
            "out: our choices",
            "unverified: the paper's DIODE is probably its indoor half, or holds the outdoor half "
            "in disparity: score both halves",
            "unverified: depth-scale and metric predictions are inverted and fitted in disparity "
            "like all others; depth-affine ones are fitted in depth, for a shift of depth is no "
            "shift of 1 / depth",
        ),
    ),
    "midas": Named(
        version=1,
        base={"resize": "bicubic", "min_depth": 0, "disparity_floor": "cap"},
        kinds=ALL_BY_DISPARITY,
        sets={
            "nyu": {"max_depth": 10},
            "tum": {"max_depth": 10},
            "kitti": {"max_depth": 80},
            "eth3d": {"max_depth": 72},
            "sintel": {"max_depth": 72},
            "indoor": {"max_depth": 10},
            "outdoor": {"max_depth": 80},
            "*": {"max_depth": 80},
        },
        refuses="",
        notes=(
            "the authors' programs for NYU and KITTI: bicubic to the label's size, least squares "
            "in disparity, floor 1 / cap, then depth",
            "unverified: caps 10 (TUM) and 72 (ETH3D, Sintel) are remembered from the paper",
            "unverified: labels count below the cap, not at it; no crop on KITTI",
            "MiDaS' own KITTI numbers are of 161 images: a split, not a switch",
            "the input size is that of Depth Anything; MiDaS' own models have theirs",
            "unverified: depth-affine predictions are fitted in depth: our choice",
        ),
    ),
    "marigold": Named(
        version=1,
        base={"disparity_floor": 1e-3, "clamp": True, "resize": "bilinear"},
        kinds={
            "disparity-affine": DISPARITY,
            "depth-affine": DEPTH,
            "depth-scale": DEPTH,
            "metric": DEPTH,
        },
        sets={
            "nyu": _range(1e-3, 10, crop="nyu"),
            "kitti": _range(1e-5, 80, frame="kb", crop="eigen-kitti"),
            "eth3d": _range(1e-5, INF, align_on="thin-1024"),
            "diode": _range(0.6, 350),
            "scannet": _range(1e-3, 10),
            "indoor": _range(1e-3, 10),
            "outdoor": _range(1e-5, 80),
            "*": _range(1e-5, 80),
        },
        refuses="",
        notes=(
            "config/dataset_depth and script/depth/eval.py: ranges, NYU and KITTI windows, least "
            "squares in depth, or in disparity with a floor of 1e-3, then clipped to the range",
            "its fit in disparity leaves out predictions that are not positive; ours does not",
            "depths beyond 1000 m cannot be met through that floor: the truth itself would not be",
            "unverified: bounds are strict; predictions are resized bilinearly",
            "unverified: the reduction to 1024 for the fit takes nearest pixels",
            "the input size is that of Depth Anything; Marigold's own is 768",
            "sets that Marigold does not have get its NYU or KITTI range and no window: our choice",
        ),
    ),
    "moge": Named(
        version=1,
        base={
            **_range(0, INF, outlier_ratio=1000, disparity_floor="label"),
            "resize": "bilinear",
        },
        kinds={
            "disparity-affine": DISPARITY,
            "depth-affine": {"alignment": "l1-depth", "align_on": "grid-64"},
            "depth-scale": {"alignment": "l1-depth-scale", "align_on": "grid-64"},
            "metric": {"alignment": "none"},
        },
        sets={"*": {}},
        refuses="",
        notes=(
            "test/metrics.py and utils/alignment.py: least squares in disparity with a floor of "
            "1 / the label's largest depth; L1 with weights 1 / depth on 64 x 64 pixels",
            "depths beyond 1000 times the 1 % quantile are left out by its loader",
            "a metric prediction has four rows there, one for each of its views: here too, unasked",
            "unverified: the prediction is resized bilinearly without align_corners; which valid "
            "pixel stands for a cell of the 64 x 64; scale only is sampled too",
            "its images are warped to one camera for each set: use its bundle, or the numbers are "
            "others",
        ),
        all_views=True,
    ),
    "zoe": Named(
        version=1,
        base={"clamp": True, "flip": True},
        kinds={"metric": {"alignment": "none"}},
        sets={
            "nyu": _range(1e-3, 10, crop="nyu"),
            "kitti": _range(1e-3, 80, frame="kb", crop="garg"),
            "ibims": _range(0, 10, crop="nyu"),
            "sunrgbd": _range(0, 8, crop="nyu"),
            "diml_indoor": _range(1e-3, 10, crop="nyu"),
            "diml_outdoor": _range(2, 80, crop="garg"),
            "diode_indoor": _range(1e-3, 10, crop="nyu"),
            "diode_outdoor": _range(1e-3, 80, crop="garg"),
            "hypersim": _range(1e-3, 80, crop="nyu"),
            "vkitti2": _range(1e-3, 80, frame="kb", crop="garg"),
            "ddad": _range(1e-3, 80, crop="garg"),
            "indoor": _range(1e-3, 10),
            "outdoor": _range(1e-3, 80),
            "*": _range(1e-3, 80),
        },
        refuses="it compares metres with metres, unaligned",
        notes=(
            "zoedepth/utils/misc.py and config.py, as in V1's metric_depth: strict range, "
            "predictions clamped to it, align_corners, mean with the mirrored image, no padding",
            "the NYU window is applied in pixels to every set marked 'eigen' there, to Hypersim's "
            "and DIODE's 768 x 1024 too",
            "DIODE's own masks are loaded there and not used; our reader applies them",
            "DDAD's images are squeezed to 352 x 1216 before the network there; here they keep "
            "their shape. Labels are scored at their own size in both",
            "sets that ZoeDepth does not have get a range by domain and no crop: our choice",
            "V1's metric models take 392 x 518 whatever the image, there and here (it is in their "
            "metadata); all others here a short side of 518, or the one they learned metres at",
        ),
    ),
    "unidepth": Named(
        version=1,
        base={"resize": "bilinear", "strict": False, "min_depth": 0},
        kinds={"metric": {"alignment": "none"}},
        sets={
            "sunrgbd": {"max_depth": 8},
            "ibims": {"max_depth": 25},
            "diode_indoor": {"max_depth": 25},
            "eth3d": {"max_depth": 50},
            "ddad": {"max_depth": 120},
            "nuscenes": {"max_depth": 80},
            "void": {"max_depth": 10},
            "indoor": {"max_depth": 10},
            "outdoor": {"max_depth": 80},
            "*": {"max_depth": 80},
        },
        refuses="it compares metres with metres, unaligned",
        notes=(
            "UniDepth's zero-shot evaluation: labels count up to the cap, the cap itself too; "
            "bilinear without align_corners, no window, no flip",
            "unverified: predictions are not clamped to the cap",
            "sets that UniDepth does not have, DIODE's outdoor half among them, get a cap by "
            "domain: our choice",
            "the input size is that of Depth Anything; UniDepth's models have their own",
        ),
    ),
    "vda": Named(
        version=1,
        base={
            **{"disparity_floor": 1e-3, "clamp": True, "resize": "bilinear"},
            **{"per": "sequence", "aggregate": "sequence"},
        },
        kinds={
            "disparity-affine": DISPARITY,
            "depth-affine": DEPTH,
            "depth-scale": DISPARITY,
            "metric": {"alignment": "none"},
        },
        sets={
            "kitti": _range(1e-3, 80, frame="vda-kitti"),
            "sintel": _range(1e-3, 70),
            "nyu": _range(1e-3, 10, crop="nyu"),
            "bonn": _range(1e-3, 10),
            "scannet": _range(1e-3, 10, frame="vda-scannet"),
            "indoor": _range(1e-3, 10),
            "outdoor": _range(1e-3, 80),
            "*": _range(1e-3, 80),
        },
        refuses="",
        notes=(
            "benchmark/eval: one scale and shift for a sequence by least squares in disparity, "
            "floor 1e-3, caps, KITTI's rows 0:374 and columns 0:1242, ScanNet's border",
            "unverified: the aligned depth is clamped to the range; the label's lower bound; the "
            "mean is over frames, then over sequences",
            "unverified: resized bilinearly without align_corners; metric predictions unaligned; "
            "the fit of depth-affine and depth-scale ones is our choice",
        ),
    ),
}
