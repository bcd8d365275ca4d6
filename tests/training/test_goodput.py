"""Goodput: what counts as time in steps, over restarts, redone steps and clocks that jump."""

import pytest

from depth_anything_jax.training import logger
from depth_anything_jax.training.goodput import Goodput


class Clock:
    def __init__(self, time=0.0):
        self.time = time

    def __call__(self):
        return self.time


def test_a_killed_start_counts_what_its_checkpoint_kept():
    clock, now = Clock(), Clock(1000.0)
    first = Goodput(None, earlier=5.0, clock=clock, now=now)
    clock.time, now.time = 20.0, 1020.0
    kept = first.facts(15.0)  # saved 20 s after the first step, then killed at 30 s
    assert kept == {"begun": 995.0, "in_steps": 15.0, "in_processes": 25.0, "starts": 1}
    assert first.share(15.0) == pytest.approx(15 / 25)
    later, now = Clock(7.0), Clock(1095.0)
    second = Goodput(kept, earlier=2.0, clock=later, now=now)
    later.time, now.time = 47.0, 1135.0
    assert second.share(30.0) == pytest.approx(45 / 140)
    line = "goodput 32.1%: 45 s in steps of 2 min since the run began, 2 starts"
    assert second.line(30.0) == line


@pytest.mark.parametrize("jump", [-5000.0, -50.0])
def test_a_clock_that_was_set_back_leaves_the_time_in_processes(jump):
    clock, now = Clock(), Clock(1000.0)
    kept = {"begun": 900.0, "in_steps": 60.0, "in_processes": 80.0, "starts": 1}
    found = Goodput(kept, clock=clock, now=now)
    clock.time, now.time = 20.0, 1020.0 + jump
    assert found.share(15.0) == pytest.approx(75 / 100)
    assert 0 < found.share(1e9) <= 1


def test_waiting_and_pauses_are_no_steps(tmp_path):
    clock = Clock(100.0)
    report = logger.Report(tmp_path, total_steps=4, tensorboard=False, clock=clock, printer=str)
    assert report.stepping() == 0
    with report.paused():
        clock.time += 50  # before the loop
    for _ in range(2):
        with report.waiting():
            clock.time += 3
        with report.paused():
            clock.time += 10
        clock.time += 2
        report.step(8)
    assert report.stepping() == pytest.approx(4)


def test_the_share_is_written_with_each_line(tmp_path):
    goodput = Goodput({"begun": 0.0, "in_steps": 5.0, "in_processes": 10.0, "starts": 1},
                      clock=Clock(), now=Clock(10.0))  # fmt: skip
    report = logger.Report(
        tmp_path, total_steps=4, every=1, tensorboard=False, goodput=goodput, printer=str
    )
    report.log(1, {"loss": 1.0})
    report.close()
    (row,) = logger.read_metrics(tmp_path)
    assert row["rate/goodput"] == pytest.approx(0.5)
