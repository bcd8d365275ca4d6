"""Two processes stop at the same step and go on; see test_determinism and test_processes, too."""

import os
import shutil
import signal

import cv2
import numpy as np
import pytest

from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.training import logger
from depth_anything_jax.utils import param_paths
from tests.helpers.several_processes import start

pytestmark = pytest.mark.nightly
FIELDS = {
    "input_size": 28, "batch_size": 4, "init_from": "", "optim.warmup": 2,
    "optim.encoder_lr": 1e-6, "optim.decoder_lr": 1e-5,
    "data.labelled": ("scenes:A?count=6&size=28",),
    "log.every": 1, "log.images": 0, "log.tensorboard": False,
}  # fmt: skip


def start_training(workdir, processes, program="teacher", **fields):
    flags = [f"--config.{k}={v}" for k, v in {**FIELDS, **fields}.items()]
    command = ["-m", "depth_anything_jax.train", f"--config=configs/{program}.py:demo",
               f"--workdir={workdir}", *flags]  # fmt: skip
    if processes > 1:
        command.append("--distributed")
    devices = {"JAX_NUM_CPU_DEVICES": str(2 // processes)}
    return start(command, processes, JAX_DISABLE_MOST_OPTIMIZATIONS="1", **devices)


def test_sigterm_to_one_saves_both_at_the_same_step(tmp_path):
    first, second = start_training(tmp_path, 2, **{"total_steps": 2000, "checkpoint.every": 2000})
    for line in first.stdout:
        if line.startswith("step ") and " 3/" in line:
            second.send_signal(signal.SIGTERM)
            break
    outputs = [run.communicate()[0] for run in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], "\n".join(outputs)
    step = int(orbax_io.find(tmp_path).name)
    assert 3 <= step < 2000
    assert f"saved after step {step}" in outputs[0]


def finish(runs):
    """The first process's output, when all of them ended well."""
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), "\n".join(outputs)
    return outputs[0]


@pytest.mark.timeout(1800)
def test_a_student_stopped_in_two_processes_goes_on_in_two_or_in_one(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        image = cv2.resize(rng.uniform(0, 255, (4, 5, 3)).astype(np.uint8), (40, 32))
        assert cv2.imwrite(str(photos / f"{i}.png"), image)
        np.save(photos / f"{i}_depth.npy", image.mean(-1))
    fields = {
        "total_steps": 30, "checkpoint.every": 0, "batch_size": 6, "ema_decay": 0.5,
        "checkpoint.minutes": 1e-3,  # two save when the first's clock says so, at steps 10 and 20
        "init_from": "demo-encoder", "loss.feat_margin": 1.0, "teacher": "files",
        "data.unlabelled": (f"folder:{photos}",), "data.labels": (f"{photos}?suffix=_depth",),
    }  # fmt: skip
    finish(start_training(tmp_path / "straight", 2, "student", **fields))
    first, second = start_training(tmp_path / "two", 2, "student", **fields)
    for line in first.stdout:
        if line.startswith("step ") and " 3/" in line:
            second.send_signal(signal.SIGTERM)
            break
    said = finish([first, second])
    stopped = int(orbax_io.find(tmp_path / "two").name)
    assert 3 <= stopped < 30 and f"SIGTERM: saved after step {stopped}" in said
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    for name, processes in (("two", 2), ("one", 1)):
        said = finish(start_training(tmp_path / name, processes, "student", **fields))
        assert f"continues after step {stopped} of 30" in said

    assert sorted(os.listdir(tmp_path / "straight" / "checkpoints")) == ["20", "30"]
    straight, params = end_of(tmp_path / "straight")
    assert [r["step"] for r in straight] == [*range(1, 31)]
    assert straight[-1]["features/active_fraction"] > 0  # every loss takes part
    # To the last bit in one process, too: a sum of two is the same in any order.
    for name in ("two", "one"):
        rows, ours = end_of(tmp_path / name)
        assert rows == straight
        for path, expected in params.items():
            np.testing.assert_array_equal(ours[path], expected, err_msg=f"{name}: {path}")


def end_of(workdir):
    """The lines of metrics.jsonl without what a clock says, and the last running average."""
    rows = [
        {k: v for k, v in row.items() if k != "time" and not k.startswith("rate/")}
        for row in logger.read_metrics(workdir)
    ]
    return rows, param_paths.leaves_by_path(orbax_io.load_params(workdir)[0])
