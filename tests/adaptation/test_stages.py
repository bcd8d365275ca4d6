"""An adaptation's stages: options, commands, what is told, and errors with a way out."""

import ast
import dataclasses
import json

import cv2
import numpy as np
import pytest

from depth_anything_jax import configs
from depth_anything_jax.adaptation import identity, stages
from depth_anything_jax.adaptation.plan import FEWEST_STEPS, MOST_STEPS, Plan
from depth_anything_jax.data import registry
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.pseudo_labels import label_codec, label_store

START = {
    "source": "teacher", "variant": "vits", "version": "v2", "head": "relative", "parts": "all",
    "parameters": 24_800_000, "patch_size": 14, "crops": True, "licence": "Apache-2.0",
}  # fmt: skip


def picture(seed, h=40, w=60):
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(16):
        (tmp_path / "photos" / f"{i:02d}.png").write_bytes(formats.encode_png(picture(i)))
    (tmp_path / "out").mkdir()
    return Plan((str(tmp_path / "photos"),), "teacher", str(tmp_path / "out"), size=28)


def changed(plan, **fields):
    return dataclasses.replace(plan, **fields)


def test_the_length_suits_fifty_photos_and_half_a_million():
    plan = Plan((), "teacher", "out")
    assert plan.total_steps(50) == FEWEST_STEPS
    assert plan.total_steps(2000) == 2500
    assert plan.total_steps(500_000) == MOST_STEPS
    assert changed(plan, steps=7).total_steps(500_000) == 7
    assert changed(plan, steps=7).every(100) == 1


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"teacher": "files:labels"}, "are labels and no network: .*--init_from"),
        ({"batch_size": 1}, "--batch_size=1: use 2 or more"),
        ({"held_out": 0.9}, "--held_out=0.9"),
        ({"fps": 0}, "--fps=0"),
        ({"steps": -1}, "--steps=-1"),
        ({"fields": ("noise",)}, "--set 'noise': write NAME=VALUE"),
    ],
)
def test_options_that_cannot_be_right_are_refused(plan, fields, message):
    with pytest.raises(ValueError, match=message):
        changed(plan, **fields).check()


def test_a_size_between_patches_is_refused():
    with pytest.raises(ValueError, match="--size=100 is no multiple of 14; use 98"):
        stages._check_size(Plan((), "t", "o", size=100), START)


def test_photos_are_listed_as_sources_that_programs_read(plan):
    chosen, sources, held_out = stages.choose_photos(plan, print)
    train, held = (registry.make(registry.parse(s[0])) for s in (sources, held_out))
    assert len(train) == len(chosen.train) and len(held) == len(chosen.held_out)
    assert train[0]["image"].shape == (40, 60, 3) and "valid" not in train[0]
    assert {train.key(i) for i in range(len(train))}.isdisjoint({held.key(0)})
    again = stages.choose_photos(plan, print)
    assert again[1:] == (sources, held_out)


def test_other_photos_than_before_are_refused(plan, tmp_path):
    stages.choose_photos(plan, print)
    (tmp_path / "photos" / "new.png").write_bytes(formats.encode_png(picture(99)))
    with pytest.raises(ValueError, match="was begun with .* give another --out"):
        stages.choose_photos(plan, print)


def test_a_mask_is_told_and_checked(plan, tmp_path):
    file = tmp_path / "mask.png"
    mask = np.full((40, 60), 255, np.uint8)
    mask[:10] = 0
    file.write_bytes(formats.encode_png(mask))
    told = []
    masked = changed(plan, mask=str(file))
    stages.choose_photos(masked, told.append)
    assert told[0].startswith("mask: 75% of the pixels count")
    assert f"mask={file}" in stages.labels_of(masked, 0)
    file.write_bytes(formats.encode_png(np.zeros_like(mask)))
    with pytest.raises(ValueError, match="black everywhere"):
        stages.choose_photos(masked, print)
    file.write_bytes(formats.encode_png(mask.T.copy()))
    thin = np.zeros_like(mask)
    thin[::2] = 255
    file.write_bytes(formats.encode_png(thin))
    with pytest.raises(ValueError, match="mask.png: its white parts are so thin .*--size=28"):
        stages.choose_photos(masked, print)
    file.write_bytes(formats.encode_png(mask.T.copy()))
    with pytest.raises(ValueError, match="The mask is 60x40, the photos 40x60"):
        stages.choose_photos(masked, print)


def test_costs_are_told_before_anything_is_trained(plan):
    chosen, _, _ = stages.choose_photos(plan, print)
    text = stages.costs(changed(plan, size=98), chosen, START)
    assert f"{len(chosen.train)} to train on" in text and "49 tokens" in text
    assert "400 steps of 8 crops" in text and "0.37 GiB for 24,800,000 parameters" in text
    assert "GiB of checkpoints" in text


def fields_of(stage):
    flags = [x.removeprefix("--config.").split("=", 1) for x in stage.command if "--config." in x]
    return dict(flags)


def test_the_training_is_a_command_of_the_program(plan):
    import runpy

    from depth_anything_jax.training import config_checks

    stage = stages.training(plan, 100, ["a", "b"], START)
    assert stage.command[:2] == ("train", "--config=configs/adapt.py:photos")
    fields = fields_of(stage)
    assert fields["init_from"] == fields["frozen_encoder"] == "teacher"
    assert fields["init_parts"] == "params" and fields["teacher"] == "records"
    assert len(ast.literal_eval(fields["data.labels"])) == 2
    config = runpy.run_path(str(configs.folder() / "adapt.py"))["get_config"]()
    flat = config_checks.data_config(config)  # a config like any other
    assert flat["unlabelled"] == []
    known = set(_flat(config))
    assert set(fields) <= known
    more = stages.training(
        changed(plan, labelled="rgbd:x", fields=("optim.encoder_lr=0.0",)), 100, ["a"],
        START | {"parts": "encoder"},
    )  # fmt: skip
    fields = fields_of(more)
    assert more.command[1].endswith("adapt.py:labelled") and fields["batch_size"] == "16"
    assert fields["init_parts"] == "encoder" and fields["optim.encoder_lr"] == "0.0"


def _flat(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("variant", ["photos", "labelled"])
def test_the_config_splits_into_batches(variant):
    import runpy

    from depth_anything_jax.training import config_checks

    make = runpy.run_path(str(configs.folder() / "adapt.py"))["get_config"]
    sizes = config_checks.batch_sizes(make(variant))
    assert sizes == {"labelled": 8 if variant == "labelled" else 0, "unlabelled": 8}
    with pytest.raises(ValueError, match="adapt.py:x: choose photos or labelled"):
        make("x")


def label_store_of(plan, sources, value):
    """Labels of a teacher that answers `value(number)`."""
    source = registry.make(registry.parse(sources[0]))
    identity = {
        "source": {"count": len(source), "keys_sha256": label_store.keys_digest(source)},
        "teacher": {}, "input": {}, "shard_size": 64, "shift_known": False,
    }  # fmt: skip
    writer = label_store.LabelWriter(plan.path("labels", "train-0"), identity)
    records = [
        label_codec.encode(value(i).astype(np.float32), source.key(i), (40, 60))
        for i in range(len(source))
    ]
    writer.write_shard(0, records, {})
    writer.finish(images_per_second=2.0)


def test_a_teacher_that_answers_a_constant_is_refused(plan):
    _, sources, _ = stages.choose_photos(plan, print)
    label_store_of(plan, sources, lambda i: np.full((28, 42), 3.0 + i))
    with pytest.raises(ValueError, match="one value everywhere for .* none of their tensors"):
        stages.check_labels(plan, sources)


def test_good_labels_pass_and_tell_the_time(plan, monkeypatch):
    _, sources, _ = stages.choose_photos(plan, print)
    rng = np.random.default_rng(0)
    label_store_of(plan, sources, lambda i: rng.random((28, 42)))
    stages.check_labels(plan, sources)
    assert "too few photos" in stages.step_time(plan, 14, sources)
    monkeypatch.setattr(stages, "JUDGED", 1)
    # 8 photos, a forward pass of the teacher each .5 s, four times of it
    assert "16 s a step" in stages.step_time(plan, 14, sources)


def test_labels_of_other_photos_are_refused_before_the_training(plan, tmp_path):
    (tmp_path / "labels").mkdir()
    np.save(tmp_path / "labels" / "other.npy", np.ones((4, 6), np.float32))
    files = changed(plan, teacher=f"files:{tmp_path}/labels", init_from="x")
    _, sources, _ = stages.choose_photos(files, print)
    with pytest.raises(ValueError, match=r"no label for \d+ of \d+ images: .*\.png"):
        stages._label(files, sources, {}, stages.Marks(files.out), print)
    for i in range(16):
        values = np.random.default_rng(i).random((40, 60), np.float32)
        np.save(tmp_path / "labels" / f"{i:02d}.npy", values)
    stages._label(files, sources, {}, stages.Marks(files.out), print)
    stages.check_labels(files, sources)
    assert "told by the training" in stages.step_time(files, 14, sources)
    assert fields_of(stages.training(files, 14, sources, START))["teacher"] == "files"


def test_an_empty_folder_and_one_photo_are_refused(plan, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture or video"):
        stages.choose_photos(changed(plan, photos=(str(tmp_path / "empty"),)), print)
    with pytest.raises(ValueError, match="1 different photos of 1 are left: 9 or more"):
        one = (str(tmp_path / "photos" / "00.png"),)
        stages.choose_photos(changed(plan, photos=one), print)


def test_finished_stages_are_not_run_again(plan, monkeypatch):
    ran = []

    def run_stages(todo, folder, say, finished):
        ran.extend(s.title for s in todo)
        say(todo[0], "working")

    monkeypatch.setattr(stages, "run_stages", run_stages)
    marks, told = stages.Marks(plan.out), []
    stage = stages.training(plan, 100, ["a"], START)
    for _ in range(2):
        stages._run(stage, plan, marks, told.append)
    assert ran == ["train-0"] and told == ["train-0: working", "train-0: already done"]
    stages._run(stages.training(changed(plan, steps=9), 100, ["a"], START), plan, marks, print)
    assert ran == ["train-0", "train-0"]
    assert json.loads(marks.file.read_text())["train-0"]["command"]
    again = stages.training(changed(plan, steps=9), 100, ["a"], START)
    stages._run(again, plan, marks, print, [12, "another mask"])  # made from other files
    assert ran == ["train-0"] * 3


def test_options_that_change_after_the_training_began_are_named(plan, monkeypatch):
    monkeypatch.setattr(stages, "run_stages", lambda *args: None)
    marks, told = stages.Marks(plan.out), []
    stage = stages.training(plan, 100, ["a"], START)
    stages._run_training(stage, plan, marks, told.append, [])
    (tmp := stages.pathlib.Path(stage.workdir)).mkdir()
    more = changed(plan, fields=("optim.encoder_lr=1e-6",))
    stages._run_training(stages.training(more, 100, ["a"], START), plan, marks, told.append, [])
    (line,) = told
    assert "optim.encoder_lr changed since" in line and str(tmp) in line and "--out" in line


def test_the_state_of_files_tells_replaced_ones(tmp_path):
    (tmp_path / "run").mkdir()
    assert identity.state(str(tmp_path / "run")) == identity.state("a/hub-id") == []
    (tmp_path / "run" / "w").write_text("a")
    first = identity.state(str(tmp_path / "run"))
    (tmp_path / "run" / ".lock").write_text("")
    assert identity.state(str(tmp_path / "run")) == first
    (tmp_path / "run" / "w").write_text("ab")
    assert identity.state(str(tmp_path / "run")) != first
    assert len({identity.digest(""), identity.digest(str(tmp_path / "run" / "w"))}) == 2
