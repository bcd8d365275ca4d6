"""Trains the student in PyTorch, on whole batches: what benchmarks/train_step.py compares with.

Written as a PyTorch user would for speed: transformers' model with fused attention, autocast to
bfloat16 on GPUs that have it, batched losses, AdamW over two groups. The step is section 3 of V1
without the colour distortion, and with CutMix under masks that are handed over, so that ours
computes the same losses from the same weights. `tests/twin` is the exact and slow counterpart.
"""

import types
from typing import Any

import numpy as np
import torch
import transformers

from depth_anything_jax.checkpoints import convert
from depth_anything_jax.models import VARIANTS
from tests.helpers import reference_model


class Student:
    """A student, its frozen encoder and a batch on the device."""

    def __init__(self, config, params, frozen, batch, mask, *, bfloat16: bool):
        """params, frozen, batch: of ours, in numpy; mask: CutMix's, (b, h, w)."""
        self.loss, self.bfloat16 = config.loss, bfloat16
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as jax
        size = VARIANTS[config.model.variant]
        backbone = transformers.Dinov2Config(
            hidden_size=size.dim,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            image_size=size.image_size,
            patch_size=size.encoder.patch_size,
            use_swiglu_ffn=size.swiglu,
            out_indices=[i + 1 for i in size.taps(config.model.version)],
            apply_layernorm=True,
            reshape_hidden_states=False,
        )
        model = transformers.DepthAnythingForDepthEstimation(
            transformers.DepthAnythingConfig(
                backbone_config=backbone,
                reassemble_hidden_size=size.dim,
                neck_hidden_sizes=list(size.out_channels),
                fusion_hidden_size=size.features,
            )
        )
        reference_model.use_official_positions(model)
        self.encoder = transformers.Dinov2Model(backbone)
        reference_model.use_official_positions(types.SimpleNamespace(backbone=self.encoder))
        load(model, convert.to_torch(params, "hf"))
        load(self.encoder, convert.to_torch({"encoder": frozen}, "dinov2-hf"))
        for network in (model, self.encoder):
            network.to(self.device)
        self.model, self.patch = model.train(), size.encoder.patch_size
        mean, deviation = (torch.tensor(x) for x in (size.encoder.mean, size.encoder.std))
        self.batch: dict[str, dict[str, torch.Tensor]] = {}
        for name, part in batch.items():
            tensors = {k: torch.from_numpy(np.array(x)) for k, x in part.items()}
            tensors["image"] = ((tensors["image"] - mean) / deviation).permute(0, 3, 1, 2)
            self.batch[name] = {k: x.contiguous().to(self.device) for k, x in tensors.items()}
        self.mask = torch.from_numpy(np.array(mask)).to(self.device)
        o = config.optim
        coders = [p for n, p in model.named_parameters() if n.startswith("backbone.")]
        others = [p for n, p in model.named_parameters() if not n.startswith("backbone.")]
        self.adamw = torch.optim.AdamW(
            [{"params": coders, "lr": o.encoder_lr}, {"params": others, "lr": o.decoder_lr}],
            weight_decay=o.weight_decay,
            fused=self.device.type == "cuda" or None,
        )
        self.clip = o.clip
        self.losses: Any = self._losses

    def compile(self) -> None:
        """From now on the losses are a program of torch.compile."""
        self.losses = torch.compile(self._losses)

    def _losses(self) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self._all()

    def _all(self) -> torch.Tensor:
        labelled, unlabelled = self.batch["labelled"], self.batch["unlabelled"]
        mask = self.mask

        def mixed(x):
            inside = mask if x.ndim == 3 else mask[:, None]
            return torch.where(inside, torch.roll(x, 1, 0), x)

        images = mixed(unlabelled["image"])
        count = len(labelled["image"])
        depth, tokens = self.forward(torch.cat([labelled["image"], images]))
        with torch.no_grad():
            frozen = self.encoder(images).last_hidden_state[:, 1:]
        first = affine(depth[:count], scaled(labelled), labelled["valid"], None, 0.0)
        second = affine(
            depth[count:],
            mixed(scaled(unlabelled)),
            mixed(unlabelled["valid"]),
            mask,
            self.loss.trim,
        )
        cosine = torch.nn.functional.cosine_similarity(
            tokens[count:].float(), frozen.float(), dim=-1
        )
        kept = cosine.detach() <= self.loss.feat_margin
        distance = torch.where(kept, 1 - cosine, 0).sum(1) / kept.sum(1).clamp(min=1)
        return torch.stack([first, second, distance.mean()])

    def forward(self, x):
        """Disparity and the last block's patch tokens."""
        grid = x.shape[2] // self.patch, x.shape[3] // self.patch
        taps = self.model.backbone(x).feature_maps
        return self.model.head(self.model.neck(taps, *grid), *grid).float(), taps[-1][:, 1:]

    def step(self) -> torch.Tensor:
        """One update; returns the three losses of before it, on the device."""
        losses = self.losses()
        weights = torch.tensor(self.loss.weights, device=losses.device)
        (weights * losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return losses.detach()


def load(network: torch.nn.Module, tensors: dict[str, np.ndarray]) -> None:
    """Puts our tensors into a model of transformers, whose names vary with its version."""
    theirs = dict(network.named_parameters())
    places = convert.canonical({name: np.array(i) for i, name in enumerate(theirs)})
    used = list(places)
    if set(used) != set(tensors):
        raise ValueError(f"transformers: {sorted(set(used) ^ set(tensors))[:4]} do not match")
    with torch.no_grad():
        for name in used:
            tensor = torch.from_numpy(np.array(tensors[name], np.float32))
            list(theirs.values())[int(places[name])].copy_(tensor)


def scaled(part) -> torch.Tensor:
    """Labels from 0 to 1 over their valid pixels; there is no sky in this batch."""
    d, valid = part["disparity"], part["valid"]
    low = torch.where(valid, d, torch.inf).amin((1, 2), keepdim=True)
    high = torch.where(valid, d, -torch.inf).amax((1, 2), keepdim=True)
    return torch.where(valid, (d - low) / (high - low), 0)


def affine(pred, label, valid, mask, trim: float) -> torch.Tensor:
    """The affine-invariant loss by region, trimmed, averaged over maps that contribute."""
    regions = [valid] if mask is None else [valid & ~mask, valid & mask]
    difference, used = torch.zeros_like(pred), torch.zeros_like(valid)
    for region in regions:
        middle, scale, n = centre_and_scale(label, region)
        region = region & ((n >= 10) & (scale >= 1e-6))[:, None, None]
        p_middle, p_scale, _ = centre_and_scale(pred, region)
        p = (pred - p_middle[:, None, None]) / p_scale.clamp(min=1e-6)[:, None, None]
        d = (label - middle[:, None, None]) / scale.clamp(min=1e-6)[:, None, None]
        difference = torch.where(region, p - d, difference)
        used = used | region
    rho, used_flat = difference.abs().flatten(1), used.flatten(1)
    count = used_flat.sum(1)
    if trim:
        order = torch.where(used_flat, rho.detach(), torch.inf).sort(1).values
        k = count - torch.floor(count * trim + 1e-6).long()
        threshold = order.gather(1, (k - 1).clamp(min=0)[:, None])
        used_flat = used_flat & (rho.detach() <= threshold)
    mean = torch.where(used_flat, rho, 0).sum(1) / used_flat.sum(1).clamp(min=1)
    loss = mean * count / valid.sum((1, 2)).clamp(min=1)
    return loss.sum() / (count > 0).sum().clamp(min=1)


def centre_and_scale(x, region):
    """Median, mean absolute deviation and number of the region's pixels, for each map."""
    n = region.sum((1, 2))
    middle = torch.where(region, x, torch.nan).flatten(1).nanmedian(1).values.nan_to_num()
    away = torch.where(region, (x - middle[:, None, None]).abs(), 0).sum((1, 2))
    return middle, away / n.clamp(min=1), n


def memory() -> int | None:
    """Returns the most bytes of a GPU that were allocated; None on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
