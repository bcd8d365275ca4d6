"""Maps that break loss functions: name → (prediction, label, valid, mask), float64, 12 × 14."""

import numpy as np

H, W = 12, 14


def _box(y0, y1, x0, x1):
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def cases(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    everywhere, nowhere = np.ones((H, W), bool), np.zeros((H, W), bool)
    box, few = _box(2, 8, 3, 11), rng.random((H, W)) < 0.3

    def pred():
        return rng.normal(2, 3, (H, W))

    def label():
        return rng.uniform(0, 1, (H, W))

    def some(n):
        mask = np.zeros(H * W, bool)
        mask[rng.choice(H * W, n, replace=False)] = True
        return mask.reshape(H, W)

    out = {
        "random": (pred(), label(), rng.random((H, W)) < 0.9, box),
        "every pixel valid": (pred(), label(), everywhere, box),
        "sparse labels": (pred(), label(), few, box),
        "box is everything": (pred(), label(), few, everywhere),
        "box is nothing": (pred(), label(), few, nowhere),
        "no valid pixel": (pred(), label(), nowhere, box),
        "one valid pixel": (pred(), label(), some(1), nowhere),
        "nine valid pixels": (pred(), label(), some(9), nowhere),
        "ten valid pixels": (pred(), label(), some(10), nowhere),
        "region of 9 pixels": (pred(), label(), everywhere, _box(1, 4, 1, 4)),
        "region of 10 pixels": (pred(), label(), everywhere, _box(1, 3, 1, 6)),
        "region of 1 pixel": (pred(), label(), everywhere, _box(4, 5, 4, 5)),
        "constant prediction": (np.full((H, W), 3.25), label(), everywhere, box),
        "dead prediction": (np.zeros((H, W)), label(), everywhere, box),
        "constant label": (pred(), np.full((H, W), 0.3), everywhere, box),
        "all sky": (pred(), np.zeros((H, W)), everywhere, box),
        "prediction of two values": (rng.choice([1.0, 4.0], (H, W)), label(), everywhere, box),
        "label of two values": (pred(), rng.choice([0.0, 1.0], (H, W)), everywhere, box),
        # quarters: residuals of equal size are then equal to the last bit, and tie everywhere
        "both of few values": (
            rng.integers(0, 5, (H, W)) / 4, rng.integers(0, 5, (H, W)) / 4, everywhere, box
        ),
        "ties at the median": (
            np.where(rng.random((H, W)) < 0.6, 0.7, pred()), label(), everywhere, box
        ),
        "nearly flat prediction": (1 + 1e-8 * pred(), label(), everywhere, box),
        "large prediction": (1e7 * pred(), label(), everywhere, box),
        "small prediction": (1e-3 * pred(), label(), everywhere, box),
        "flat label in the box": (pred(), np.where(box, 0.4, label()), everywhere, box),
        "flat label around it": (pred(), np.where(box, label(), 0.4), everywhere, box),
        "faint label in the box": (pred(), label() * np.where(box, 0.02, 1), everywhere, box),
        "prediction flat in the box": (np.where(box, 1.5, pred()), label(), everywhere, box),
    }  # fmt: skip
    for name, poison in ("infinite", np.inf), ("not a number", np.nan), ("negative", -np.inf):
        p, d, valid = pred(), label(), rng.random((H, W)) < 0.8
        p[~valid], d[~valid] = poison, poison
        out[f"{name} where invalid"] = (p, d, valid, box)
    # a faint map of a 16-bit file: eight levels, ties everywhere
    levels = np.round(65535 * (0.5 + 8 / 65535 * label())) / 65535
    out["16-bit label of eight levels"] = (pred(), levels, everywhere, box)
    out["16-bit label and prediction"] = (np.float16(pred()).astype(float), levels, few, box)
    return out
