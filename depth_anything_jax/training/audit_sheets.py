"""Draws the contact sheets of an audit: inputs, labels and predictions of each example."""

import cv2
import numpy as np

from depth_anything_jax.utils.encoders import EncoderSpec
from depth_anything_jax.visualization.colormaps import GREY, colourise

SIDE = 224  # pixels of a tile, whatever the crop
ROWS = 8  # examples on a sheet
CAPTION = 34  # pixels above a tile
RESIDUAL_RANGE = 3.0  # mean deviations of the label: the brightest colour
BOX, TRIMMED = (255, 255, 0), (255, 0, 0)
NEAREST = cv2.INTER_NEAREST


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
        _write(head, line, (6, 18 + 24 * i), 0.5)
    return head


def _labelled_row(x, i: int) -> np.ndarray:
    used, kept, value = (x[k][i] for k in ("used", "kept", "value"))
    return _row(
        _tile(_photo(x["source_image"][i]), f"{i}: from the data", "fed undistorted"),
        _tile(_label(x["label"][i], x["valid"][i]), "label", _share(x["valid"][i], "valid")),
        _tile(colourise(x["prediction"][i]), "prediction", "its own range"),
        _tile(_residual(value, used, kept), "residual", _mean(value, used, kept)),
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
        _tile(_photo(x["source_image"][i]), f"{i}: from the data", "what the teacher labelled"),
        _tile(_photo(x["source_image"][mate]), f"{mate}: its partner", "from the data"),
        _tile(fed, "student's input", size, box),
        _tile(own(i), f"label of {i}", _share(x["own_valid"][i], "valid"), box),
        _tile(own(mate), f"label of {mate}", _share(x["own_valid"][mate], "valid"), box),
        _tile(_label(x["label"][i], x["valid"][i]), "label as fed", fed_words, box),
        _tile(colourise(x["prediction"][i]), "prediction", "its own range", box),
        _tile(
            _residual(value, outside, kept), "residual, outside", _mean(value, outside, kept), box
        ),
        _tile(_residual(value, inside, kept), "residual, inside", _mean(value, inside, kept), box),
    ]
    if "token_kept" in x:
        kept, cosine = x["token_kept"][i], x["cosine"][i]
        low, high = cosine.min(), cosine.max()
        words = f"{kept.sum()} of {kept.size} tokens kept", f"cosine {low:.3f} to {high:.3f}"
        tiles += [_tile(_tokens(fed, kept), *words)]
    return _row(*tiles)


def _photo(image) -> np.ndarray:
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _label(label, valid) -> np.ndarray:
    return colourise(label, valid, limits=(0, 1))


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


def _tile(picture, title: str, words: str, box=None) -> np.ndarray:
    """Draws a picture at SIDE x SIDE under two lines of text, with the box around its pixels."""
    h, w = picture.shape[:2]
    how = cv2.INTER_AREA if h > SIDE else NEAREST
    picture = cv2.resize(picture, (SIDE, SIDE), interpolation=how)
    if box is not None and box[2] > box[0]:
        y0, x0, y1, x1 = (int(round(s * SIDE / n)) for s, n in zip(box, (h, w, h, w), strict=True))
        for colour, width in (((0, 0, 0), 3), (BOX, 1)):
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, width)
    caption = np.full((CAPTION, SIDE, 3), 255, np.uint8)
    _write(caption, title, (2, 13), 0.45)
    _write(caption, words, (2, 29), 0.4)
    return np.concatenate([caption, picture])


def _write(picture, text: str, where: tuple[int, int], size: float) -> None:
    cv2.putText(picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)


def _row(*tiles) -> np.ndarray:
    bar = np.full((CAPTION + SIDE, 4, 3), 255, np.uint8)
    return np.concatenate([piece for tile in tiles for piece in (tile, bar)], axis=1)
