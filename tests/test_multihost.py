"""Two processes on one machine (gloo) stop at the same step; test_determinism.py has the rest."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from depth_anything_jax import checkpoint

pytestmark = pytest.mark.nightly
ROOT = pathlib.Path(__file__).parent.parent
FIELDS = {
    "input_size": 28, "batch_size": 4, "init_from": "", "optim.warmup": 2,
    "optim.encoder_lr": 1e-6, "optim.decoder_lr": 1e-5,
    "data.labelled": ("scenes:A?count=6&size=28",),
    "log.every": 1, "log.images": 0, "log.tensorboard": False,
}  # fmt: skip


def start(workdir, processes, **fields):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [f"--config.{k}={v}" for k, v in {**FIELDS, **fields}.items()]
    command = [sys.executable, "-m", "depth_anything_jax.train",
               "--config=configs/teacher.py:demo", f"--workdir={workdir}", *flags]  # fmt: skip
    if processes > 1:
        command.append("--distributed")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(2 // processes),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(processes),
    }
    return [
        subprocess.Popen(
            command, cwd=ROOT, env={**environment, "JAX_PROCESS_ID": str(i)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for i in range(processes)
    ]  # fmt: skip


def test_sigterm_to_one_saves_both_at_the_same_step(tmp_path):
    first, second = start(tmp_path, 2, **{"total_steps": 2000, "checkpoint.every": 2000})
    for line in first.stdout:
        if line.startswith("step ") and " 3/" in line:
            second.send_signal(signal.SIGTERM)
            break
    outputs = [run.communicate()[0] for run in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], "\n".join(outputs)
    step = int(checkpoint.find(tmp_path).name)
    assert 3 <= step < 2000
    assert f"saved after step {step}" in outputs[0]
