"""The losses as the formulas say them: one map at a time, sorts, PyTorch's autograd, float64."""

import math
from fractions import Fraction

import torch


def prepare_label(disparity, valid, sky, shift_known, use_sky=True):
    """One map (h, w): label scaled to 0-1 on its valid pixels, and its valid mask."""
    disparity, valid = disparity.clone(), valid.clone()
    added = sky & ~valid if use_sky else torch.zeros_like(valid)
    if shift_known:
        disparity[added] = 0.0
        valid = valid | added
    label = torch.zeros_like(disparity)
    if valid.any():
        low, high = disparity[valid].min(), disparity[valid].max()
        if high > low:
            label[valid] = (disparity[valid] - low) / (high - low)
    if not shift_known:
        valid = valid | added
    return label, valid


def lower_median(values):
    """Differentiable; PyTorch spreads the gradient evenly over the ties."""
    return torch.median(values)


def centre_and_scale(values):
    """Median and mean absolute deviation of a vector."""
    t = lower_median(values)
    return t, (values - t).abs().mean()


def matching(difference, valid, used, region):
    """Gradient matching of one map: pairs of neighbours, both used and in one region."""
    total = difference.new_zeros(())
    for scale in range(4):
        step = 2**scale
        d, v, u, r = (x[::step, ::step] for x in (difference, valid, used, region))
        n = int(v.sum())
        rows, columns = d.shape
        u, r = u.tolist(), r.tolist()
        here, there = [], []
        for y in range(rows):
            for x in range(columns):
                for other_y, other_x in ((y, x + 1), (y + 1, x)):
                    if other_y >= rows or other_x >= columns:
                        continue
                    if not (u[y][x] and u[other_y][other_x]):
                        continue
                    if r[y][x] != r[other_y][other_x]:
                        continue
                    here.append(y * columns + x)
                    there.append(other_y * columns + other_x)
        if here:
            flat = d.flatten()
            total = total + (flat[there] - flat[here]).abs().sum() / n
    return total


def kept(rho, trim):
    """Residuals that stay: all up to the k-th smallest, ties included."""
    n = len(rho)
    k = n - math.floor(Fraction(str(trim)) * n)
    threshold = rho.detach().sort().values[k - 1]
    return rho[rho.detach() <= threshold]


def map_loss(
    pred, label, valid, mask=None, trim=0.0, trim_per="sample", min_valid=10, min_region_scale=0.0,
    gradient_weight=0.0,
):  # fmt: skip
    """Loss of one map (h, w), or None where it does not count."""
    mask = torch.zeros_like(valid) if mask is None else mask
    n = int(valid.sum())
    map_scale = centre_and_scale(label[valid])[1] if n else torch.tensor(0.0)
    residuals, used = [], torch.zeros_like(valid)
    difference = torch.zeros_like(label)
    for region in (valid & ~mask, valid & mask):
        if int(region.sum()) < min_valid:
            continue
        d = label[region]
        t_d, s_d = centre_and_scale(d)
        if s_d < 1e-6 or s_d < min_region_scale * map_scale:
            continue
        p = pred[region]
        t_p, s_p = centre_and_scale(p)
        delta = (p - t_p) / s_p.clamp(min=1e-6) - (d - t_d) / s_d
        residuals.append(delta.abs())
        difference = difference.masked_scatter(region, delta)
        used = used | region
    if not residuals:
        return None
    if trim_per == "sample":
        together = torch.cat(residuals)
        loss = len(together) / n * kept(together, trim).mean()
    else:
        loss = sum(len(r) / n * kept(r, trim).mean() for r in residuals)
    if gradient_weight:
        loss = loss + gradient_weight * matching(difference, valid, used, mask)
    return loss


def feature_alignment(student, frozen, margin=0.85, denominator="image"):
    """Sum and count over images (b, n, d), or over tokens."""
    total, count = student.new_zeros(()), 0
    for s, f in zip(student, frozen, strict=True):
        losses = []
        for x, y in zip(s, f, strict=True):
            length = x.norm() * y.norm()
            cosine = x @ y / length if length > 0 else x.new_zeros(())
            if cosine <= margin:
                losses.append(1 - cosine)
        if denominator == "image":
            count += 1
            total = total + (torch.stack(losses).mean() if losses else 0)
        else:
            count += len(losses)
            total = total + (torch.stack(losses).sum() if losses else 0)
    return total, count


def silog_v2(pred, label, valid):
    """One map, or many as one: sqrt(mean d² - .5 (mean d)²); below 1e-6 m the log's tangent."""
    p, y = pred[valid], label[valid]
    floor = torch.tensor(1e-6, dtype=p.dtype)
    logarithm = torch.where(p < floor, floor.log() + (p - floor) / floor, p.clamp(min=1e-6).log())
    d = y.log() - logarithm
    return ((d**2).mean() - 0.5 * d.mean() ** 2).sqrt()


def silog_v1(pred, label, valid):
    """The same for ZoeDepth's: 10 sqrt(var g + .15 (mean g)²), unbiased variance, alpha 1e-7."""
    g = (pred[valid] + 1e-7).log() - (label[valid] + 1e-7).log()
    return 10 * (g.var() + 0.15 * g.mean() ** 2).sqrt()
