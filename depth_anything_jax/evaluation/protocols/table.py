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
    "nyu": (45, 471, 41, 601),  # Eigen et al. 2014: the part of NYU's 480 x 640 that has depth
    "nyu-pixels": (45, 471, 41, 601),  # the same pixels of an image of any size
    "vda-kitti": (0, 374, 0, 1242),
    "vda-scannet": (8, -8, 11, -11),
}
SIZES = {"nyu": (480, 640)}  # of images that a window belongs to
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


def depth_range(low: float, high: float, **more: Any) -> dict[str, Any]:
    """The switches min_depth and max_depth, and more."""
    return {"min_depth": low, "max_depth": high, **more}


INF = float("inf")
DISPARITY, DEPTH = {"alignment": "lsq-disparity"}, {"alignment": "lsq-depth"}
ALL_BY_DISPARITY = {
    "disparity-affine": DISPARITY,
    "depth-affine": DEPTH,
    "depth-scale": DISPARITY,
    "metric": DISPARITY,
}
NO_ALIGNMENT = {"metric": {"alignment": "none"}}
METRES_ONLY = "it compares metres with metres, unaligned"

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
        version=2,
        base={"resize": "bilinear", "min_depth": 0, "disparity_floor": "cap"},
        kinds=ALL_BY_DISPARITY,
        sets={
            "nyu": {"max_depth": 10},
            "tum": {"max_depth": 10},
            "kitti": {"max_depth": 80, "cap_mode": "keep"},
            "eth3d": {"max_depth": 72},
            "sintel": {"max_depth": 72},
            "indoor": {"max_depth": 10},
            "outdoor": {"max_depth": 80},
            "*": {"max_depth": 80},
        },
        refuses="",
        notes=(
            "2: bilinear without align_corners, it was bicubic, and KITTI's labels count beyond "
            "80 m",
            "the authors' programs for NYU and KITTI: least squares in disparity, floor 1 / cap, "
            "then depth. unverified: they themselves were not read; six public copies resize "
            "bilinearly, and that for KITTI does not leave out labels beyond 80 m",
            "unverified: caps 10 (TUM) and 72 (ETH3D, Sintel) are remembered from the paper",
            "unverified: elsewhere labels count below the cap, not at it; no crop on KITTI",
            "MiDaS' own KITTI numbers are of 161 images: a split, not a switch",
            "the input size is that of Depth Anything; MiDaS' own models have theirs",
            "unverified: depth-affine predictions are fitted in depth: our choice",
        ),
    ),
    "marigold": Named(
        version=2,
        base={"disparity_floor": 1e-3, "clamp": True, "resize": "bilinear"},
        kinds={
            "disparity-affine": DISPARITY,
            "depth-affine": DEPTH,
            "depth-scale": DEPTH,
            "metric": DEPTH,
        },
        sets={
            "nyu": depth_range(1e-3, 10, crop="nyu"),
            "kitti": depth_range(1e-5, 80, frame="kb", crop="eigen-kitti"),
            "eth3d": depth_range(1e-5, INF, align_on="thin-1024-columns"),
            "diode": depth_range(0.6, 350, cap_mode="keep"),
            "scannet": depth_range(1e-3, 10),
            "indoor": depth_range(1e-3, 10),
            "outdoor": depth_range(1e-5, 80),
            "*": depth_range(1e-5, 80),
        },
        refuses="",
        notes=(
            "2: on ETH3D the fit leaves out columns, not rows (a map without a channel axis is "
            "given to a resize of one axis); DIODE's .6 to 350 m clip predictions and leave out "
            "no label",
            "config/dataset_depth and script/depth/eval.py: ranges, NYU and KITTI windows, least "
            "squares in depth, or in disparity with a floor of 1e-3, then clipped to the range",
            "its fit in disparity leaves out predictions that are not positive; ours does not",
            "depths beyond 1000 m cannot be met through that floor: the truth itself would not be",
            "unverified: bounds are strict; predictions are resized bilinearly",
            "unverified: which columns: those that a nearest-neighbour reduction to 1024 takes",
            "the input size is that of Depth Anything; Marigold's own is 768",
            "sets that Marigold does not have get its NYU or KITTI range and no window: our choice",
        ),
    ),
    "moge": Named(
        version=2,
        base={
            **depth_range(0, INF, outlier_ratio=1000, disparity_floor="label"),
            **{"resize": "bilinear", "boundary": "moge"},
        },
        kinds={
            "disparity-affine": DISPARITY,
            "depth-affine": {"alignment": "l1-depth", "align_on": "windows-64"},
            "depth-scale": {"alignment": "l1-depth-scale", "align_on": "windows-64"},
            "metric": {"alignment": "none"},
        },
        sets={"*": {}},
        refuses="",
        notes=(
            "test/metrics.py and utils/alignment.py: least squares in disparity with a floor of 1 "
            "/ the label's largest depth; L1 with weights 1 / depth on 64 x 64 pixels",
            "depths beyond 1000 times the 1 % quantile are left out by its loader",
            "a metric prediction has four rows there, one for each of its views: here too, unasked",
            "2: the fit looks for the valid pixel nearest to each of 64 x 64 points in "
            "overlapping windows of ceil(H / 64) x ceil(W / 64) pixels; it looked in cells that "
            "do not overlap",
            "unverified: the prediction is resized bilinearly without align_corners; where a "
            "window begins; scale only is sampled too",
            "its images are warped to one camera for each set: use its bundle, or the numbers are "
            "others",
        ),
        all_views=True,
    ),
    "zoe": Named(
        version=2,
        base={"clamp": True, "flip": True},
        kinds=NO_ALIGNMENT,
        sets={
            "nyu": depth_range(1e-3, 10, crop="nyu"),
            "kitti": depth_range(1e-3, 80, frame="kb", crop="garg"),
            "ibims": depth_range(0, 10, crop="nyu"),
            "sunrgbd": depth_range(0, 8, crop="nyu-pixels"),
            "diml_indoor": depth_range(0, 10, crop="nyu-pixels"),
            "diml_outdoor": depth_range(2, 80, crop="garg"),
            "diode_indoor": depth_range(1e-3, 10, crop="nyu-pixels"),
            "diode_outdoor": depth_range(1e-3, 80, crop="garg"),
            "hypersim": depth_range(1e-3, 80, crop="nyu-pixels"),
            "vkitti2": depth_range(1e-3, 80, frame="kb", crop="garg"),
            "ddad": depth_range(1e-3, 80, crop="garg"),
            "indoor": depth_range(1e-3, 10),
            "outdoor": depth_range(1e-3, 80),
            "*": depth_range(1e-3, 80),
        },
        refuses=METRES_ONLY,
        notes=(
            "2: DIML indoors has no lower bound; it was 1e-3 m",
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
        version=2,
        base={"resize": "bilinear", "min_depth": 0},
        kinds=NO_ALIGNMENT,
        sets={
            "nyu": {"max_depth": 10, "crop": "nyu"},
            "kitti": {"max_depth": 80, "frame": "kb", "crop": "garg"},
            "sunrgbd": {"max_depth": 8},
            "ibims": {"max_depth": 25},
            "diode_indoor": {"max_depth": 25},
            "diode_outdoor": depth_range(0.1, 80),
            "eth3d": {"max_depth": 50},
            "ddad": {"max_depth": 120},
            "nuscenes": {"max_depth": 80},
            "void": {"max_depth": 10},
            "indoor": {"max_depth": 10},
            "outdoor": {"max_depth": 80},
            "*": {"max_depth": 80},
        },
        refuses=METRES_ONLY,
        notes=(
            "2: its pipeline masks labels strictly between the bounds before the metric, which "
            "alone would count the cap, too; NYU's window (rows 45:-9, columns 41:-39 of 480 x "
            "640); on KITTI Garg's, of the 352 x 1216 frame; DIODE outdoors from 0.1 to 80 m",
            "bilinear without align_corners, no flip, no other window",
            "unverified: predictions are not clamped to the cap; lower bounds other than DIODE's",
            "sets that UniDepth does not have get a cap by domain: our choice",
            "the input size is that of Depth Anything; UniDepth's models have their own",
        ),
    ),
    "v2": Named(
        version=1,
        base={"strict": False, "min_valid": 10},
        kinds=NO_ALIGNMENT,
        sets={
            "hypersim": {"max_depth": 20},
            "vkitti2": {"max_depth": 80},
            "kitti": {"max_depth": 80},
            "indoor": {"max_depth": 20},
            "outdoor": {"max_depth": 80},
            "*": {"max_depth": 80},
        },
        refuses=METRES_ONLY,
        notes=(
            "metric_depth/train.py of Depth Anything V2, which scores Hypersim's 7,386 images or "
            "652 of KITTI (dataset/splits/kitti/val.txt) after each epoch: align_corners, labels "
            "from 1e-3 m to the model's range, the bounds included, images under ten valid pixels "
            "left out, no crop, no clamp, no flip",
            "its SILog halves the squared bias: sqrt(rmse_log^2 - log_bias^2 / 2) of our columns",
            "sets that it does not score get 20 m indoors and 80 m outdoors, the ranges of the "
            "released models: our choice",
        ),
    ),
    "vda": Named(
        version=2,
        base={
            **{"disparity_floor": 1e-3, "clamp": True, "resize": "bilinear"},
            **{"per": "sequence", "aggregate": "sequence"},
        },
        kinds={
            "disparity-affine": {**DISPARITY, "prediction_floor": 1e-3},
            "depth-affine": DEPTH,
            "depth-scale": DISPARITY,
            "metric": {"alignment": "none"},
        },
        sets={
            "kitti": depth_range(1e-3, 80, frame="vda-kitti"),
            "sintel": depth_range(1e-3, 70, label_step=650 / 65535),
            "nyu": depth_range(1e-3, 10, frame="nyu"),
            "bonn": depth_range(1e-3, 10),
            "scannet": depth_range(1e-3, 10, frame="vda-scannet"),
            "indoor": depth_range(1e-3, 10),
            "outdoor": depth_range(1e-3, 80),
            "*": depth_range(1e-3, 80),
        },
        refuses="",
        notes=(
            "benchmark/eval: one scale and shift for a sequence by least squares in disparity, "
            "floor 1e-3, caps, KITTI's rows 0:374 and columns 0:1242, ScanNet's border",
            "2: NYU's images are cropped to the window before the network; relative predictions "
            "are clipped to at least 1e-3 before the fit; Sintel's labels are stored in 16 bits, "
            "650 m in 65,535 steps. Its images are the clean ones (sintel?rendering=clean), not a "
            "switch",
            "its sequences are cut to 110 or 500 frames (KITTI), 100 (Sintel), 90 at every third "
            "or 500 (ScanNet): frames and frame_step, which are all frames unless given",
            "unverified: the aligned depth is clamped to the range; the label's lower bound; the "
            "mean is over frames, then over sequences; whether the clipped predictions are "
            "scored, or only fitted; steps are rounded down, and Sintel's depths beyond 650 m "
            "count as that",
            "unverified: resized bilinearly without align_corners; metric predictions unaligned; "
            "the fit of depth-affine and depth-scale ones is our choice",
        ),
    ),
}
