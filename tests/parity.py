"""The project's parity tolerances, written once; every test that compares networks refers here.

Errors are max |ours - theirs| over the range (max - min) of theirs. Causes: float32 rounding of two
libraries that sum in different orders. PyTorch's own float32 is 5e-6 (ViT-S), 6e-6 (ViT-B) and
1.2e-5 (ViT-L) of the output's range away from its float64 on the random weights of
`reference_model.py`; the float64 bound is that of rounding alone.
"""

import numpy as np

TAPS_FLOAT32 = 1e-5  # every tapped feature
OUTPUT_FLOAT32 = {"vits": 3e-5, "vitb": 3e-5, "vitl": 1e-4, "vitg": 1e-4}
FLOAT64 = 1e-9  # taps and output of a small model, float64 on both sides
# Released weights, official PyTorch code on the same photo, its output stored: the missing smooth
# level of those weights leaves cliffs in the output, where float32 noise moves a pixel by 2e-4.
GOLDEN_MAX = 1e-3
GOLDEN_PEARSON = 0.99999


def relative_error(ours, theirs) -> float:
    """max |ours - theirs| / (max - min of theirs), in float64."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"shapes differ: {ours.shape} and {theirs.shape}"
    spread = np.ptp(theirs)
    assert spread > 0, "the reference is constant: a comparison would show nothing"
    return float(np.abs(ours - theirs).max() / spread)
