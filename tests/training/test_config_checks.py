"""Checks before anything is loaded: what a continued run may change, what there is to prepare."""

import json
import os
import re
import runpy
import subprocess

import numpy as np
import pytest

from depth_anything_jax import configs
from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.training import config_checks, optim, same_run
from depth_anything_jax.utils.nested_dicts import flatten

HERE = os.getcwd()


def config(name="teacher", variant="demo", **fields):
    c = runpy.run_path(str(configs.folder() / f"{name}.py"))["get_config"](variant)
    c.update_from_flattened_dict(fields)
    return c


def test_a_work_folder_that_no_checkpoint_can_lie_in_is_refused_at_once():
    for workdir, why in (
        ("", "workdir is empty"),
        ("runs\\x", "backslash"),
        ("gs:/b", "two slashes"),
    ):
        with pytest.raises(ValueError, match=why):
            config_checks.check(config(), {"labelled": 4, "unlabelled": 0}, workdir)


def test_student_labels_must_pair_with_sources():
    c = config("student")
    assert config_checks.batch_sizes(c) == {"labelled": 4, "unlabelled": 8}
    assert config_checks.data_config(c)["unlabelled"][0]["labels"]["type"] == "records"
    c.data.labels = ()
    with pytest.raises(ValueError, match="data.labels names 0 sets of labels for 1"):
        config_checks.data_config(c)


def changed_fields(then, now):
    """Names that `same_run` refuses to change from one config to the other."""
    try:
        same_run.check({"config": json.loads(then.to_json_best_effort())}, now, workdir="runs/x")
    except ValueError as error:
        return re.findall(r"^  ([\w.]+): ", str(error), re.MULTILINE)
    return []


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return (*value, 0) if isinstance(value, tuple) else value + 1


def test_what_is_learned_cannot_change_and_how_it_is_computed_can():
    fields = flatten(config().to_dict(), ".")
    groups = ("mesh", "checkpoint", "log", "eval", "guard")
    free = {"workdir", "init_from", "init_parts", "allow_missing", "fill_missing", "accumulation"}
    # more steps: see below
    free |= {"compile_effort", "data.allow_changed", "total_steps"}
    free |= {"model.scan", "model.remat", "model.attention", "data.workers", "data.threads"}
    free |= {f for f in fields if f.partition(".")[0] in groups}
    assert len(free) > 18 and len(fields) > 65
    for field, value in fields.items():
        found = changed_fields(config(), config(**{field: another(value)}))
        assert found == ([] if field in free else [field])


def test_total_steps_may_grow_under_schedules_that_can_go_on():
    for schedule in optim.SCHEDULES:
        then, more = (
            config(**{"optim.schedule": schedule, "total_steps": n}) for n in (1000, 1500)
        )
        may = schedule in optim.EXTENDABLE
        assert changed_fields(then, more) == ([] if may else ["total_steps"])
        assert changed_fields(more, then) == ["total_steps"]
    with pytest.raises(ValueError, match="may only grow, and only under .*=linear or poly or cons"):
        same_run.check({"config": json.loads(more.to_json_best_effort())}, then, workdir="runs/x")


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ("tfds:data/irs", "tfds:./data//irs/", True),
        ("folder:photos", "photos", True),
        ("rgbd:m.json?exclude=a&slice=[0,9]", f"rgbd:{HERE}/m.json?slice=[0,9]&exclude=a", True),
        ("rgbd:m.json?slice=[0,9]", "rgbd:m.json?slice=[0,8]", False),
        ("tfds:gs://b/irs", "tfds:gs://b/irs/", True),
        ("tfds:gs://b/irs", "tfds:gs://c/irs", False),
        ("tfds:data/irs", "folder:data/irs", False),
    ],
)
def test_sources_are_the_same_however_their_path_is_written(then, now, same):
    a, b = (config(**{"data.labelled": (x,)}) for x in (then, now))
    assert (changed_fields(a, b) == []) is same


def test_a_field_younger_than_the_checkpoint_had_its_default():
    old, default, other = config(), config(), config(**{"loss.trim": 0.3})
    with old.unlocked():
        del old.loss["trim"]
        old.forgotten = 1  # and one that this version does not know
    assert changed_fields(old, default) == []
    assert changed_fields(old, other) == ["loss.trim"]


def test_a_run_from_before_labels_were_carried_goes_on_and_is_told_how_it_began(caplog):
    old = config()
    with old.unlocked():
        del old.data["label_resize"]
    assert changed_fields(old, config(**{"data.label_resize": "nearest"})) == []
    assert changed_fields(old, config(**{"data.label_resize": "points"})) == ["data.label_resize"]
    assert not caplog.records
    assert changed_fields(old, config()) == []
    (record,) = caplog.records
    assert "goes on with 'auto'" in record.message
    assert "--config.data.label_resize=nearest" in record.message


def page(c, folder, monkeypatch):
    """What a person sees who starts this run in an empty folder."""
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError) as error:
        config_checks.check(c, config_checks.batch_sizes(c), "runs/x")
    return str(error.value)


def commands(text):
    """The commands on a page as a shell runs them: loops unrolled, quotes gone."""
    script = "\n".join(x for x in text.splitlines() if x.startswith("      "))
    script = 'python() { echo "$*"; }\n' + script
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_papers_student_is_told_what_to_prepare_in_order(tmp_path, monkeypatch):
    text = page(config("student", "vits"), tmp_path, monkeypatch)
    assert len(text.splitlines()) <= 25 and "`make demo`" in text and "student.py:demo" in text
    told = commands(text)
    labelled = ["blendedmvs", "diml", "hrwsi", "irs", "megadepth", "tartanair"]
    assert told[:6] == [
        f"tools/prepare_data.py --source rgbd:RAW/{n} --out data --name {n}" for n in labelled
    ]
    assert "tools/prepare_data.py --source folder:RAW/sa1b --out data --name sa1b" in told[6:14]
    assert told[14] == "-m depth_anything_jax.train --config=configs/teacher.py"
    assert told[-1] == (
        "-m depth_anything_jax.pseudo_label --size 518 --checkpoint runs/teacher_vitl "
        "--data tfds:data/sa1b --out labels/sa1b"
    )
    assert len(told) == 6 + 8 + 1 + 8


def test_only_what_is_missing_is_told(tmp_path, monkeypatch):
    c = config("student", "vits", **{
        "data.labelled": ("tfds:data/irs", "rgbd:mine/manifest.json", "scenes:A?count=2&size=28"),
        "data.unlabelled": ("tfds:data/sa1b", "folder:photos"),
        "data.labels": ("labels/a", "labels/b"),
        "input_size": 364,
    })  # fmt: skip
    for there in ("data/irs", "labels/a", "runs/teacher_vitl"):
        (tmp_path / there).mkdir(parents=True)
    (tmp_path / "runs/teacher_vitl/.lock").touch()
    assert "configs/teacher.py\n" in page(c, tmp_path, monkeypatch)  # its run failed at once
    orbax_io.save_params(tmp_path / "runs/teacher_vitl/checkpoints", {"x": np.zeros(1)}, {})
    text = page(c, tmp_path, monkeypatch)
    assert "labelled data: rgbd:mine/manifest.json\n      put it there, or name another" in text
    assert "irs" not in text and "configs/teacher.py\n" not in text
    assert [x for x in text.splitlines() if "--out" in x] == [
        "      python tools/prepare_data.py --source folder:RAW/sa1b --out data --name sa1b",
        "          --data folder:photos --out labels/b",
    ]
    assert "pseudo_label --size 364 " in text
    c.teacher = "files"
    text = page(c, tmp_path, monkeypatch)
    assert "labels of another tool: labels/b" in text and "pseudo_label --" not in text


def test_the_demos_student_is_told_of_the_demos_teacher(tmp_path, monkeypatch):
    demo = config("student", "demo")
    (images,) = demo.data.unlabelled
    text = page(demo, tmp_path, monkeypatch)
    assert commands(text) == [
        "-m depth_anything_jax.train --config=configs/teacher.py:demo",
        "-m depth_anything_jax.pseudo_label --size 112 --checkpoint runs/teacher_demo "
        f"--data {images} --out runs/labels_demo",
    ]
    assert config("teacher", "demo").workdir == "runs/teacher_demo"
    assert config("teacher", "vitl").workdir == "runs/teacher_vitl"
