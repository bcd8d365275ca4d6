"""A few steps told by both sides, and where the two stories part."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from depth_anything_jax import models
from tests.twin import data, jax_side, torch_networks, torch_side

# The bounds of each quantity, relative (a tensor at a time), with their causes.
BOUNDS = {
    "loss": 1e-10,  # rounding of sums, behind parameters that part by rounding themselves
    "gradient": 1e-10,  # the same
    "change": 1e-6,  # rounding that grows with every update
    # Absolute, where the true gradient is zero: a key's bias, and the head's last bias while no
    # pixel is clipped. Adam makes steps of rounding noise of 1e-17 over its epsilon of 1e-8.
    "nothing": 1e-12,
}


class Case(NamedTuple):
    """A run. network: "pixels", "small" (all that ViT-S has, a hundredth of its work) or "vits"."""

    network: str
    arg: str = "vits"  # of configs/student.py
    optimisation: torch_side.Optimisation = torch_side.Optimisation()
    pixels: int = 98
    steps: int = 4
    online: bool = False

    @property
    def v2(self):
        return "v2" in self.arg

    @property
    def sizes(self):
        return {"labelled": 0, "unlabelled": 6} if self.v2 else {"labelled": 2, "unlabelled": 4}

    def batch(self, i):
        return data.batch(i, self.pixels, *self.sizes.values())


class Story(NamedTuple):
    """Told while it is listened to: twenty changes of ViT-S side by side would fill the memory."""

    steps: Iterable[tuple[dict[str, float], dict[str, np.ndarray]]]  # losses, changes since step 0
    gradients: dict[str, dict[str, np.ndarray]]  # of each loss alone, in step 0
    facts: dict[str, Any]


SMALL = torch_networks.Size(
    64, 6, 4, 5, 16, (8, 16, 24, 32), {"v1": (3, 4, 5, 6), "v2": (2, 3, 4, 6)}
)
SMALL_OURS = models.Variant(64, 6, 4, 256, 16, (8, 16, 24, 32), (1, 2, 3, 5), grid=5)


def networks(case: Case):
    """Student, frozen encoder and teacher of the twin."""
    if case.network == "pixels":
        student, frozen, teacher = (torch_networks.Pixels(seed) for seed in range(3))
        with torch.no_grad():  # near enough for the margin to part its tokens
            for p, q in zip(frozen.parameters(), student.parameters(), strict=True):
                p.copy_(q + 0.35 * p)
        return student, frozen, teacher if case.online else None
    size = SMALL if case.network == "small" else torch_networks.VITS
    version, images = "v2" if case.v2 else "v1", case.batch(0)["unlabelled"]["image"]
    student = torch_networks.random_network(size, version, images, bias=100)
    return student, torch_networks.disturbed(student, size, version, images, 0.05), None


def ours(case: Case, folder, monkeypatch, *, gradients=True, **fields) -> tuple[Story, dict]:
    """Our story, and the draws of each step."""
    if case.network == "small":
        monkeypatch.setitem(models.VARIANTS, "vits", SMALL_OURS)
    student, frozen, teacher = networks(case)
    c = jax_side.config(case.arg, case.optimisation, input_size=case.pixels,
                        batch_size=sum(case.sizes.values()), **fields)  # fmt: skip
    drawn = jax_side.record_draws(monkeypatch)
    if case.network == "pixels":
        c.teacher = "online" if case.online else c.teacher
        run = jax_side.of_pixels(c, student, frozen, teacher)
    else:
        run = jax_side.of_transformers(c, folder, student, frozen)
    story = Story(_ours(case, run), {}, {"sizes": run.sizes})
    if gradients:
        parts = [p for p, w in zip(jax_side.PARTS, c.loss.weights, strict=True) if w]
        story.gradients.update({p: run.gradients(case.batch(0), p) for p in parts})
        for draws in drawn.values():
            draws.clear()
    return story, drawn


def _ours(case: Case, run: jax_side.Ours):
    before = jax.tree.map(np.array, run.frozen)
    for i in range(case.steps):
        metrics = run.step(case.batch(i))
        losses = {k.removeprefix("loss/"): v for k, v in metrics.items() if k.startswith("loss/")}
        yield losses, run.changes()
    jax.tree.map(np.testing.assert_array_equal, run.frozen, before)


def twins(case: Case, drawn) -> Story:
    """The twin's story under these draws."""
    facts = {"sizes": case.sizes, "norms": [], "below": [], "zeros": []}
    story = Story([], {}, facts)
    return story._replace(steps=_twins(case, drawn, story))


def _twins(case: Case, drawn, story: Story):
    student, frozen, teacher = networks(case)
    forward = torch_networks.Pixels.forward if case.network == "pixels" else torch_networks.forward
    twin = torch_side.Twin(forward, student, frozen, case.optimisation, v2=case.v2, teacher=teacher)
    start = {n: p.detach().numpy().copy() for n, p in student.named_parameters()}
    called = (lambda n: n) if case.network == "pixels" else jax_side.names_of(student).get
    for i in range(case.steps):
        found = twin.losses(case.batch(i), drawn["colours"][i], drawn["boxes"][i])
        if i == 0:
            for part, loss in found.items():
                story.gradients[part] = {called(n): g for n, g in twin.gradients(loss).items()}
        total = twin.step(found)
        story.facts["norms"].append(twin.norm)
        story.facts["below"].append(twin.below_margin)
        story.facts["zeros"].append(twin.zeros)
        changes = {called(n): p.detach().numpy() - start[n] for n, p in student.named_parameters()}
        averages = {f"average {called(n)}": x - start[n] for n, x in twin.average.items()}
        yield {"total": total} | {k: x.item() for k, x in found.items()}, changes | averages


def deviations(ours: Story, twin: Story) -> dict[str, tuple[float, float, str]]:
    """{quantity: (largest deviation, its bound, where)}."""
    found: dict[str, tuple[float, float, str]] = {}

    def note(quantity, bound, deviation, where):
        if not deviation <= found.get(quantity, (-1.0,))[0]:  # NaN is larger than anything
            found[quantity] = (float(deviation), BOUNDS[bound], where)

    def compare(quantity, bound, a, b):
        assert a.keys() == b.keys()
        for name in b:
            if name.endswith("key.bias") or np.abs(b[name]).max() <= BOUNDS["nothing"]:
                note(f"{quantity}, where nothing is due", "nothing", np.abs(a[name]).max(), name)
                note(f"{quantity}, where nothing is due", "nothing", np.abs(b[name]).max(), name)
            else:
                size = np.linalg.norm(b[name])
                note(quantity, bound, np.linalg.norm(a[name] - b[name]) / size, name)

    assert ours.facts["sizes"] == twin.facts["sizes"]
    for i, (a, b) in enumerate(zip(ours.steps, twin.steps, strict=True)):
        assert a[0].keys() == b[0].keys()
        for name, loss in b[0].items():
            note(f"loss {name}", "loss", abs(a[0][name] - loss) / abs(loss), f"step {i}")
        compare(f"change after step {i}", "change", a[1], b[1])
        for part in list(ours.gradients):
            gradients = ours.gradients.pop(part), twin.gradients.pop(part)
            compare(f"gradient of {part}", "gradient", *gradients)
    return found


def parted(found) -> dict[str, tuple[float, float, str]]:
    """Those beyond their bounds."""
    return {q: d for q, d in found.items() if not d[0] <= d[1]}
