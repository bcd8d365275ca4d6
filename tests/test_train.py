"""The trainer as a user runs it: from shipped configs, interrupted, continued, misused."""

import contextlib
import io
import json
import os
import pathlib
import re
import runpy
import shutil
import signal
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest

from depth_anything_jax import configs, train
from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.data import pipeline
from depth_anything_jax.data.examples import DataError
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import init, logger, metrics_buffer, monitor
from depth_anything_jax.utils import folder_lock, param_paths

ROOT = pathlib.Path(__file__).parent.parent
SMALL = {
    "input_size": 28,
    "batch_size": 2,
    "total_steps": 4,
    "init_from": "",
    "data.labelled": ("scenes:A?count=6&size=28",),
    "optim.warmup": 2,
    "checkpoint.every": 2,
    "log.every": 1,
    "log.images": 0,
    "log.tensorboard": False,
}


def config(name, variant, **fields):
    c = runpy.run_path(str(configs.folder() / f"{name}.py"))["get_config"](variant)
    c.update_from_flattened_dict({**SMALL, **fields})
    return c


def teacher(**fields):
    return config("teacher", "demo", **fields)


@pytest.fixture(scope="module", autouse=True)
def one_device_and_quick_compilation():
    """Bit-exactness is promised for one device; compiling well takes longer than these runs."""
    patch = pytest.MonkeyPatch()
    make = sharding.make_mesh
    patch.setattr(sharding, "make_mesh", lambda *a: make(*a, devices=jax.devices()[:1]))
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    patch.undo()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    train.train(teacher(), str(folder))
    return folder


def final(folder):
    params, meta = orbax_io.load_params(folder)
    assert meta["step"] == 4
    return param_paths.leaves_by_path(params)


def test_resumed_run_ends_bit_equal_to_a_straight_one(straight, tmp_path, monkeypatch):
    class Died(Exception):
        pass

    save = orbax_io.Checkpoints.save

    def die_as_soon_as_it_is_saved(self, *args, wait):
        save(self, *args, wait=True)
        raise Died

    def die_after_the_third(self, step):
        if step == 3:
            raise Died
        return False

    for thing, name, die in (
        (orbax_io.Checkpoints, "save", die_as_soon_as_it_is_saved),
        (train._Stop, "agreed", die_after_the_third),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(thing, name, die)
            with pytest.raises(Died):
                train.train(teacher(), str(tmp_path))
        assert orbax_io.find(tmp_path).name == "2"  # step 3 was lost with the process
        assert [r["step"] for r in logger.read_metrics(tmp_path)] == [1, 2]
    networks, link = init.networks, {"role": "teacher", "source": "new", "licence": "x"}

    def with_another_teacher(*args):
        found, frozen, meta = networks(*args)
        return found, frozen, {**meta, "licence_chain": [link]}

    monkeypatch.setattr(init, "networks", with_another_teacher)
    train.train(teacher(), str(tmp_path))
    assert orbax_io.load_params(tmp_path)[1]["licence_chain"] == [link]
    ours, theirs = final(tmp_path), final(straight)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    rows = logger.read_metrics(tmp_path)
    assert [r["step"] for r in rows] == [1, 2, 3, 4]  # what was done twice stands there once
    assert rows[-1]["loss/total"] == logger.read_metrics(straight)[-1]["loss/total"]


def test_a_run_whose_machine_is_lost_ends_bit_equal_from_its_mirror(
    straight, tmp_path, monkeypatch
):
    work, drive = str(tmp_path / "work"), str(tmp_path / "drive")

    class Died(Exception):
        pass

    def die_after_the_third(self, step):
        if step == 3:
            raise Died
        return False

    with monkeypatch.context() as patch:
        patch.setattr(train._Stop, "agreed", die_after_the_third)
        with pytest.raises(Died):
            train.train(teacher(), work, mirror=drive)
    shutil.rmtree(work)
    with pytest.raises(ValueError, match="(?s)drive holds a run with .*  seed: 0 in .*--mirror$"):
        train.train(teacher(seed=1), work, mirror=drive)
    assert os.listdir(work) == [".lock"]
    console = io.StringIO()
    # From here it saves by the clock, which changes nothing that is computed either.
    by_clock = {"checkpoint.every": 0, "checkpoint.minutes": 1e-9, "checkpoint.keep_last": 3}
    with contextlib.redirect_stdout(console):
        train.train(teacher(**by_clock), work, mirror=drive)
    assert sorted(os.listdir(f"{work}/checkpoints")) == ["2", "3", "4"]
    assert "continues after step 2 of 4" in console.getvalue()
    ours, theirs = final(work), final(straight)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    rows = logger.read_metrics(work)
    assert [r["step"] for r in rows] == [1, 2, 3, 4]  # the first two lines came back, too
    assert rows[-1]["loss/total"] == logger.read_metrics(straight)[-1]["loss/total"]
    arrived = [int(name.split(".")[0].removeprefix("step_")) for name in sorted(os.listdir(drive))]
    assert len(arrived) == 2 and arrived[-1] == 4  # step 3 may have been overtaken


def test_an_error_of_the_data_ends_the_run_with_its_steps_saved(tmp_path, monkeypatch):
    real, delivered = pipeline.Batches.__next__, []

    def ends(self):
        if len(delivered) == 3:
            raise DataError("no more of it")
        delivered.append(1)
        return real(self)

    monkeypatch.setattr(pipeline.Batches, "__next__", ends)
    with pytest.raises(DataError, match="no more of it"):
        train.train(teacher(**{"checkpoint.every": 100}), str(tmp_path))
    assert orbax_io.find(tmp_path).name == "3"
    assert [r["step"] for r in logger.read_metrics(tmp_path)] == [1, 2, 3]


def test_a_finished_run_goes_on_for_more_steps_and_keeps_the_best(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    fields = {"total_steps": 6, "eval.every": 1, "eval.data": ("scenes:C?count=1&size=28",),
              "checkpoint.keep_best": "eval/scenes C/abs_rel"}  # fmt: skip
    console = io.StringIO()
    with contextlib.redirect_stdout(console):
        train.train(teacher(**fields), str(tmp_path / "run"))
    assert "step 5 has 25.0% of the peak rate instead of 0.0% (it had ended)" in console.getvalue()
    rows = {r["step"]: r for r in logger.read_metrics(tmp_path / "run") if "loss/total" in r}
    assert sorted(rows) == [1, 2, 3, 4, 5, 6] and rows[5]["lr/decoder"] > rows[4]["lr/decoder"] == 0
    scores = {
        r["step"]: r["eval/scenes C/abs_rel"]
        for r in logger.read_metrics(tmp_path / "run")
        if "loss/total" not in r
    }
    assert sorted(scores) == [5, 6]
    best = orbax_io.load_params(tmp_path / "run" / "best")[1]
    assert best["step"] == min(scores, key=scores.get) and best["config"]["total_steps"] == 6


def test_a_run_is_continued_only_by_itself(straight):
    with pytest.raises(ValueError) as error:
        train.train(teacher(**{"batch_size": 4, "optim.decoder_lr": 1e-3}), str(straight))
    for line in ("  batch_size: 2 in the checkpoint, 4 now", "  optim.decoder_lr: 0.002 in the"):
        assert line in str(error.value)
    assert f"--config.init_from={straight} --config.init_parts=params" in str(error.value)


def test_checkpoint_says_what_the_model_is(straight):
    _, meta = orbax_io.load_params(straight)
    assert (meta["variant"], meta["version"], meta["head"]) == ("demo", "v2", "relative")
    assert meta["config"]["total_steps"] == 4


def test_a_run_that_can_only_skip_its_updates_stops_and_names_step_and_records(tmp_path):
    """The update of step 1 is huge, all after it overflow; a look is due at step 4 only."""
    fields = {"optim.decoder_lr": 1e12, "optim.warmup": 1, "total_steps": 6, "log.every": 20,
              "log.images": 4, "checkpoint.every": 20}  # fmt: skip
    limit = r"step 3: the last of 2 updates in a row that were skipped \(not finite\)"
    with pytest.raises(FloatingPointError, match=rf"{limit}.* Its records: labelled A0/\d+, A0/"):
        train.train(teacher(**fields), str(tmp_path))
    assert [p.name for p in (tmp_path / "strips").iterdir()] == ["labelled_00000001.png"]
    assert orbax_io.find(tmp_path) is None
    skipped = map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert [(s["step"], s["why"], len(s["keys"]["labelled"])) for s in skipped] == [
        (2, "not_finite", 2),
        (3, "not_finite", 2),
    ]


def test_metrics_are_looked_at_once_and_in_order():
    buffer = metrics_buffer.MetricsBuffer(teacher())
    fetched = []

    class Scalar:
        """Stands for a device array; tells when it is fetched."""

        def __init__(self, step, value=1.0):
            self.step, self.value = step, value

        def __array__(self, dtype=None, copy=None):
            fetched.append(self.step)
            return np.asarray(self.value, dtype)

    for step in range(1, 5):
        buffer.add(step, {"loss/total": Scalar(step)}, failures=step)
    assert fetched == []
    assert buffer.fetch(3)["data/failures"] == buffer.fetch(3)["data/failures"] == 3
    assert fetched == [1, 2, 3]
    buffer.add(5, {"loss/total": Scalar(5, np.inf), "loss/labelled": Scalar(5)}, failures=0)
    for step in range(6, 4 + buffer.LIMIT):
        buffer.add(step, {"loss/total": Scalar(step)}, failures=0)
    with pytest.raises(FloatingPointError, match="step 5: loss/total is inf; all"):
        buffer.add(4 + buffer.LIMIT, {"loss/total": Scalar(0)}, failures=0)  # as many as may wait
    assert 0 not in fetched  # the newest step is not waited for


def test_batches_of_which_every_map_is_dropped_stop_a_run():
    many, few = ({"labelled": n, "unlabelled": n} for n in (8, 7))
    for part in ("labelled", "unlabelled"):
        monitor.check_alive({f"{part}/dropped_maps": 0.99}, many)
        monitor.check_alive({f"{part}/dropped_maps": 1.0}, few)  # a crop between lidar's points
        with pytest.raises(FloatingPointError, match=f"first batch: every {part} map was dropped"):
            monitor.check_alive({f"{part}/dropped_maps": 1.0}, many)
    unmeasured = {"labelled/log_bias": 0.0, "labelled/valid_share": 0.0}
    monitor.check_alive(unmeasured, few)
    with pytest.raises(FloatingPointError, match="no pixel of the first batch has a label"):
        monitor.check_alive(unmeasured, many)
    buffer = metrics_buffer.MetricsBuffer(teacher())
    empty = buffer.EMPTY
    for step in range(1, 2 * empty + 1):  # one that is used, and all behind it that are not
        used = step in (1, empty)
        buffer.add(step, {"labelled/dropped_maps": 0.5 if used else 1.0}, failures=0)
    buffer.fetch(2 * empty - 1)
    with pytest.raises(FloatingPointError, match=f"steps {empty + 1} to {2 * empty}: every label"):
        buffer.fetch(2 * empty)


def test_labels_that_are_all_empty_stop_a_relative_run_at_its_first_step(tmp_path):
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((40, 40, 3), 99, np.uint8))
        cv2.imwrite(str(tmp_path / f"{i}_depth.png"), np.zeros((40, 40), np.uint16))
    entries = [{"rgb": f"{i}.png", "depth": f"{i}_depth.png", "fmt": "nyu"} for i in range(2)]
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    with pytest.raises(FloatingPointError, match="first batch: every labelled map was dropped"):
        fields = {"data.labelled": (f"rgbd:{tmp_path}",), "batch_size": monitor.FIRST_IMAGES}
        train.train(teacher(**fields), str(tmp_path / "run"))
    assert orbax_io.find(tmp_path / "run") is None


def test_a_dead_head_stops_the_run_before_its_second_step():
    def check(metrics):
        monitor.check_alive(metrics, {"labelled": 1, "unlabelled": 1})

    check({"labelled/pred_zero_share": 0.99, "unlabelled/pred_zero_share": 0.5})
    with pytest.raises(FloatingPointError, match=r"99\.5% of the first unlabelled prediction is"):
        check({"labelled/pred_zero_share": 0.5, "unlabelled/pred_zero_share": 0.995})
    check({"labelled/pred_max_share": 0.7, "labelled/pred_zero_share": 0.2})
    with pytest.raises(FloatingPointError, match=r"97\.0% of the first prediction is its largest"):
        check({"labelled/pred_max_share": 0.87, "labelled/pred_zero_share": 0.1})


def test_what_is_missing_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="this run needs files that do not exist yet"):
        train.train(teacher(**{"data.labelled": ("tfds:data/irs",)}), "runs/x")
    assert not os.path.exists("runs")


@pytest.fixture(scope="module")
def one_of_four_is_cut(tmp_path_factory):
    """A manifest of four pairs; the second image ends half-way."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    entries = []
    for i in range(4):
        cv2.imwrite(str(folder / f"{i}.jpg"), rng.integers(0, 256, (40, 40, 3), np.uint8))
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(500, 9000, (40, 40)).astype(np.uint16))
        entries.append({"rgb": f"{i}.jpg", "depth": f"{i}.png", "fmt": "nyu"})
    whole = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "manifest.json").write_text(json.dumps(entries))
    return f"rgbd:{folder}/manifest.json"


@pytest.fixture(scope="module")
def finetuned(straight, one_of_four_is_cut, tmp_path_factory):
    """(workdir, console) of configs/finetune.py:folder from the straight run's weights."""
    folder = tmp_path_factory.mktemp("finetuned")
    fields = {"model.variant": "demo", "init_from": str(straight), "data.workers": 1,
              "data.labelled": (one_of_four_is_cut,)}  # fmt: skip
    console = io.StringIO()
    with contextlib.redirect_stdout(console):
        train.train(config("finetune", "folder", **fields), str(folder))
    return folder, console.getvalue()


def test_finetuning_starts_from_all_weights_and_trains_encoder_and_decoder(finetuned, straight):
    rows = logger.read_metrics(finetuned[0])
    first, last = (
        param_paths.leaves_by_path(orbax_io.load_params(x)[0]) for x in (straight, finetuned[0])
    )
    moved = {name.split("/")[0] for name in first if not np.array_equal(first[name], last[name])}
    assert moved == {"encoder", "decoder"}
    # The paper's rates move no weight by more than their sum: it started where the other ended.
    assert sum(r["lr/decoder"] for r in rows) < 3e-4
    for name in first:
        np.testing.assert_allclose(first[name], last[name], atol=3e-4, err_msg=name)


def test_a_record_that_cannot_be_read_is_named_once_and_counted(finetuned):
    folder, console = finetuned
    seen = [x for x in console.splitlines() if x.startswith("data, 4 records of each source: ")]
    assert len(seen) == 1 and "LOOKS WRONG: pairs0: 1 of 4 records cannot be read" in seen[0]
    lines = [x for x in console.splitlines() if x.startswith("cannot be read")]
    assert len(lines) == 1 and re.search(r"1\.jpg: \w+Error: .*truncated", lines[0])
    # Four steps of two are two epochs of four.
    rows = logger.read_metrics(folder)
    assert rows[-1]["step"] == 4 and rows[-1]["data/failures"] == 2


def test_broken_or_changed_files_stop_a_run_after_it_was_saved(
    one_of_four_is_cut, tmp_path, capsys
):
    folder = tmp_path / "pairs"
    shutil.copytree(pathlib.Path(one_of_four_is_cut.partition(":")[2]).parent, folder)
    (folder / "3.jpg").write_bytes((folder / "3.jpg").read_bytes()[:400])
    data = teacher(**{"data.labelled": (f"rgbd:{folder}",), "checkpoint.every": 4})
    with pytest.raises(ValueError, match="2 of 4 records cannot be read") as caught:
        train.train(data, str(tmp_path / "run"))
    assert [str(caught.value).count(f"{i}.jpg: FormatError") for i in range(4)] == [0, 1, 0, 1]
    assert "saved after step 1" in capsys.readouterr().out
    assert orbax_io.find(tmp_path / "run").name == "1"
    assert [r["step"] for r in logger.read_metrics(tmp_path / "run")] == [1]

    entries = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps([e for e in entries if e["rgb"] != "1.jpg"]))
    message = r"data.labelled\[0\], pairs: 4 records when it was saved, 3 now(.|\n)*allow_changed"
    with pytest.raises(ValueError, match=message):
        train.train(data, str(tmp_path / "run"))
    data.data.allow_changed = True
    train.train(data, str(tmp_path / "run"))
    assert "warning: the data of" in capsys.readouterr().out
    final(tmp_path / "run")  # one broken file of three is named, and the run goes on
    train.train(data, str(tmp_path / "run"))
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": 30}, "input_size=30 is no multiple of 14; use 28"),
        ({"teacher": "onlin"}, "teacher='onlin'.*did you mean 'online'"),
        ({"labelled_ratio": 1, "unlabelled_ratio": 2}, "batch_size=2 does not split .* 1 : 2"),
        ({"labelled_ratio": 0, "unlabelled_ratio": 1}, "whose loss weight is 0"),
        ({"loss.weights": (1.0, 0.0)}, "three numbers"),
        ({"init_parts": "all", "init_from": "nowhere"}, "needs an Orbax folder"),
        ({"total_steps": 2}, "optim.warmup=2"),
        ({"checkpoint.every": -1}, "checkpoint.every=-1: use 0 or more"),
        ({"checkpoint.minutes": -5.0}, "checkpoint.minutes=-5.0: use 0 or more"),
        ({"dtype": "float16"}, "dtype='float16'"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train.train(teacher(**fields), str(tmp_path))


def command(workdir, *more):
    fields = [f"--config.{k}={v}" for k, v in SMALL.items()]
    return [sys.executable, "-m", "depth_anything_jax.train", "--config=configs/teacher.py:demo",
            f"--workdir={workdir}", *fields, *more]  # fmt: skip


@pytest.fixture
def environment():
    return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def test_sigterm_saves_exits_zero_and_the_same_command_continues(straight, tmp_path, environment):
    # A thousand steps, so that the signal finds it running whatever the machine does.
    many = ("--config.total_steps=1000", "--config.checkpoint.every=1000",
            "--config.eval.every=1000", "--config.eval.data=('scenes:C?count=2&size=28',)",
            "--config.data.workers=1", "--audit=1")  # fmt: skip
    run = subprocess.Popen(
        command(tmp_path, *many), env=environment, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines = []
    for line in run.stdout:
        lines.append(line)
        if line.startswith("step ") and " 2/" in line:
            run.send_signal(signal.SIGTERM)
    assert run.wait() == 0, "".join(lines)
    stopped = int(orbax_io.find(tmp_path).name)
    assert 2 <= stopped < 1000
    assert f"SIGTERM: saved after step {stopped}" in "".join(lines)
    assert not [x for x in lines if "leaked" in x]  # the workers' shared memory
    row = logger.read_metrics(tmp_path)[-1]
    assert row["step"] == stopped and "loss/total" in row  # and no score, which takes its time
    assert [p.name for p in (tmp_path / "audit").glob("*.npz")] == ["step_000001.npz"]


@pytest.mark.nightly
def test_a_second_start_finds_the_compiled_programs_of_the_first(tmp_path, environment):
    env = {**environment, "DEPTH_ANYTHING_CACHE": str(tmp_path / "kept")}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    found = []
    for name in ("first", "second"):
        subprocess.run(command(tmp_path / name), env=env, cwd=ROOT, check=True)
        found.append({p.name for p in (tmp_path / "kept").glob("jit_*") if "-atime" not in p.name})
    assert found[0] == found[1] and any("step" in name for name in found[0]), found


def test_sigterm_before_the_first_step_ends_the_program_with_a_line(environment, tmp_path):
    """What takes its time before the loop is a sleep here: the signal is heard from the start."""
    code = (
        "import time\nfrom depth_anything_jax import train\n"
        "def slow(config, sizes, workdir, stop, *rest):\n"
        "    print('slow', flush=True)\n"
        "    while not stop.received: time.sleep(0.1)\n"
        "    stop.check()\n"
        "train._train = slow\ntrain.main()"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, *command(tmp_path)[3:]], env=environment, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert run.stdout.readline() == "slow\n"
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate()
    assert (run.returncode, out) == (0, "SIGTERM before the first step: nothing to save\n")


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        ("depth_anything_jax.data.examples", "DataError", "3 of 1000 records failed"),
        ("builtins", "ImportError", "x.pth needs PyTorch"),
        ("builtins", "PermissionError", "[Errno 13] Permission denied: 'run/.lock'"),
    ],
)
def test_what_stops_a_run_is_told_without_a_traceback(
    module, error, message, environment, tmp_path
):
    """`train` is replaced by the error: only the command line is looked at here."""
    code = (
        f"from {module} import {error}\nfrom depth_anything_jax import train\n"
        f"def fail(config, workdir, audit_steps, mirror): raise {error}({message!r})\n"
        "train.train = fail\ntrain.main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *command(tmp_path)[3:]], env=environment, cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == f"{error}: {message}"
    assert "Traceback" not in found.stderr


def test_a_misspelt_field_names_the_nearest(environment, tmp_path):
    found = subprocess.run(
        command(tmp_path, "--config.optim.encoder_lrr=1"), env=environment, cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode != 0
    assert found.stderr.startswith("--config.optim.encoder_lrr=1: no field 'encoder_lrr'; did you")
    assert "'encoder_lr'?" in found.stderr and len(found.stderr.splitlines()) == 1


def test_a_second_start_on_a_work_folder_in_use_is_refused(straight):
    kept = (straight / "metrics.jsonl").read_bytes()
    with folder_lock.locked(straight), pytest.raises(ValueError, match="is in use by process"):
        train.train(teacher(), str(straight))
    assert (straight / "metrics.jsonl").read_bytes() == kept
