"""Draws the contact sheets of an audit: inputs, labels and predictions of each example."""

import cv2
import numpy as np

from depth_anything_jax.utils.encoders import EncoderSpec
from depth_anything_jax.visualization.colormaps import GREY, colourise
from depth_anything_jax.visualization.contact_sheets import BOX, NEAREST, SIDE, row, tile, write
from depth_anything_jax.visualization.strips import dilated

ROWS = 8  # examples on a sheet
RESIDUAL_RANGE = 3.0  # mean deviations of the label: the brightest colour
TRIMMED = (255, 0, 0)


def sheets(arrays: dict[str, np.ndarray], encoder: EncoderSpec) -> dict[str, np.ndarray]:
    """Draws RGB sheets of ROWS examples each, by name: "labelled_000" starts with example 0.

    Args:
      arrays: what `audit.dump` gives.
      encoder: the student's, as whose input the images stand in the arrays.
    """
    found = {}
    for part, draw in (("labelled", _labelled_row), ("unlabelled", _unlabelled_row)):
        prefix = f"{part}/"
        x = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
        if "image" in x:
            x["image"] = encoder.denormalise(x["image"])
        for first in range(0, len(x.get("prediction", ())), ROWS):
            rows = [draw(x, i) for i in range(first, min(first + ROWS, len(x["prediction"])))]
            found[f"{part}_{first:03d}"] = np.concatenate([_head(arrays, part, rows[0]), *rows])
    return found


def _head(arrays, part: str, row: np.ndarray) -> np.ndarray:
    names = ("unlabelled", "features") if part == "unlabelled" else ("labelled",)
    known = {n: float(arrays[f"reported/loss/{n}"]) for n in names if f"loss/{n}/sum" in arrays}
    lines = (
        f"step {int(arrays['step'])}, {part}: "
        + ", ".join(f"loss/{n} {v:.5f}" for n, v in known.items()),
        "disparity: red near, blue far, labels from 0 to 1   |   residuals: dark 0, yellow "
        f"{RESIDUAL_RANGE:g} or more, red: trimmed   |   grey: does not count",
    )
    head = np.full((24 * len(lines) + 4, row.shape[1], 3), 255, np.uint8)
    for i, line in enumerate(lines):
        write(head, line, (6, 18 + 24 * i), 0.5)
    return head


def _labelled_row(x, i: int) -> np.ndarray:
    used, kept, value = (x[k][i] for k in ("used", "kept", "value"))
    return row(
        tile(_photo(x["source_image"][i]), f"{i}: from the data", "fed undistorted"),
        tile(_label(x["label"][i], x["valid"][i]), "label", _share(x["valid"][i], "valid")),
        tile(colourise(x["prediction"][i]), "prediction", "its own range"),
        tile(_residual(value, used, kept), "residual", _mean(value, used, kept)),
    )


def _unlabelled_row(x, i: int) -> np.ndarray:
    mate, box, mask = int(x["partner"][i]), x["box"][i], x["mask"][i]
    drawn = bool(mask.any())
    size = f"box {box[2] - box[0]} x {box[3] - box[1]}" if drawn else "no box"
    fed_words = "partner's in the box" if drawn else "its own"
    used, kept, value = (x[k][i] for k in ("used", "kept", "value"))
    inside, outside = used & mask, used & ~mask

    def own(j):
        return _label(x["own_label"][j], x["own_valid"][j])

    fed = _photo(x["image"][i])
    tiles = [
        tile(_photo(x["source_image"][i]), f"{i}: from the data", "what the teacher labelled"),
        tile(_photo(x["source_image"][mate]), f"{mate}: its partner", "from the data"),
        tile(fed, "student's input", size, box),
        tile(own(i), f"label of {i}", _share(x["own_valid"][i], "valid"), box),
        tile(own(mate), f"label of {mate}", _share(x["own_valid"][mate], "valid"), box),
        tile(_label(x["label"][i], x["valid"][i]), "label as fed", fed_words, box),
        tile(colourise(x["prediction"][i]), "prediction", "its own range", box),
        tile(
            _residual(value, outside, kept), "residual, outside", _mean(value, outside, kept), box
        ),
        tile(_residual(value, inside, kept), "residual, inside", _mean(value, inside, kept), box),
    ]
    if "token_kept" in x:
        kept, cosine = x["token_kept"][i], x["cosine"][i]
        low, high = cosine.min(), cosine.max()
        words = f"{kept.sum()} of {kept.size} tokens kept", f"cosine {low:.3f} to {high:.3f}"
        tiles += [tile(_tokens(fed, kept), *words)]
    return row(*tiles)


def _photo(image) -> np.ndarray:
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _label(label, valid) -> np.ndarray:
    return colourise(*dilated(label, valid), limits=(0, 1))


def _residual(value, used, kept) -> np.ndarray:
    from matplotlib import colormaps

    shown = colormaps["viridis"](np.clip(value / RESIDUAL_RANGE, 0, 1), bytes=True)[..., :3].copy()
    shown[used & ~kept] = TRIMMED
    shown[~used] = GREY
    return shown


def _tokens(image, kept) -> np.ndarray:
    """Draws the image, grey where the margin leaves patches out, a line around the others."""
    side = (SIDE, SIDE)
    rows = round((kept.size * image.shape[0] / image.shape[1]) ** 0.5)
    cells = cv2.resize(kept.reshape(rows, -1).astype(np.uint8), side, interpolation=NEAREST)
    image = cv2.resize(image, side, interpolation=NEAREST)
    shown = np.where(cells[..., None] > 0, image, image // 5 + GREY * 4 // 5)
    outlines, _ = cv2.findContours(cells, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(shown, outlines, -1, BOX, 1)


def _share(mask, word: str) -> str:
    return f"{mask.mean():.0%} {word}"


def _mean(value, used, kept) -> str:
    if not used.any():
        return "no pixel"
    left = value[used & kept]
    mean = f"{left.mean():.3f}" if left.size else "-"
    return f"mean {mean}, {(used & ~kept).sum() / used.sum():.0%} trimmed"
