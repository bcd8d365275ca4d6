"""Pseudo labels from models: devices, precision, the online teacher, the program itself."""

import json
import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from depth_anything_jax import models, pseudo_label
from depth_anything_jax.checkpoints import licences, orbax_io
from depth_anything_jax.data import pipeline, registry, transforms
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.pseudo_labels.label_store import LabelStore
from depth_anything_jax.data.registry import attach
from depth_anything_jax.inference import predictor
from depth_anything_jax.training import step
from tests.helpers import several_processes
from tests.helpers.labelling import SIZE, run
from tests.helpers.photos import Photos
from tests.helpers.small_networks import KERNEL, Convolution, MetricConvolution, random_params

TINY = models.Variant(16, 4, 1, 32, 8, (8, 8, 8, 8), (0, 1, 2, 3), grid=2)


# Devices, and the online teacher


def test_eight_devices_label_like_one(tmp_path):
    source = Photos(9)
    for name, devices in (("one", jax.devices()[:1]), ("eight", jax.devices())):
        predict = predictor.Predictor(Convolution(), KERNEL, devices=devices)
        run(predict, source, tmp_path / name, batch_size=8)
    one, eight = LabelStore(tmp_path / "one"), LabelStore(tmp_path / "eight")
    for i in range(9):
        a, b = (s.read(i, source.key(i)).values for s in (one, eight))
        assert np.ptp(a) > 1
        # float32 sums in another order, and one 16-bit step of each label's range.
        assert np.abs(a - b).max() <= 2e-5 * np.ptp(a)


def test_the_batch_lies_on_all_devices():
    predict = predictor.Predictor(Convolution(), KERNEL)
    out = predict(np.zeros((16, 14, 14, 3), np.float32))
    assert [s.data.shape for s in out.addressable_shards] == [(2, 14, 14)] * 8
    with pytest.raises(ValueError, match="batch of 3 does not divide over 8 devices"):
        predict(np.zeros((3, 14, 14, 3), np.float32))


def test_a_metric_teacher_gives_disparity():
    model = MetricConvolution()
    images = np.random.default_rng(0).normal(0, 1, (1, SIZE, SIZE, 3)).astype(np.float32)
    depth = np.asarray(model.apply({"params": KERNEL}, images))
    assert depth.min() < 1e-3 < 1 < depth.max(), "both sides of the floor"
    predict = predictor.Predictor(model, KERNEL, devices=jax.devices()[:1])
    # float32, one program against separate operations
    np.testing.assert_allclose(predict(images), 1 / np.maximum(depth, 1e-3), rtol=1e-4)


def test_predictors_of_one_model_share_their_program():
    model = Convolution()
    images = np.random.default_rng(0).normal(0, 1, (8, 14, 14, 3)).astype(np.float32)
    first = predictor.Predictor(model, KERNEL)
    second = predictor.Predictor(model, {"kernel": 2 * KERNEL["kernel"]})
    np.testing.assert_allclose(second(images), 2 * np.asarray(first(images)), rtol=1e-6)  # float32
    assert first._run is second._run and first._run._jitted._cache_size() == 1
    # Linen modules are told apart by their fields, not by who built them.
    a, b, c = (models.build(TINY, scan=scan) for scan in (True, True, False))
    programs = [predictor.Predictor(m, KERNEL)._run for m in (a, b, c)]
    assert programs[0] is programs[1] is not programs[2]


class Squares(Photos):
    """Images whose whole is one training crop: record and online teacher see the same input."""

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 256, (45, 45, 3), np.uint8)
        return {"key": self.key(index), "image": image}


@pytest.mark.parametrize("head", ["relative", "sigmoid"])
def test_records_and_online_teacher_meet_on_identical_input(tmp_path, monkeypatch, head):
    """To 2e-5 of the label's range, of which the 16-bit step is .8e-5 (the rest is float32)."""
    metric = head == "sigmoid"
    model = models.build(TINY, scan=False, head=head, max_depth=20.0 if metric else None)
    params = random_params(model, SIZE)
    if metric:  # random weights give values of 1e8, of which the sigmoid would leave a constant
        params["decoder"]["output_conv2_2"]["kernel"] *= 1e-8
    source, batch = Squares(4), 2
    run(
        predictor.Predictor(model, params, devices=jax.devices()[:1]), source, tmp_path / "out",
        shift_known=metric,
    )  # fmt: skip
    monkeypatch.setitem(registry.TYPES, "squares", lambda labelled=None: source)
    # A flip is not part of the identical input.
    centre = transforms.centre_geometry(45, 45, SIZE, patch_size=14)
    monkeypatch.setattr(transforms, "draw_geometry", lambda *args, **kwargs: centre)
    config = {"unlabelled": {"type": "squares", "labels": {"path": str(tmp_path / "out")}}}
    online = jax.jit(lambda images: step.label_online(model, params, {"image": images}, 1))
    with pipeline.train_batches(
        config, labelled_batch=0, unlabelled_batch=batch, size=SIZE, seed=0, patch_size=14
    ) as batches:
        for _ in range(4):
            seen = next(batches)["unlabelled"]
            record = seen["disparity"]
            found = jax.tree.map(np.asarray, online(seen["image"]))
            spread = np.ptp(record, axis=(1, 2))
            assert (spread > 0).all() and seen["valid"].all()
            error = np.abs(record - found["disparity"]).max((1, 2)) / spread
            assert (error <= 2e-5).all(), error
            for mask in ("valid", "sky", "shift_known"):
                np.testing.assert_array_equal(found[mask], seen[mask], mask)


# The program


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A checkpoint of the demo's model with random weights: its path, model and parameters."""
    path = tmp_path_factory.mktemp("teacher") / "run"
    model = models.build("demo", scan=False)
    params = random_params(model, 112)
    described = {"variant": "demo", "version": "v2", "head": "relative", "max_depth": None}
    orbax_io.save_params(path, params, {"model": described, **described, "licence": "MIT"})
    return str(path), model, params


def program(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "depth_anything_jax.pseudo_label", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"},
        timeout=300,
    )


def test_the_program_labels_a_folder(tmp_path, teacher):
    photos, out = tmp_path / "photos", tmp_path / "labels"
    photos.mkdir()
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 256, (60, 70, 3), np.uint8)
        (photos / f"{i}.png").write_bytes(formats.encode_png(image))
    torn = photos / "2.png"
    torn.write_bytes(torn.read_bytes()[:2000])
    done = program(
        f"--checkpoint={teacher[0]}", f"--data={photos}", f"--out={out}", "--size=56",
        "--batch_size=2", "--shard_size=4", "--allow-missing=nothing",
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert "cannot label 2.png" in done.stdout
    assert re.search(r"5 images labelled in .* images/s.*1 compiled programs", done.stdout)
    assert "1 of 6 have no label" in done.stdout
    card = json.loads((out / "card.json").read_text())
    assert list(card["invalid"]) == ["2.png"] and card["data"] == str(photos)
    assert card["licence"] == licences.combined(card["licence_chain"])
    assert card["licence_chain"][-1]["source"] == teacher[0]
    joined = attach(registry.make({"type": "folder", "path": str(photos)}), str(out))
    assert len(joined) == 5
    # The labels are this teacher's: its model, run here.
    record = joined[3]
    _, model, params = teacher
    x = transforms.network_input(record["image"], 56)[None]
    expected = np.asarray(jax.jit(model.apply)({"params": params}, x))[0]
    assert expected.shape == (56, 70) and np.ptp(expected) > 0
    # float32 of programs for one and two images, and the 16-bit step
    np.testing.assert_allclose(record["disparity"], expected, atol=3e-5 * np.ptp(expected))


def test_a_mistake_gives_a_message_not_a_traceback(tmp_path):
    done = program(f"--checkpoint={tmp_path}/no.safetensors", "--data=/nowhere", "--out=x")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no folder /nowhere" in done.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path, teacher):
    (tmp_path / "a.png").write_bytes(formats.encode_png(np.zeros((60, 70, 3), np.uint8)))
    out = tmp_path / "a.png" / "labels"
    done = program(f"--checkpoint={teacher[0]}", f"--data={tmp_path}", f"--out={out}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"Not a directory: '{out}" in done.stderr


def test_help_lists_the_flags():
    done = program("--help")
    for name in ("buckets", "checkpoint", "max-depth", "allow-missing"):
        assert f"--{name}" in done.stdout


FLAGS = """
from absl import app
from depth_anything_jax.checkpoints import weight_flags

load, _ = weight_flags.define()
app.run(lambda argv: print(argv[1:], load()))
"""


def test_flags_of_weights_are_taken_with_dashes_too():
    """As tools and error messages write them."""
    expected = "[] {'version': 'v2', 'max_depth': 20.0, 'allow_missing': 'x.*', 'fill': 'zeros'}\n"
    for given in (["--allow-missing=x.*", "--max-depth", "20"], ["--allow_missing", "x.*"]):
        given = [*given, "--max_depth=20", "--model-version=v2", "--fill=zeros"]
        done = subprocess.run([sys.executable, "-c", FLAGS, *given], capture_output=True, text=True)
        assert done.stdout == expected, done.stderr


def test_a_batch_that_does_not_divide_names_the_multiple(tmp_path, teacher):
    with pytest.raises(ValueError, match="batch_size=3 does not divide over 8 devices"):
        pseudo_label.label(teacher[0], Squares(3), tmp_path / "x", batch_size=3, size=56)


def test_bfloat16_labels_say_how_far_they_are(tmp_path, teacher):
    said = []
    pseudo_label.label(
        teacher[0], Squares(2), tmp_path / "out", dtype="bfloat16", size=28, batch_size=8,
        tell=said.append,
    )  # fmt: skip
    (line,) = [s for s in said if s.startswith("bfloat16 against float32")]
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["identity"]["input"]["dtype"] == "bfloat16"
    # bfloat16 has 8 bits: far from the float32 bound, and not rubbish.
    assert 1e-5 < card["residual"]["median"] < 0.1 and card["residual"]["images"] == 2
    assert f"median {card['residual']['median']:.1e}" in line


PROCESS = """
import sys
import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from depth_anything_jax import pseudo_label
from depth_anything_jax.data import registry

source = registry.make({"type": "folder", "path": sys.argv[4]})
summary = pseudo_label.label(sys.argv[3], source, sys.argv[5], size=56, shard_size=3)
print("DONE", summary.images, summary.skipped, summary.invalid)
"""


@pytest.mark.nightly
def test_two_real_processes_share_the_shards(tmp_path, teacher):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(8):
        image = np.random.default_rng(i).integers(0, 256, (60, 60, 3), np.uint8)
        (photos / f"{i}.png").write_bytes(formats.encode_png(image))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(i), teacher[0], photos, tmp_path / "two"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        )
        for i in range(2)
    ]  # fmt: skip
    said = [p.communicate(timeout=300)[0] for p in started]
    assert [p.returncode for p in started] == [0, 0], "\n".join(said)
    # Three shards of 3, 3 and 2: the first process has the first and the last.
    assert "DONE 5 0 0" in said[0] and "DONE 3 0 0" in said[1]
    source = registry.make({"type": "folder", "path": str(photos)})
    assert len(attach(source, str(tmp_path / "two"))) == 8


def on_hosts(teacher, out, processes, images):
    command = ["-m", "depth_anything_jax.pseudo_label", f"--checkpoint={teacher}", f"--out={out}",
               f"--data=scenes:A?count={images}&size=56&labelled=False", "--size=56",
               "--shard_size=1", "--threads=1"]  # fmt: skip
    command += ["--distributed"] if processes > 1 else []
    return several_processes.start(command, processes, JAX_NUM_CPU_DEVICES="1")


@pytest.mark.nightly
def test_a_host_that_is_killed_costs_the_shard_it_was_at(tmp_path, teacher):
    """Process 1 of two is killed; the same command then does the rest, and nothing twice."""
    images = 60
    runs = on_hosts(teacher[0], tmp_path / "two", 2, images)
    with several_processes.no_longer(runs):
        while len(list((tmp_path / "two").glob("labels-*[13579]-of-00060*"))) < 3:
            assert all(run.poll() is None for run in runs)
        runs[1].kill()
        said = several_processes.ended(runs, 120)
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "two").glob("labels-*-of-00060*")}
    assert 3 <= len(done) < images
    assert runs[0].returncode not in (0, -9) and "another task died" in said[0], said[0]
    again = on_hosts(teacher[0], tmp_path / "two", 2, images)
    with several_processes.no_longer(again):
        said = several_processes.ended(again, 300)
    assert [run.returncode for run in again] == [0, 0], "\n".join(said)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    (alone,) = on_hosts(teacher[0], tmp_path / "one", 1, images)
    assert alone.communicate() and alone.returncode == 0
    for shard in (tmp_path / "one").glob("labels-*"):
        assert (tmp_path / "two" / shard.name).read_bytes() == shard.read_bytes()
