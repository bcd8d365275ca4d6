"""Defines the size of the demo, and the names of its runs and sets of scenes."""

from __future__ import annotations

import dataclasses
import os

SPLITS = {"train": 0, "val": 100, "test": 200}  # seeds of the sets of scenes
DOMAINS = ("A", "B", "C")
RUNS = ("teacher", "alone", "student", "shuffled")
# Students without one part of the method, and the config overrides that disable it.
CONTROLS = {
    "undistorted": ("perturb.distort=False",),
    "uncut": ("perturb.cutmix.p=0.0",),
    "unaligned": (f"loss.weights=({1 / 3},{1 / 3},0.0)",),
    "misaligned": ("loss.feat_input=shuffled",),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The size of a demo. The short one has the rates, lengths and batches of the configs' :demo."""

    folder: str = "demo"
    size: int = 112
    images: int = 2000  # of A, and of B
    held_out: int = 500  # of each domain
    seeds: tuple[int, ...] = (0,)
    split: str = "test"  # "val" where lengths and rates are chosen
    teacher: tuple[str, ...] = ()  # overrides of config fields, as on the command line
    student: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()  # names in CONTROLS

    @property
    def runs(self) -> tuple[str, ...]:
        """The training runs of each seed."""
        return (*RUNS, *self.controls)

    def source(self, domain: str, split: str, *, labelled: bool = True) -> str:
        """The source string of a set of scenes, as programs take it."""
        count = self.images if split == "train" else self.held_out
        text = f"scenes:{domain}?count={count}&seed={SPLITS[split]}&size={self.size}"
        return text if labelled else f"{text}&labelled=False"

    def path(self, *parts: str) -> str:
        """A path below the demo's folder."""
        return os.path.join(self.folder, *parts)

    def run(self, name: str, seed: int) -> str:
        """The work folder of a training run."""
        return self.path(name if len(self.seeds) == 1 else f"{name}-{seed}")


LONG = Plan(
    folder="demo-long",
    size=154,
    images=3000,
    seeds=(0, 1, 2),
    teacher=("total_steps=1600",),
    student=("total_steps=1250",),
)
ABLATION = Plan(
    folder="demo-controls",
    seeds=(0, 1, 2),
    student=("total_steps=500",),
    controls=tuple(CONTROLS),
)
