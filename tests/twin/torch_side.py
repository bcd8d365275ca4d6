"""The student step of Depth Anything in PyTorch and float64, written from the papers alone.

Depth Anything V1 §3 and V2 §5, and for what they leave open the table of docs/method.md. Nothing of
the package is used. What is random is handed over: colour factors and boxes; partners are a roll.
The batch is never split: however the other side accumulates, it must arrive here.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from tests.helpers import colour_reference
from tests.torch_reference import losses

WEIGHTS = {"labelled": 1 / 3, "unlabelled": 1 / 3, "features": 1 / 3}  # V1 §3.3
WEIGHTS_V2 = {"unlabelled": 1 / 2, "features": 1 / 2}
TRIM, MARGIN, GRADIENT_V2 = 0.1, 0.85, 2.0


class Optimisation(NamedTuple):
    """Peak rates of encoder and decoder, length of warm-up and run, decay, clip, average."""

    encoder: float = 1e-3
    decoder: float = 1e-2
    warmup: int = 3
    total: int = 20
    decay: float = 0.1
    clip: float = 1.0
    average: float = 0.0  # decay of the running average; 0: none


class Twin:
    """A student, what it learns from, and its optimiser."""

    def __init__(self, forward, student, frozen, optimisation, *, v2=False, teacher=None):
        """forward: (network, images in [0, 1]) -> disparity (b, h, w), patch tokens (b, n, d)."""
        self.forward = forward
        self.student, self.frozen, self.teacher = student, frozen, teacher
        self.weights = WEIGHTS_V2 if v2 else WEIGHTS
        self.gradient_weight = GRADIENT_V2 if v2 else 0.0
        self.optimisation, self.steps = optimisation, 0
        self.average = {}
        if optimisation.average:
            self.average = {n: p.detach().numpy().copy() for n, p in student.named_parameters()}
        kernels = {
            f"{name}.weight"
            for name, module in student.named_modules()
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d))
        }
        self.groups = [
            {
                "params": [p],
                "peak": optimisation.encoder
                if name.startswith("backbone.")
                else optimisation.decoder,
                "weight_decay": optimisation.decay if name in kernels else 0.0,
            }
            for name, p in student.named_parameters()
        ]
        self.adamw = torch.optim.AdamW(self.groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)

    def losses(self, batch, colours, boxes) -> dict[str, torch.Tensor]:
        """L_l, L_u and L_feat of the whole batch.

        Notes `below_margin`, the share of tokens that L_feat acts on, and `zeros`, that of pixels
        that the last ReLU clips.
        """
        out = {}
        if "labelled" in batch:
            part = batch["labelled"]
            depth, _ = self.forward(self.student, part["image"])
            maps = [losses.map_loss(p, *label_of(part, i)) for i, p in enumerate(depth)]
            out["labelled"] = mean_of_contributing(maps)
        part = dict(batch["unlabelled"])
        count = len(part["image"])
        if self.teacher is not None:  # T sees the clean image
            with torch.no_grad():
                part["disparity"] = self.forward(self.teacher, part["image"])[0].numpy()
            part["valid"] = np.ones(part["disparity"].shape, bool)
            part["sky"] = ~part["valid"]
            part["shift_known"] = np.zeros(count, bool)
        strong = [distorted(part["image"][i], colours, i) for i in range(count)]
        labels = [label_of(part, i) for i in range(count)]
        images, maps = [], []
        for i in range(count):
            j = (i - 1) % count  # the partner, whose pixels stand in the box
            y0, x0, y1, x1 = boxes[i]
            image, label, valid = strong[i].copy(), *(x.clone() for x in labels[i])
            image[y0:y1, x0:x1] = strong[j][y0:y1, x0:x1]
            label[y0:y1, x0:x1] = labels[j][0][y0:y1, x0:x1]
            valid[y0:y1, x0:x1] = labels[j][1][y0:y1, x0:x1]
            mask = torch.zeros_like(valid)
            mask[y0:y1, x0:x1] = True
            images.append(image)
            maps.append((label, valid, mask))
        depth, tokens = self.forward(self.student, np.stack(images))
        out["unlabelled"] = mean_of_contributing(
            losses.map_loss(p, *m, trim=TRIM, gradient_weight=self.gradient_weight)
            for p, m in zip(depth, maps, strict=True)
        )
        with torch.no_grad():
            target = self.forward(self.frozen, np.stack(images))[1]
        self.zeros = float((depth == 0).double().mean())
        total, number = losses.feature_alignment(tokens, target, MARGIN)
        out["features"] = total / number
        cosine = torch.nn.functional.cosine_similarity(tokens.detach(), target, dim=-1)
        self.below_margin = float((cosine < MARGIN).double().mean())
        return out

    def gradients(self, loss) -> dict[str, np.ndarray]:
        """Of a loss alone, by parameter; zeros where it does not reach."""
        named = dict(self.student.named_parameters())
        found = torch.autograd.grad(loss, named.values(), retain_graph=True, allow_unused=True)
        pairs = zip(named.items(), found, strict=True)
        return {n: (torch.zeros_like(p) if g is None else g).numpy() for (n, p), g in pairs}

    def step(self, found: dict[str, torch.Tensor]) -> float:
        """One update from the losses just computed; returns their average."""
        total = sum(self.weights[name] * loss for name, loss in found.items())
        self.adamw.zero_grad(set_to_none=True)
        total.backward()
        grads = [p.grad for p in self.student.parameters() if p.grad is not None]
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
        o = self.optimisation
        self.norm = norm
        if norm > o.clip:
            for g in grads:
                g *= o.clip / norm
        i = self.steps
        factor = min((i + 1) / o.warmup, 1.0, (o.total - 1 - i) / (o.total - o.warmup))
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * factor
        self.adamw.step()
        self.steps += 1
        for name, p in self.student.named_parameters():
            if self.average:
                a = o.average
                self.average[name] = a * self.average[name] + (1 - a) * p.detach().numpy()
        return total.item()


def label_of(part, i) -> tuple[torch.Tensor, torch.Tensor]:
    maps = (torch.from_numpy(part[k][i]) for k in ("disparity", "valid", "sky"))
    return losses.prepare_label(*maps, bool(part["shift_known"][i]))


def mean_of_contributing(maps) -> torch.Tensor:
    maps = [m for m in maps if m is not None]
    return torch.stack(maps).mean() if maps else torch.zeros((), dtype=torch.float64)


def distorted(image: np.ndarray, colours, i: int) -> np.ndarray:
    """S of V1 §3.2: jitter in the drawn order, greyscale, blur, each where it was drawn."""
    c = {name: np.asarray(values[i], np.float64) for name, values in colours.items()}
    if c["jitter"]:
        amounts = [c[k] for k in ("brightness", "contrast", "saturation", "hue")]
        image = colour_reference.jitter(image, amounts, colours["order"][i])
    if c["grey"]:
        image = np.repeat(colour_reference.grey_of(image)[..., None], 3, axis=-1)
    if c["blur"]:
        pixels = min(image.shape[:2]) / 518
        image = colour_reference.blur(image, c["sigma"] * pixels, math.ceil(4 * 2.0 * pixels))
    return np.clip(image, 0, 1)
