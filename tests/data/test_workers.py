"""Worker processes: deaf to a signal to the whole group, and gone with the run they work for."""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from depth_anything_jax.data import pipeline
from depth_anything_jax.data.examples import DataError

ROOT = pathlib.Path(__file__).parents[2]
# A run that was asked to stop still takes a few batches; it ends without closing them.
RUN = """
import signal, sys
from depth_anything_jax.data.pipeline import train_batches

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
data = {"labelled": {"type": "scenes", "domain": "A", "count": 4, "size": 28}, "workers": 2}
stream = train_batches(data, labelled_batch=2, unlabelled_batch=0, size=28, patch_size=14, seed=0)
next(stream)
print("started", flush=True)
sys.stdin.readline()
for _ in range(8):
    next(stream)
print("done", flush=True)
"""


@pytest.fixture
def run():
    """The run, its workers started, as a group of its own; all of it is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "started\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_signal_to_the_whole_group_leaves_the_run_its_batches(run):
    os.killpg(run.pid, signal.SIGTERM)
    os.killpg(run.pid, signal.SIGINT)
    said, _ = run.communicate("go on\n", timeout=120)
    assert (run.returncode, said) == (0, "done\n")


def test_workers_end_with_a_run_that_was_killed(run):
    run.kill()
    # Workers hold the other end of this pipe: it ends with the last of them.
    said, _ = run.communicate(timeout=120)
    assert (run.returncode, said) == (-signal.SIGKILL, "")


def test_a_killed_worker_is_named():
    before = set(multiprocessing.active_children())
    data = {"labelled": {"type": "scenes", "domain": "A", "count": 4, "size": 28}, "workers": 1}
    sizes = dict(labelled_batch=2, unlabelled_batch=0, size=28, patch_size=14)
    with pipeline.train_batches(data, seed=0, **sizes) as stream:
        next(stream)
        (worker,) = set(multiprocessing.active_children()) - before
        worker.kill()
        with pytest.raises(DataError, match=r"worker was killed \(exit code -9;.*data\.workers"):
            for _ in range(50):
                next(stream)
