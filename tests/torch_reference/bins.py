"""The metric-bins head as the formulas say it: one bin, one attractor at a time, PyTorch autograd.

Weights are a dict under the names of ZoeDepth's files; maps are NCHW. Any precision: what the code
of ZoeDepth computes in float32 whatever the model's (the binomial coefficients) is float64 here.
"""

import math

import torch
import torch.nn.functional as F

BINS = 64
ATTRACTORS = (16, 8, 4, 1)
NEAREST = 1e-3  # metres


def resized(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def pointwise(weights, name, x):
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def network(weights, name, x):
    return pointwise(weights, f"{name}._net.2", pointwise(weights, f"{name}._net.0", x).relu())


def softplus(x):
    """Without PyTorch's cut at 20, which is 2e-9 away."""
    return torch.logaddexp(x, torch.zeros_like(x))


def probabilities(weights, features, embedding):
    """Of the bins, (b, 64, H, W)."""
    x = torch.cat([features, embedding], 1)
    x = pointwise(weights, "conditional_log_binomial.mlp.0", x)
    x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    x = softplus(pointwise(weights, "conditional_log_binomial.mlp.2", x)) + 1e-4
    p = x[:, 0] / (x[:, 0] + x[:, 1])
    temperature = 0.0212 + (50 - 0.0212) * x[:, 2] / (x[:, 2] + x[:, 3])
    trials = BINS - 1 + 1e-7
    scores = []
    for k in range(BINS):
        some, others = k + 1e-7, trials - (k + 1e-7)
        ways = trials * math.log(trials) - some * math.log(some) - others * math.log(others + 1e-7)
        log_p, log_q = p.clamp(min=1e-4).log(), (1 - p).clamp(min=1e-4).log()
        scores.append((ways + k * log_p + (BINS - 1 - k) * log_q) / temperature)
    return torch.stack(scores, 1).softmax(1)


def metres(weights, relative, activation, layer4_rn, fused, *, centres, max_depth):
    """Depth (b, H, W) of the decoder's maps; `centres` is "softplus" or "normed"."""
    bottleneck = pointwise(weights, "conv2", layer4_rn)
    seeds = network(weights, "seed_bin_regressor", bottleneck)
    if centres == "softplus":
        c = softplus(seeds)
    else:
        widths = seeds.relu() + 1e-3
        edges = (max_depth - NEAREST) * (widths / widths.sum(1, keepdim=True)).cumsum(1) + NEAREST
        lower = torch.cat([torch.full_like(edges[:, :1], NEAREST), edges[:, :-1]], 1)
        c = ((lower + edges) / 2 - NEAREST) / (max_depth - NEAREST)
    before = network(weights, "seed_projector", bottleneck)
    for i, x in enumerate(fused):
        embedding = network(weights, f"projectors.{i}", x)
        points = network(weights, f"attractors.{i}", embedding + resized(before, x.shape[2:]))
        if centres == "softplus":
            points = softplus(points)
        else:
            points = points.relu().unflatten(1, (ATTRACTORS[i], 2))[:, :, 0] + 1e-3
        c = resized(c, x.shape[2:])
        pull = torch.zeros_like(c)
        for k in range(ATTRACTORS[i]):
            away = points[:, k : k + 1] - c
            pull = pull + away / (1 + 300 * away**2)
        c = c + pull / ATTRACTORS[i]
        before = embedding
    if centres == "normed":
        c = ((max_depth - NEAREST) * c + NEAREST).sort(1).values.clamp(NEAREST, max_depth)
    size = activation.shape[2:]
    features = torch.cat([activation, relative[:, None]], 1)
    share = probabilities(weights, features, resized(embedding, size))
    return (share * resized(c, size)).sum(1)
