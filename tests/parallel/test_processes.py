"""Two real processes: what one process does on as many devices, and no end but a common one."""

import json
import signal
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest

from depth_anything_jax.data.registry import make, parse
from depth_anything_jax.parallel import processes
from depth_anything_jax.training import logger, monitor
from tests.helpers.several_processes import ROOT, ended, no_longer, start, until

FIELDS = {
    "input_size": 28, "batch_size": 4, "init_from": "", "optim.warmup": 1, "data.workers": 0,
    "data.labelled": ("scenes:A?count=6&size=28",), "checkpoint.every": 0,
    "log.every": 1, "log.images": 0, "log.tensorboard": False,
}  # fmt: skip
MINUTE = 60  # what is promised: seconds from a failure to the end of all


def train(module, workdir, processes, *, own=(), **fields):
    """`module`: its name and the arguments that come before its flags."""
    command = ["-m", *module, "--config=configs/teacher.py:demo", f"--workdir={workdir}"]
    command += [f"--config.{k}={v}" for k, v in {**FIELDS, **fields}.items()]
    command += ["--distributed"] if processes > 1 else []
    devices = {"JAX_NUM_CPU_DEVICES": str(4 // processes)}
    fast = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return start(command, processes, own=own, PYTHONUNBUFFERED="1", **devices, **fast)


# What one process does


def test_two_processes_train_draw_and_score_as_one_does(tmp_path):
    fields = {
        "total_steps": 2, "checkpoint.every": 2, "log.images": 2,
        "eval.every": 2, "eval.data": ("scenes:C?count=2&size=28",),
    }  # fmt: skip
    module = ("tests.helpers.as_tpu", "train")
    runs = [
        run for n, name in ((2, "two"), (1, "one"))
        for run in train(module, tmp_path / name, n, **fields)
    ]  # fmt: skip
    with no_longer(runs):
        outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], "\n".join(outputs)
    assert "2 processes" in outputs[0] and "step 2/2" in outputs[0]
    assert "step" not in outputs[1], "one of them speaks"

    rows = {name: logger.read_metrics(tmp_path / name) for name in ("two", "one")}
    for name, found in rows.items():
        losses, scores = ([r for r in found if key in r] for key in ("loss/total", SCORE))
        assert [r["step"] for r in losses] == [1, 2] and [r["step"] for r in scores] == [2], name
        strips = {p.name for p in (tmp_path / name / "strips").iterdir()}
        assert strips == {"labelled_00000001.png", "labelled_00000002.png"}, name
    for ours, expected in zip(rows["two"], rows["one"], strict=True):
        assert ours.keys() == expected.keys()
        for key in expected:
            if key.startswith(("loss/", "eval/")):
                # float32, added up over the devices in another order
                assert ours[key] == pytest.approx(expected[key], rel=1e-5), key


SCORE = "eval/scenes C/abs_rel"


# What fails


@pytest.fixture
def homes(tmp_path):
    """A home folder for each process, with equal photos and labels under it."""
    found = []
    for process in range(2):
        folder = tmp_path / f"home{process}" / "photos"
        folder.mkdir(parents=True)
        rng, pairs = np.random.default_rng(0), []
        for i in range(8):
            image = cv2.resize(rng.uniform(0, 255, (4, 5, 3)).astype(np.uint8), (40, 32))
            depth = np.arange(1280, dtype=np.uint16).reshape(32, 40) + 1000
            assert cv2.imwrite(str(folder / f"{i}.png"), image)
            assert cv2.imwrite(str(folder / f"{i}_depth.png"), depth)
            pairs.append({"rgb": f"{i}.png", "depth": f"{i}_depth.png"})
        (folder / "pairs.json").write_text(json.dumps(pairs))
        found.append(folder.parent)
    return found


def train_at_home(workdir, homes):
    """A run without an end, on photos of which each process reads its own."""
    return train(
        ("depth_anything_jax.train",), workdir, 2, own=[{"HOME": str(home)} for home in homes],
        **{"total_steps": 10**6, "data.labelled": ("rgbd:~/photos/pairs.json?fmt=nyu",)},
    )  # fmt: skip


def test_one_that_cannot_read_its_data_any_more_ends_both(tmp_path, homes):
    runs = first, second = train_at_home(tmp_path / "run", homes)
    with no_longer(runs):
        said = [until(first, "step ", " 3/")]
        for photo in (homes[1] / "photos").glob("*.png"):
            photo.unlink()
        said.append(until(second, "DataError"))
        rest = ended(runs, MINUTE)
    outputs = [a + b for a, b in zip(said, rest, strict=True)]
    assert [run.returncode for run in runs] == [1, 1], "\n".join(outputs)
    assert "DataError: 8 labelled records in a row cannot be read" in outputs[1]
    assert "process 1 failed, so this process ends too: DataError: 8 labelled" in outputs[0]
    for text in outputs:
        assert f"No such file or directory: '{homes[1]}/photos/" in text
        assert "Traceback" not in text and "Gloo" not in text.rpartition("DataError")[2]


@pytest.mark.parametrize("ours, theirs", [("1.png", "8.png"), ("1.png", None)])
def test_other_files_under_the_same_path_are_refused(ours, theirs, homes, monkeypatch):
    def sources(home):
        return {"labelled": [make(parse(f"folder:{home}/photos?exclude=*_depth.png"))]}

    photos = homes[1] / "photos"
    if theirs:
        (photos / ours).rename(photos / theirs)
    else:
        (photos / ours).unlink()
    told = []  # by the first, when it is the second's turn
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "gather", lambda value: told.append(value) or told)
    monitor.check_same_data(sources(homes[0]))
    count = 8 if theirs else 7
    error = rf"data\.labelled\[0\], photos, .* 8 records .*process 0; {count} .*process 1\."
    with pytest.raises(ValueError, match=error):
        monitor.check_same_data(sources(homes[1]))
    monkeypatch.setattr(processes, "gather", lambda value: [value, told[0]])
    monitor.check_same_data(sources(homes[0]))


@pytest.mark.nightly
@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_is_killed_ends_both(killed, tmp_path, homes):
    runs = train_at_home(tmp_path / "run", homes)
    with no_longer(runs):
        said = until(runs[0], "step ", " 3/")
        assert " 3/" in said, said
        runs[killed].send_signal(signal.SIGKILL)
        rest = ended(runs, MINUTE)
    assert runs[killed].returncode == -signal.SIGKILL
    assert runs[1 - killed].returncode == -signal.SIGABRT, rest[1 - killed]
    assert "another task died" in rest[1 - killed]


SCRIPT = """
import atexit, sys, time
from depth_anything_jax.parallel import processes

def wait_for_the_others():
    from jax.experimental import multihost_utils
    multihost_utils.sync_global_devices("never")

def main(index):
    if CASE == "at the end" and index == 0:
        time.sleep(3)  # the other has finished and waits
        raise RuntimeError("a full disk")
    if CASE == "alike":
        sys.exit("ValueError: batch_size=3 does not divide")
    if CASE == "on its way out" and index == 1:
        try:
            with processes.telling():
                raise RuntimeError("a full disk")
        finally:
            wait_for_the_others()
    if CASE == "on its way out":
        time.sleep(3600)
    if CASE == "well":
        processes.check_alike({"a": "1", "b": "2"}, "")
        sys.exit(3)
    if CASE == "other files":
        processes.check_alike({"a": "1", "b": str(2 - index)}, "Copy them.")

with processes.together(True):
    import jax
    main(jax.process_index())
"""


@pytest.mark.parametrize(
    "case, codes",
    [("at the end", [1, 1]), ("alike", [1, 1]), ("well", [3, 3]), ("other files", [1, 1])],
)
def test_the_end_of_one_is_the_end_of_all(case, codes):
    outputs = of_script(case, codes)
    if case == "at the end":
        assert "Traceback" in outputs[0] and "RuntimeError: a full disk" in outputs[0]
        told = "process 0 failed, so this process ends too: RuntimeError: a full disk\n"
        assert outputs[1] == told
    if case == "alike":
        assert all("\nValueError: batch_size=3" in "\n" + text for text in outputs)
    if case == "well":
        assert outputs == ["", ""]
    if case == "other files":
        error = "b is not the same in all processes: 2 in process 0; 1 in process 1. Copy them."
        assert all(f"ValueError: {error}" in text for text in outputs)


@pytest.mark.nightly  # thirty seconds of waiting
def test_one_that_hangs_on_its_way_out_has_told_the_others_before():
    outputs = of_script("on its way out", [1, 1])
    assert "process 1 failed, so this process ends too: RuntimeError: a full disk" in outputs[0]
    assert "RuntimeError: a full disk" in outputs[1]


def of_script(case, codes):
    """What each of two processes printed, without what gloo does."""
    runs = start(["-c", f"CASE = {case!r}{SCRIPT}"], 2)
    with no_longer(runs):
        outputs = ended(runs, 2 * MINUTE)
    assert [run.returncode for run in runs] == codes, outputs
    lines = [[x for x in text.splitlines(True) if "[Gloo]" not in x] for text in outputs]
    return ["".join(x) for x in lines]


ALONE = """
import atexit, sys
from depth_anything_jax.parallel import processes
atexit.register(print, "the usual end")
with processes.together(False), processes.telling():
    assert "jax" not in sys.modules and processes.failure() is None
    raise SystemExit("alone")
"""
# jax may change what is private to it; heartbeats are left then, and no barrier that hangs.
WITHOUT_A_HANDLE = """
import atexit, sys
from depth_anything_jax.parallel import processes
atexit.register(print, "the usual end")
processes.join_processes = lambda: None
import jax._src.distributed
del jax._src.distributed.global_state
with processes.together(True), processes.telling():
    raise ValueError("alone")
"""


@pytest.mark.parametrize(
    "script, out, err",
    [(ALONE, "the usual end\n", "alone\n"), (WITHOUT_A_HANDLE, "", "ValueError: alone\n")],
)
def test_a_process_that_has_or_sees_no_others(script, out, err):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stdout == out and done.stderr.endswith(err), done
