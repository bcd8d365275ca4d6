"""Shows early what the demo does: scenes, their truth, and what the teacher says so far."""

from __future__ import annotations

import pathlib

ENLARGED = 3  # pixels from side to side of one of the strip's


class FirstPicture:
    """Makes FOLDER/teacher-so-far.png of the strips that the teacher's training draws.

    Args:
      workdir: of the teacher's run.
      folder: the demo's.
    """

    def __init__(self, workdir: str, folder: str):
        self._strips = pathlib.Path(workdir) / "strips"
        self._path = pathlib.Path(folder) / "teacher-so-far.png"
        self._shown = 1  # the strip of the first step shows a network that has learned nothing

    def look(self) -> str:
        """Draws the newest strip and says where; "" where there is none since the last call."""
        from PIL import Image

        for strip in sorted(self._strips.glob("labelled_*.png"), reverse=True)[:1]:
            step = int(strip.stem.rpartition("_")[2])
            if step <= self._shown:
                break
            try:
                with Image.open(strip) as picture:
                    size = (picture.width * ENLARGED, picture.height * ENLARGED)
                    large = picture.convert("RGB").resize(size, Image.Resampling.NEAREST)
            except OSError:  # it is being written
                break
            large.save(self._path)
            self._shown = step
            return f"{self._path}: scene | true disparity | teacher after {step:,} steps"
        return ""
