"""The earlier versions of named protocols: their hashes stay what they were, and they can be run.

Nothing here changes any more. `table` says what the next version of each mended.
"""

from __future__ import annotations

from typing import Any

from depth_anything_jax.evaluation.protocols.table import (
    ALL_BY_DISPARITY,
    DEPTH,
    DISPARITY,
    INF,
    METRES_ONLY,
    NO_ALIGNMENT,
    Named,
    depth_range,
)

_NOTES = ("an earlier version: see the table for what was mended since",)


def _earlier(base: dict, kinds: dict, sets: dict, refuses: str = "", **more: Any) -> Named:
    return Named(1, base, kinds, sets, refuses, _NOTES, **more)


EARLIER = {
    "midas@1": _earlier(
        {"resize": "bicubic", "min_depth": 0, "disparity_floor": "cap"},
        ALL_BY_DISPARITY,
        {
            "nyu": {"max_depth": 10},
            "tum": {"max_depth": 10},
            "kitti": {"max_depth": 80},
            "eth3d": {"max_depth": 72},
            "sintel": {"max_depth": 72},
            "indoor": {"max_depth": 10},
            "outdoor": {"max_depth": 80},
            "*": {"max_depth": 80},
        },
    ),
    "marigold@1": _earlier(
        {"disparity_floor": 1e-3, "clamp": True, "resize": "bilinear"},
        {
            "disparity-affine": DISPARITY,
            "depth-affine": DEPTH,
            "depth-scale": DEPTH,
            "metric": DEPTH,
        },
        {
            "nyu": depth_range(1e-3, 10, crop="nyu"),
            "kitti": depth_range(1e-5, 80, frame="kb", crop="eigen-kitti"),
            "eth3d": depth_range(1e-5, INF, align_on="thin-1024"),
            "diode": depth_range(0.6, 350),
            "scannet": depth_range(1e-3, 10),
            "indoor": depth_range(1e-3, 10),
            "outdoor": depth_range(1e-5, 80),
            "*": depth_range(1e-5, 80),
        },
    ),
    "moge@1": _earlier(
        {**depth_range(0, INF, outlier_ratio=1000, disparity_floor="label"), "resize": "bilinear"},
        {
            "disparity-affine": DISPARITY,
            "depth-affine": {"alignment": "l1-depth", "align_on": "grid-64"},
            "depth-scale": {"alignment": "l1-depth-scale", "align_on": "grid-64"},
            "metric": {"alignment": "none"},
        },
        {"*": {}},
        all_views=True,
    ),
    "zoe@1": _earlier(
        {"clamp": True, "flip": True},
        NO_ALIGNMENT,
        {
            "nyu": depth_range(1e-3, 10, crop="nyu"),
            "kitti": depth_range(1e-3, 80, frame="kb", crop="garg"),
            "ibims": depth_range(0, 10, crop="nyu"),
            "sunrgbd": depth_range(0, 8, crop="nyu-pixels"),
            "diml_indoor": depth_range(1e-3, 10, crop="nyu-pixels"),
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
        METRES_ONLY,
    ),
    "unidepth@1": _earlier(
        {"resize": "bilinear", "strict": False, "min_depth": 0},
        NO_ALIGNMENT,
        {
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
        METRES_ONLY,
    ),
    "vda@1": _earlier(
        {
            **{"disparity_floor": 1e-3, "clamp": True, "resize": "bilinear"},
            **{"per": "sequence", "aggregate": "sequence"},
        },
        {
            "disparity-affine": DISPARITY,
            "depth-affine": DEPTH,
            "depth-scale": DISPARITY,
            "metric": {"alignment": "none"},
        },
        {
            "kitti": depth_range(1e-3, 80, frame="vda-kitti"),
            "sintel": depth_range(1e-3, 70),
            "nyu": depth_range(1e-3, 10, crop="nyu"),
            "bonn": depth_range(1e-3, 10),
            "scannet": depth_range(1e-3, 10, frame="vda-scannet"),
            "indoor": depth_range(1e-3, 10),
            "outdoor": depth_range(1e-3, 80),
            "*": depth_range(1e-3, 80),
        },
    ),
}
