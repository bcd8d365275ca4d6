"""Frames of sequences are chosen as the protocol's switches say."""

import numpy as np
import pytest

from depth_anything_jax import evaluate
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.runner import frame_selection, loop, predictors
from tests.helpers import benchmark_files


class Video:
    """Two sequences, whose frames alternate."""

    def __len__(self):
        return 20

    def key(self, i):
        return f"{i}.png"

    def sequence(self, i):
        return "ab"[i % 2]

    def __getitem__(self, i):
        depth = np.full((4, 5), i + 1, np.float32)
        depth[0] += np.arange(5)
        image = np.zeros((4, 5, 3), np.uint8)
        about = {"key": self.key(i), "sequence": self.sequence(i), "domain": "outdoor"}
        return {"image": image, "depth": depth, "valid": depth > 0} | about


@pytest.mark.parametrize(
    ("frames", "step", "expected"),
    [
        (2, 1, [0, 1, 2, 3]),
        (2, 3, [0, 1, 6, 7]),
        (0, 4, [0, 1, 8, 9, 16, 17]),
        (500, 1, list(range(20))),
    ],
)
def test_the_first_frames_of_every_so_many(frames, step, expected):
    found = frame_selection.select(Video(), frames, step)
    assert found.indices == expected and len(found) == len(expected)
    assert [found[i]["key"] for i in range(len(found))] == [f"{i}.png" for i in expected]
    assert [found.key(i) for i in range(len(found))] == [f"{i}.png" for i in expected]
    assert [found.sequence(i) for i in range(len(found))] == ["ab"[i % 2] for i in expected]
    assert frame_selection.select(found, frames, step) is found, "not a second time"


def test_without_frames_nothing_is_selected_and_sequences_must_be_known():
    video = Video()
    assert frame_selection.select(video, 0, 1) is video
    with pytest.raises(protocols.ProtocolError, match="does not say which sequence"):
        frame_selection.select([video[0]], 110, 1)
    for numbers in ((-1, 1), (2, 0)):
        with pytest.raises(protocols.ProtocolError, match="must be 0 or more, frame_step"):
            frame_selection.select(video, *numbers)


def test_the_switch_selects_in_every_way_of_scoring(tmp_path):
    gt = predictors.make("baseline:gt")
    switches = {"frames": 2, "frame_step": 3}
    found = loop.evaluate_candidate(gt, Video(), protocol="vda", switches=switches)
    assert [i.key for i in found.per_image] == ["0.png", "1.png", "6.png", "7.png"]
    depth = np.random.default_rng(0).uniform(500, 4000, (48, 64)).astype(np.uint16)
    for i in range(5):
        folder = tmp_path / "scene0707_00"
        benchmark_files.write_image(folder / f"color/{i}.jpg", 48, 64)
        benchmark_files.write(folder / f"depth/{i}.png", benchmark_files.png16(depth))
    sets = evaluate.open_sets(["scannet?partial=True"], [str(tmp_path)])
    ((rows, images),) = evaluate.evaluate("baseline:gt", sets, protocol="vda", changed=switches)
    assert [i["key"] for i in images] == [f"scene0707_00/color/{i}.jpg" for i in (0, 3)]
    assert rows[0]["protocol"] == "vda@2+frame_step=3+frames=2" and rows[0]["split"] == 2
