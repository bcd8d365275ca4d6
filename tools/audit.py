"""Recomputes every loss of an audit from its NPZ files, and reports where the numbers differ.

    python -m depth_anything_jax.train --config=… --audit=3
    python tools/audit.py WORKDIR/audit

Written from Depth Anything V1 section 3, V2 section 5 and the choices in docs/method.md, in NumPy
and float64, one map at a time; it does not import the package. Exit status 0: everything agrees; 1:
something differs, and the lines below each table name the example, region, pixel or token; 2: bad
input.
"""

import argparse
import json
import math
import pathlib
import sys
import zipfile
from fractions import Fraction

import numpy as np

# Allowed difference, relative for values above 1: the package computes in float32, this file in
# float64, and float32 sums over the pixels of a map round (at 518 x 518: 1.2e-6 in residuals).
FLOAT32 = 1e-5
# Only for the losses reported by the step: training step and audit are two programs, in which
# bfloat16 and TF32 networks round at different places.
NARROW = 2.0**-6
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet
LOSSES = ("labelled", "unlabelled", "features")  # in the order of loss.weights
REGIONS = ("outside the box", "inside the box")


def main() -> None:
    """Checks every dump of a folder; exits with 1 where one differs from its losses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=pathlib.Path, help="output of train --audit=N: WORKDIR/audit")
    folder = parser.parse_args().dir
    files = sorted(folder.glob("step_*.npz"))
    if not files:
        parser.error(f"{folder} holds no step_*.npz; train --audit=N writes them to WORKDIR/audit")
    wrong = 0
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as opened:
                dump = {name: opened[name] for name in opened.files}
            rows, findings = Step(dump).check()
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            parser.error(
                f"{file} is not a complete dump ({type(error).__name__}: {error}); write it again"
            )
        print(f"{file.name}\n{'':12}{'step':>14}{'dumped':>14}{'recomputed':>14}{'difference':>12}")
        for name, reported, dumped, ours in rows:
            print(f"{name:12}{reported:14.8f}{dumped:14.8f}{ours:14.8f}{abs(dumped - ours):12.1e}")
        print("\n".join(f"  {line}" for line in findings or ["agrees"]) + "\n")
        wrong += len(findings)
    sys.exit(f"{wrong} differences in {len(files)} steps" if wrong else 0)


class Step:
    """One dump, its settings, and the differences found in it."""

    def __init__(self, dump: dict[str, np.ndarray]):
        config = json.loads(str(dump["config"]))
        self.x, self.loss, self.found = dump, config["loss"], list[str]()
        self.rounding = FLOAT32 if dump["exact"] else NARROW

    def check(self) -> tuple[list[tuple[str, float, float, float]], list[str]]:
        """Returns rows (loss, by the step, dumped, recomputed) and the differences found."""
        sums = {p: self.maps(p) for p in LOSSES[:2] if f"{p}/prediction" in self.x}
        if "unlabelled/tokens" in self.x:
            sums["features"] = self.features()
        rows, totals = [], np.zeros(2)
        for name, weight in zip(LOSSES, self.loss["weights"], strict=True):
            if name in sums:
                dumped = [float(self.x[f"loss/{name}/{k}"]) for k in ("sum", "count")]
                self.same(f"{name}: sum over the batch", dumped[0], sums[name][0])
                self.same(f"{name}: count", dumped[1], sums[name][1])
                means = [a / max(n, 1) for a, n in (dumped, sums[name])]
                rows.append((name, *means))
                totals += weight * np.array(means)
        table = []
        for name, dumped_mean, ours in [*rows, ("total", *totals)]:
            reported = float(self.x[f"reported/loss/{name}"])
            self.same(f"{name}: by the step and dumped", reported, dumped_mean, self.rounding)
            table.append((name, reported, dumped_mean, ours))
        return table, self.found

    def same(self, what: str, dumped, ours, rounding: float = FLOAT32, mask=None) -> None:
        """Records the largest difference of two arrays; `mask` gives the region of each pixel."""
        dumped, ours = np.asarray(dumped, np.float64), np.asarray(ours, np.float64)
        if dumped.shape != ours.shape:
            self.found += [f"{what}: shape {dumped.shape} dumped, {ours.shape} recomputed"]
            return
        away = np.abs(dumped - ours) / np.maximum(1, np.abs(ours))
        bad = ~((away <= rounding) | (dumped == ours))  # NaN is bad
        for r in (0, 1) if mask is not None else (None,):
            here = bad
            if mask is not None:
                here = bad & (mask == r).reshape(mask.shape + (1,) * (bad.ndim - mask.ndim))
            if here.any():
                worst = np.argmax(np.where(here, np.nan_to_num(away, nan=np.inf), -1))
                at = tuple(map(int, np.unravel_index(worst, here.shape)))
                place = "" if r is None else f", {REGIONS[r]}"
                place += f", at {at} and {here.sum() - 1} more" if at else ""
                numbers = f"{dumped[at]:.8g} dumped, {ours[at]:.8g} recomputed"
                self.found.append(f"{what}{place}: {numbers}")

    def prepare(self, disparity, valid, sky, shift_known) -> tuple[np.ndarray, np.ndarray]:
        """Scales d to 0-1 on each map (V1 3.1); sky without a label is valid and farthest."""
        sky = sky & ~valid & self.loss["sky"]
        d = np.where(valid, disparity, 0).astype(np.float64)
        ranged = valid | sky if shift_known else valid
        low, high = (d[ranged].min(), d[ranged].max()) if ranged.any() else (0, 0)
        scaled = (d - low) / (high - low) if high > low else 0 * d
        return np.where(ranged, scaled, 0), valid | sky

    def maps(self, part: str) -> tuple[float, float]:
        """L_l or L_u from the data's maps: the sum over contributing maps, and their number."""
        x = {k.partition("/")[2]: v for k, v in self.x.items() if k.startswith(part + "/")}
        source = [x[f"source_{k}"] for k in ("disparity", "valid", "sky", "shift_known")]
        own = [self.prepare(*example) for example in zip(*source, strict=True)]
        total, count = 0.0, 0.0
        for i, (label, valid) in enumerate(own):
            what, mask = f"{part} example {i}", None
            if part == "labelled":
                fed = label, valid, (x["source_image"][i].astype(np.float64) - MEAN) / STD
            else:  # the distortion's random numbers are not dumped: distorted images are used
                mask, mate, (y0, x0, y1, x1) = x["mask"][i], int(x["partner"][i]), x["box"][i]
                box = np.zeros_like(mask)
                box[y0:y1, x0:x1] = True
                self.same(f"{what}: mask and its box", mask, box)
                self.same(f"{what}: is its own partner", mate == i, False)
                self.same(f"{what}: own label", x["own_label"][i], label)
                self.same(f"{what}: own valid", x["own_valid"][i], valid)
                fed = (
                    np.where(mask, own[mate][0], label),
                    np.where(mask, own[mate][1], valid),
                    np.where(mask[..., None], x["own_image"][mate], x["own_image"][i]),
                )
            for name, ours in zip(("label", "valid", "image"), fed, strict=True):
                self.same(f"{what}: {name} as fed", x[name][i], ours, mask=mask)
            pred, kept = x["prediction"][i].astype(np.float64), x["kept"][i]
            value, counts, rho, used, stay = self.map_loss(part, pred, *fed[:2], mask, kept)
            self.same(f"{what}: residual", np.where(used, x["value"][i], 0), rho, mask=mask)
            self.same(f"{what}: pixels used", x["used"][i], used, mask=mask)
            self.same(f"{what}: pixels kept by the trimming", kept, stay, mask=mask)
            self.same(f"{what}: loss", x[f"{part}_sum"][i], value)
            self.same(f"{what}: counts", x[f"{part}_count"][i], counts)
            total, count = total + value, count + counts
        return total, count

    def map_loss(self, part: str, pred, label, valid, mask, dumped_kept):
        """V1 3.1, 3.2: |p - d| of maps normalised by median and mean deviation, per region."""
        loss, n = self.loss, max(int(valid.sum()), 1)
        mask = np.zeros_like(valid) if mask is None else mask
        scaled, regions = np.zeros(pred.shape), []
        for region in (valid & ~mask, valid & mask):
            if region.sum() < loss["min_valid"]:
                continue
            (d, scale), (p, spread) = centred(label[region]), centred(pred[region])
            smallest = loss["min_region_scale"] * centred(label[valid])[1]
            if scale < 1e-6 or (part == "unlabelled" and scale < smallest):
                continue
            scaled[region] = (pred[region] - p) / max(spread, 1e-6) - (label[region] - d) / scale
            regions.append(region)
        rho, value, kept = np.abs(scaled), 0.0, np.zeros_like(valid)
        used = np.any([*regions, kept], axis=0)
        if part == "unlabelled" and loss["trim_per"] == "sample" and regions:
            regions = [used]  # V2 5.2: the largest tenth of each sample
        for region in regions:
            trim = Fraction(str(loss["trim"])) if part == "unlabelled" else Fraction(0)
            left = int(region.sum()) - math.floor(trim * int(region.sum()))
            last = np.sort(rho[region])[left - 1]
            # within rounding of the threshold either decision is right: the dump's is used
            tie = np.abs(rho - last) <= FLOAT32 * max(1, last)
            stay = region & np.where(tie, dumped_kept, rho < last)
            value += region.sum() / n * (rho[stay].mean() if stay.any() else np.nan)
            kept |= stay
        if regions:
            value += loss["gradient_weight"] * gradient(scaled, used, valid, mask)
        return value, int(bool(regions)), rho, used, kept

    def features(self) -> tuple[float, float]:
        """V1 3.3: 1 - cosine over the tokens whose cosine does not exceed the margin."""
        x, margin = self.x, self.loss["feat_margin"]
        a, b = (x[f"unlabelled/{k}"].astype(np.float64) for k in ("tokens", "frozen_tokens"))
        total, count = 0.0, 0.0
        for i in range(len(a)):
            length = np.linalg.norm(a[i], axis=1) * np.linalg.norm(b[i], axis=1)
            cosine = (a[i] * b[i]).sum(1) / np.where(length > 0, length, 1)
            dumped = x["unlabelled/token_kept"][i]
            tie = np.abs(cosine - margin) <= FLOAT32
            kept = np.where(tie, dumped, cosine <= margin)
            value, number = (1 - cosine)[kept].sum(), float(kept.sum())
            if self.loss["feat_denominator"] == "image":
                value, number = value / max(number, 1), 1.0
            what = f"features example {i}"
            self.same(f"{what}: cosine of token", x["unlabelled/cosine"][i], cosine)
            self.same(f"{what}: token kept by the margin {margin}", dumped, kept)
            self.same(f"{what}: loss", x["unlabelled/features_sum"][i], value)
            self.same(f"{what}: counts", x["unlabelled/features_count"][i], number)
            total, count = total + value, count + number
        return total, count


def centred(values: np.ndarray) -> tuple[float, float]:
    """Computes the lower median and the mean absolute deviation from it."""
    values = values.astype(np.float64)
    t = np.sort(values)[(len(values) - 1) // 2]
    return t, np.abs(values - t).mean()


def gradient(difference, used, valid, mask) -> float:
    """V2 5.2, MiDaS: |dx| + |dy| at four scales, between used pixels of the same region."""
    total = 0.0
    for step in (1, 2, 4, 8):
        d, u, v, m = (a[::step, ::step] for a in (difference, used, valid, mask))
        pair = u[:, 1:] & u[:, :-1] & (m[:, 1:] == m[:, :-1])
        dx = np.abs(np.diff(d, axis=1))[pair].sum()
        pair = u[1:] & u[:-1] & (m[1:] == m[:-1])
        dy = np.abs(np.diff(d, axis=0))[pair].sum()
        total += (dx + dy) / max(int(v.sum()), 1)
    return total


if __name__ == "__main__":
    main()
