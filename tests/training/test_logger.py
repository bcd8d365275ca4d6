"""The training log: console, JSONL, TensorBoard."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.training import logger
from depth_anything_jax.utils.formatting import duration
from depth_anything_jax.visualization import colormaps


class Clock:
    """A clock that tests turn by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def make(folder, clock=None, **options):
    lines = []
    options = {"total_steps": 100, "every": 10, "tensorboard": False, **options}
    made = logger.Report(folder, printer=lines.append, clock=clock or Clock(), **options)
    return made, lines


def run_steps(made, clock, count, wait=0.25, compute=0.75):
    for _ in range(count):
        with made.waiting():
            clock.now += wait
        clock.now += compute
        made.step(examples=12)


def test_rates_leave_compilation_and_pauses_out(tmp_path):
    clock = Clock()
    made, _ = make(tmp_path, clock)
    clock.now += 60  # compiles
    made.step(examples=12)
    assert made.rates() == {}
    clock.now += 5  # the first step's numbers are waited for while the second is under way
    made.step(examples=12)
    assert made.rates() == {}  # nothing but those two yet
    run_steps(made, clock, 4)
    with made.paused():
        clock.now += 500
    assert made.rates() == pytest.approx(
        {
            "rate/images_per_second": 12.0,
            "rate/seconds_per_step": 1.0,
            "rate/data_wait_share": 0.25,
        }
    )
    assert made.rates() == {}  # the interval began again


def test_line_shows_progress_rates_and_time_to_go(tmp_path):
    clock = Clock()
    made, lines = make(tmp_path, clock)
    run_steps(made, clock, 12)
    made.log(10, {"loss": 0.123456, "drift/encoder": 3.0})
    assert lines == [
        "step  10/100  10%  loss 0.1235  |  12 img/s  1 s/step  data 25%  ETA 90 s",
    ]
    run_steps(made, clock, 90)
    made.log(100, {"loss": 0.1})
    assert "ETA" not in lines[-1]


def test_line_shows_what_it_is_asked_to(tmp_path):
    made, lines = make(tmp_path, show=("loss/total", "absent", "lr"))
    made.line(10, {"lr": 0.001, "loss/total": 0.5, "other": 1})
    assert lines == ["step  10/100  10%  total 0.5  lr 0.001"]


def test_line_shows_what_should_be_0_only_when_it_is_not(tmp_path):
    made, lines = make(tmp_path, show=(), show_positive=("labelled/dropped_maps", "other"))
    made.log(10, {"labelled/dropped_maps": 0.0})
    made.log(20, {"labelled/dropped_maps": 0.25})
    assert "dropped" not in lines[0] and lines[1].endswith("labelled/dropped_maps 0.25")


def test_eta_follows_a_change_of_speed_smoothly(tmp_path):
    clock = Clock()
    made, lines = make(tmp_path, clock, total_steps=1000)
    run_steps(made, clock, 12)
    made.log(10, {})
    run_steps(made, clock, 10, compute=9.75)  # ten times slower
    made.log(20, {})
    assert lines[-1].endswith(f"ETA {duration(980 * (0.7 * 10 + 100) / (0.7 * 10 + 10))}")


def test_the_first_three_lines_have_an_eta(tmp_path):
    """Lines come while the next step runs; compilation and pictures do not count."""
    clock = Clock()
    made, lines = make(tmp_path, clock)
    with made.paused():
        clock.now += 600  # compiles
    assert [s for s in range(1, 12) if made.early(s)] == [2, 3]
    run_steps(made, clock, 1, wait=0, compute=1)
    clock.now += 4
    made.step(examples=12)
    made.log(1, {})
    with made.paused():
        clock.now += 50  # a picture
    run_steps(made, clock, 1, wait=1, compute=4)
    made.line(2, {})
    assert lines == ["step   1/100   1%  |  ETA 8 min", "step   2/100   2%  |  ETA 8 min"]
    assert [row["step"] for row in logger.read_metrics(tmp_path)] == [1]


def test_after_a_resumption_the_early_lines_are_those_of_this_start(tmp_path):
    made, _ = make(tmp_path, resumed_from=48)
    assert [s for s in range(1, 100) if made.early(s)] == [51]  # 50 has a line anyway


def test_due_every_so_often_and_at_the_end(tmp_path):
    made, _ = make(tmp_path, total_steps=25)
    assert [s for s in range(1, 26) if made.due(s)] == [10, 20, 25]


def test_scalars_round_trip_with_nan_as_valid_json(tmp_path):
    made, _ = make(tmp_path)
    made.scalars(1, {"loss": np.float32(0.5), "bad": float("nan"), "worse": np.array(-np.inf)})
    made.close()
    text = (tmp_path / "metrics.jsonl").read_text()

    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(text, parse_constant=no_constants)
    (row,) = logger.read_metrics(tmp_path)
    assert row["step"] == 1 and row["loss"] == 0.5
    assert np.isnan(row["bad"]) and row["worse"] == -np.inf


def test_a_vector_is_refused_by_name(tmp_path):
    made, _ = make(tmp_path)
    with pytest.raises(ValueError, match=r"'loss'.*\(2,\)"):
        made.scalars(1, {"loss": np.ones(2)})


def steps_of(file):
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def test_resume_keeps_lines_up_to_the_restored_step_and_moves_the_rest(tmp_path):
    made, _ = make(tmp_path)
    for step in (10, 20, 30):
        made.scalars(step, {"loss": step})
    made.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4')  # the kill came in the middle of a line
    made, _ = make(tmp_path, resumed_from=20)
    made.scalars(30, {"loss": -1})
    made.close()
    assert [r["step"] for r in logger.read_metrics(tmp_path)] == [10, 20, 30]
    assert logger.read_metrics(tmp_path)[-1]["loss"] == -1
    aside = (tmp_path / "metrics.superseded.jsonl").read_text().splitlines()
    assert json.loads(aside[0])["loss"] == 30 and aside[1] == '{"step": 4'


def test_a_fresh_start_supersedes_everything(tmp_path):
    made, _ = make(tmp_path)
    made.scalars(0, {"loss": 1})
    made.close()
    make(tmp_path)[0].close()
    assert logger.read_metrics(tmp_path) == []
    assert steps_of(tmp_path / "metrics.superseded.jsonl") == [0]


def test_an_inactive_process_writes_and_prints_nothing(tmp_path):
    made, lines = make(tmp_path / "run", active=False)
    made.step(examples=1)
    made.log(10, {"loss": 1.0})
    made.images(10, {"strip": np.zeros((2, 2, 3), np.uint8)})
    made.text("hello")
    made.flush()
    made.close()
    assert not (tmp_path / "run").exists() and lines == []


def test_tensorboard_holds_scalars_and_pictures(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    made, _ = make(tmp_path, tensorboard=True)
    picture = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)
    made.scalars(7, {"loss": 0.5})
    made.images(7, {"strips/a": picture})
    made.close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    data, values = file.read_bytes(), {}
    while data:  # records: length (8), its checksum (4), event, checksum (4)
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        values.update({v.tag: (event.step, v) for v in event.summary.value})
        data = data[16 + length :]
    assert values["loss"][0] == 7 and values["loss"][1].simple_value == 0.5
    assert (values["strips/a"][1].image.height, values["strips/a"][1].image.width) == (6, 9)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "strips" / "strips-a_00000007.png")), picture
    )


def test_remote_folders_are_mirrored_and_resumed(tmp_path, monkeypatch):
    """A store that cannot append: stood in for by a local folder that is treated as remote."""
    monkeypatch.setattr(logger, "is_remote", lambda path: True)
    clock = Clock()
    made, _ = make(tmp_path / "bucket", clock)
    made.scalars(10, {"loss": 1})
    assert not (tmp_path / "bucket" / "metrics.jsonl").exists()  # not at every line
    clock.now += 61
    made.scalars(20, {"loss": 2})
    assert steps_of(tmp_path / "bucket" / "metrics.jsonl") == [10, 20]
    made.images(20, {"strip": np.zeros((2, 2, 3), np.uint8)})
    made.close()
    assert (tmp_path / "bucket" / "strips" / "strip_00000020.png").exists()
    made, _ = make(tmp_path / "bucket", clock, resumed_from=10)
    made.scalars(30, {"loss": 3})
    made.close()
    assert steps_of(tmp_path / "bucket" / "metrics.jsonl") == [10, 30]
    assert steps_of(tmp_path / "bucket" / "metrics.superseded.jsonl") == [20]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "1 h 40 min"), (11100, "3 h 05 min")]
    + [(-1, "0 s"), (200_000, "2 d 7 h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_profile_window_records_its_steps_only(tmp_path, monkeypatch):
    import jax

    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    window = logger.ProfileWindow(tmp_path, 3, 4)
    for step in range(1, 8):
        window.before(step)
        calls.append(step)
    window.close()
    assert calls == [1, 2, "start", 3, 4, "stop", 5, 6, 7]
    logger.ProfileWindow(tmp_path).before(3)
    assert calls[-1] == 7
    with pytest.raises(ValueError, match=re.escape("(4, 3)")):
        logger.ProfileWindow(tmp_path, 4, 3)
    with pytest.raises(ValueError, match="None"):
        logger.ProfileWindow(tmp_path, 3)


def test_colourise_near_is_warm_far_is_cold_invalid_is_grey():
    disparity = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    valid = np.ones((8, 8), bool)
    valid[0, 1] = False
    disparity[0, 1] = np.nan
    picture = colormaps.colourise(disparity, valid).astype(int)
    far, near = picture[0, 0], picture[-1, -1]
    assert near[0] > near[2] and far[2] > far[0]
    assert (picture[0, 1] == colormaps.GREY).all()
    stretched = colormaps.colourise(3 * disparity + 5, valid).astype(int)
    assert np.abs(picture - stretched).max() <= 1  # scale and shift do not show; 1 = byte rounding


def test_colourise_survives_constant_and_empty_maps():
    flat = colormaps.colourise(np.full((2, 3), 4.0, np.float32))
    assert (flat == flat[0, 0]).all()
    assert (colormaps.colourise(np.full((2, 3), np.nan, np.float32)) == colormaps.GREY).all()
