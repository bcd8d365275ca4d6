"""Defines what an adaptation was asked for, where its files lie, and how long it trains."""

from __future__ import annotations

import dataclasses
import os

FILES = "files:"  # a teacher that is a folder of labels
CHECKPOINTS = 8  # of a run, among which a step is chosen
EPOCHS = 10  # over the photos; our choice, within the two limits
FEWEST_STEPS, MOST_STEPS = 400, 20_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """The options of `adapt`; the program's help explains them."""

    photos: tuple[str, ...]
    teacher: str
    out: str
    labelled: str = ""
    mask: str = ""
    init_from: str = ""
    frozen_encoder: str = ""
    reference: str = ""
    evaluated: tuple[str, ...] = ()
    size: int = 518
    steps: int = 0
    batch_size: int = 0
    fps: float = 1.0
    held_out: float = 0.1
    seed: int = 0
    fields: tuple[str, ...] = ()  # "name=value" of the training's config
    load: tuple[tuple[str, object], ...] = ()  # of `pretrained.load`, for teacher and start

    def path(self, *parts: str) -> str:
        """A path below the adaptation's folder."""
        return os.path.join(self.out, *parts)

    @property
    def label_files(self) -> str:
        """The folder of another tool's labels, "" with a teacher."""
        return self.teacher.removeprefix(FILES) if self.teacher.startswith(FILES) else ""

    @property
    def start(self) -> str:
        """The weights that the student starts from."""
        return self.init_from or ("" if self.label_files else self.teacher)

    @property
    def unlabelled_batch(self) -> int:
        """Photos in each batch (configs/adapt.py: labelled images are as many again)."""
        return self.batch_size or 8

    def total_steps(self, photos: int) -> int:
        """Returns the steps of the training, of so many photos."""
        steps = EPOCHS * photos // self.unlabelled_batch
        return self.steps or min(max(steps, FEWEST_STEPS), MOST_STEPS)

    def every(self, photos: int) -> int:
        """Returns the steps between two checkpoints."""
        return max(1, self.total_steps(photos) // CHECKPOINTS)

    def check(self) -> None:
        """Refuses options that cannot be right.

        Raises:
          ValueError: names the option, its value and how to fix it.
        """
        if self.label_files and not self.init_from:
            raise ValueError(
                f"--teacher={self.teacher} are labels and no network: give the weights that the "
                "student starts from, such as --init_from=facebook/dinov2-small (an encoder) or a "
                "Depth Anything"
            )
        if self.unlabelled_batch < 2:
            raise ValueError(
                f"--batch_size={self.batch_size}: use 2 or more, CutMix mixes each photo with "
                "another one"
            )
        if not 0 < self.held_out <= 0.5:
            raise ValueError(f"--held_out={self.held_out}: a share of the photos in (0, 0.5]")
        if not 0 < self.fps <= 60:
            raise ValueError(f"--fps={self.fps}: frames of a video a second, in (0, 60]")
        if self.steps < 0:
            raise ValueError(f"--steps={self.steps}: 1 or more, or 0 to have them chosen")
        for field in self.fields:
            if "=" not in field:
                raise ValueError(
                    f"--set {field!r}: write NAME=VALUE, a field of configs/common.py, such as "
                    "perturb.camera.noise.p=0.5"
                )
