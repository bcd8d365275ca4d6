"""Switches of protocols that differ from the defaults."""

OTHER = {
    "alignment": "lsq-depth", "align_on": "grid-64", "space": "disparity", "min_depth": 0.5,
    "max_depth": 79.0, "strict": False, "cap_mode": "clip", "outlier_ratio": 1000.0,
    "disparity_floor": "label", "clamp": True, "frame": "kb", "crop": "garg", "resize": "bicubic",
    "per": "sequence", "aggregate": "pixel", "flip": True, "pad": "zoe", "input_size": 392,
    "min_valid": 2, "prediction_floor": 0.001, "label_step": 0.01, "frames": 110, "frame_step": 3,
    "boundary": "depth-pro",
}  # fmt: skip
