"""Labelling a source: exact shapes, shards that survive kills, SPMD, the program itself."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax import (
    checkpoint,
    inference,
    labelling,
    licences,
    models,
    pseudo_label,
    state,
)
from depth_anything_jax.data import formats, labels, pipeline, sources, transforms
from depth_anything_jax.data.label_record import LabelError
from depth_anything_jax.data.label_store import LabelStore
from tests.test_labels import Photos

SIZE = 28
TEACHER = {"fingerprint": "abc", "variant": "demo"}
TINY = models.Variant(16, 4, 1, 32, 8, (8, 8, 8, 8), (0, 1, 2, 3), grid=2)


class Network:
    """A stand-in for a teacher: each pixel's brightness; remembers its batches."""

    def __init__(self, stop_after=None):
        self.batches, self.stop_after = [], stop_after

    def __call__(self, images):
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(images.copy())
        return images.mean(-1)


def run(predict, source, out, **options):
    options = {"size": SIZE, "batch_size": 2, "shard_size": 4, "tell": lambda s: None} | options
    return labelling.label_source(predict, source, out, teacher=TEACHER, **options)


def exact(source, i):
    return transforms.network_input(source[i]["image"], SIZE).mean(-1)


def files(folder):
    return {p.name: p.read_bytes() for p in folder.glob("labels-*")}


# What is labelled, and how


def test_every_image_is_labelled_at_its_exact_official_shape(tmp_path):
    source, network = Photos(10), Network()
    summary = run(network, source, tmp_path / "out")
    store = LabelStore(tmp_path / "out")
    for i in range(10):
        # 16 bits of a range below 6.
        np.testing.assert_allclose(
            store.read(i, source.key(i)).disparity, exact(source, i), atol=5e-5
        )
    assert {b.shape[1:3] for b in network.batches} == {(28, 42), (42, 28), (28, 28)}
    assert all(len(b) == 2 for b in network.batches), "one program for each shape"
    assert summary.images == 10 and summary.programs == 3 and summary.invalid == 0
    assert summary.padding == 2 * len(network.batches) - 10
    assert (tmp_path / "out" / "contact.png").stat().st_size > 1000


def test_the_card_says_what_by_whom_and_how(tmp_path):
    source = Photos(10)
    run(Network(), source, tmp_path / "out", notes={"licence": "MIT"}, dtype="bfloat16")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["complete"] is True and card["licence"] == "MIT"
    assert card["identity"]["teacher"] == TEACHER
    assert card["identity"]["source"]["count"] == 10
    assert card["identity"]["input"] == {
        "size": SIZE, "flip": False, "buckets": [], "dtype": "bfloat16",
    }  # fmt: skip
    assert [s["count"] for s in card["shards"]] == [4, 4, 2]
    assert card["images_per_second"] > 0 and re.match(r"\d+\.\d+", card["version"])


def test_flip_averages_with_the_mirrored_label(tmp_path):
    def lopsided(images):
        return images.mean(-1) * np.linspace(0, 1, images.shape[2])

    source = Photos(4)
    run(lopsided, source, tmp_path / "out", flip=True)
    store = LabelStore(tmp_path / "out")
    for i in range(4):
        expected = exact(source, i) * 0.5  # x w and x (1 - w), averaged
        np.testing.assert_allclose(store.read(i, source.key(i)).disparity, expected, atol=5e-5)


def test_no_label_depends_on_the_batch_it_was_in(tmp_path):
    source = Photos(9)
    run(Network(), source, tmp_path / "one", batch_size=1, shard_size=9)
    run(Network(), source, tmp_path / "four", batch_size=4, shard_size=2, threads=5)
    one, four = LabelStore(tmp_path / "one"), LabelStore(tmp_path / "four")
    for i in range(9):
        key = source.key(i)
        assert (one.read(i, key).disparity == four.read(i, key).disparity).all()


def test_a_bound_on_waiting_images_runs_the_largest_group_early():
    sizes = [14, 28, 42, 14, 56, 70]
    inputs = (inference.Input(i, np.full((s, 14, 3), s, np.float32)) for i, s in enumerate(sizes))
    network, stats = Network(), inference.Stats()
    outputs = list(inference.predict_all(network, inputs, batch_size=3, stats=stats, max_waiting=3))
    assert sorted(o.tag for o in outputs) == list(range(6))
    assert all((o.disparity == sizes[o.tag]).all() for o in outputs)
    assert network.batches[0].shape == (3, 14, 14, 3) and stats.images == 6


# Kills, changes, broken things


def test_a_stopped_run_continues_without_redoing_or_losing_a_shard(tmp_path):
    source = Photos(10)
    run(Network(), source, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(Network(stop_after=4), source, tmp_path / "out")
    before = files(tmp_path / "out")
    assert 0 < len(before) < 3
    with pytest.raises(LabelError, match="interrupted"):
        LabelStore(tmp_path / "out")
    network = Network()
    summary = run(network, source, tmp_path / "out")
    assert summary.skipped == 4 * len(before) and summary.images == 10 - summary.skipped
    seen = {b.tobytes() for batch in network.batches for b in batch}
    done = [transforms.network_input(source[i]["image"], SIZE) for i in range(summary.skipped)]
    assert not any(d.tobytes() in seen for d in done)
    assert files(tmp_path / "out") == files(tmp_path / "straight")
    again = Network()
    assert run(again, source, tmp_path / "out").images == 0 and not again.batches


KILLED = """
import os, signal, sys
import numpy as np
from depth_anything_jax import labelling
from tests.test_labels import Photos

calls = 0

def predict(images):
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return images.mean(-1)

labelling.label_source(predict, Photos(10), sys.argv[1], teacher={"fingerprint": "abc",
    "variant": "demo"}, size=28, batch_size=2, shard_size=4)
"""


def test_a_killed_process_leaves_whole_shards_only(tmp_path):
    source, out = Photos(10), tmp_path / "out"
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(out)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": here},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert list(files(out)) == ["labels-00000-of-00003.array_record"]
    summary = run(Network(), source, out)
    assert (summary.skipped, summary.images) == (4, 6)
    run(Network(), source, tmp_path / "straight")
    assert files(out) == files(tmp_path / "straight")


def test_a_shard_that_a_full_disk_cut_short_is_made_again(tmp_path):
    source, out = Photos(10), tmp_path / "out"
    run(Network(), source, out)
    whole = files(out)
    torn = out / "labels-00001-of-00003.array_record"
    torn.write_bytes(torn.read_bytes()[:500])
    assert run(Network(), source, out).images == 4
    assert files(out) == whole


@pytest.mark.parametrize(
    "change, message",
    [
        ({"source": Photos(11)}, r"source\.count: 10 there, 11 now"),
        ({"source": Photos(10, prefix="q")}, r"source\.keys_sha256: "),
        ({"teacher": TEACHER | {"fingerprint": "x"}}, "teacher.fingerprint: 'abc' there, 'x' now"),
        ({"size": 42}, r"input\.size: 28 there, 42 now"),
        ({"flip": True}, r"input\.flip: False there, True now"),
        ({"dtype": "bfloat16"}, r"input\.dtype: 'float32' there, 'bfloat16' now"),
        ({"shard_size": 5}, r"shard_size: 4 there, 5 now"),
        ({"buckets": 1}, r"input\.buckets: \[\] there"),
    ],
)
def test_another_source_teacher_or_setting_is_refused(tmp_path, change, message):
    options = {
        "source": Photos(10), "teacher": TEACHER, "size": SIZE, "batch_size": 2, "shard_size": 4,
        "tell": lambda s: None,
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        labelling.label_source(Network(stop_after=3), out=tmp_path / "out", **options)
    before = files(tmp_path / "out")
    network = Network()
    with pytest.raises(LabelError, match=message):
        labelling.label_source(network, out=tmp_path / "out", **(options | change))
    assert not network.batches and files(tmp_path / "out") == before


class Torn(Photos):
    """Number 3 cannot be decoded."""

    def __getitem__(self, index):
        if index == 3:
            raise formats.FormatError("p/3.jpg: truncated image")
        return super().__getitem__(index)


def test_a_broken_image_is_told_counted_and_keeps_its_place(tmp_path):
    said = []
    summary = run(Network(), Torn(10), tmp_path / "out", tell=said.append)
    assert summary.invalid == 1 and summary.images == 9
    assert any("cannot label p/3.jpg: FormatError: p/3.jpg: truncated" in s for s in said)
    store = LabelStore(tmp_path / "out")
    assert list(store.invalid) == ["p/3.jpg"]
    np.testing.assert_allclose(store.read(4, "p/4.jpg").disparity, exact(Photos(10), 4), atol=5e-5)
    assert len(labels.with_labels(Torn(10), store)) == 9
    # A second call knows of it without labelling anything.
    assert run(Network(), Torn(10), tmp_path / "out").invalid == 1


def test_a_teacher_that_gives_nan_is_told_by_image(tmp_path):
    def sick(images):
        out = images.mean(-1)
        out[:, 0, 0] = np.nan
        return np.full_like(out, np.nan) if images.shape[1] == 42 else out

    said = []
    summary = run(sick, Photos(6), tmp_path / "out", tell=said.append)
    assert summary.invalid == 2 and any("p/1.jpg: the teacher gave no finite" in s for s in said)
    label = LabelStore(tmp_path / "out").read(0, "p/0.jpg")
    assert not label.valid[0, 0] and label.valid.sum() == label.valid.size - 1


def test_a_failing_network_names_the_shape():
    def failing(images):
        raise RuntimeError("RESOURCE_EXHAUSTED")

    inputs = [inference.Input(0, np.zeros((14, 280, 3), np.float32))]
    with pytest.raises(RuntimeError, match="batch of 2 images of 14x280: RESOURCE_EXHAUSTED"):
        list(inference.predict_all(failing, inputs, batch_size=2))


def test_a_network_with_another_output_shape_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="made"):
        run(lambda images: images.mean(-1)[:, 1:], Photos(2), tmp_path / "out")


def test_bad_sizes(tmp_path):
    with pytest.raises(ValueError, match="size=500 is no multiple of 14; use 504"):
        run(Network(), Photos(2), tmp_path / "out", size=500)
    with pytest.raises(ValueError, match="batch_size=0"):
        run(Network(), Photos(2), tmp_path / "out", batch_size=0)


def test_progress_has_rate_programs_and_time_to_go(tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "_PROGRESS_SECONDS", 0)
    said = []
    run(Network(), Photos(6), tmp_path / "out", tell=said.append)
    lines = [s for s in said if s.startswith("labelled")]
    assert re.fullmatch(r"labelled 6/6 100%  \d+\.\d\d images/s  3 programs  ETA 0 s", lines[-1])
    assert len(lines) == 6


def test_two_processes_label_shards_of_their_own(tmp_path):
    source, barrier = Photos(10), threading.Barrier(2)
    run(Network(), source, tmp_path / "one")
    networks, found = [Network(), Network()], [None, None]

    def process(index):
        found[index] = run(
            networks[index], source, tmp_path / "two", process_index=index, process_count=2,
            barrier=lambda name: barrier.wait(30),
        )  # fmt: skip

    threads = [threading.Thread(target=process, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [s.images for s in found] == [6, 4], "shards 0 and 2, and shard 1"
    assert files(tmp_path / "two") == files(tmp_path / "one")


# Buckets


def brute_force(lengths, k):
    from itertools import combinations

    lengths = np.array(lengths)
    distinct = np.unique(lengths)
    costs = [
        np.abs(np.log(lengths[:, None] / np.array(c))).min(1).sum()
        for c in combinations(distinct, min(k, len(distinct)))
    ]
    return min(costs)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_buckets_are_the_best_possible(k):
    rng = np.random.default_rng(k)
    for _ in range(10):
        lengths = 14 * rng.integers(37, 60, 40)
        found = labelling.choose_buckets([(518, int(n)) for n in lengths], k)
        assert len(found) <= k and all(n % 14 == 0 for n in found)
        cost = np.abs(np.log(lengths[:, None] / np.array(found))).min(1).sum()
        assert cost == pytest.approx(brute_force(lengths, k), rel=1e-12)


def test_a_bucket_for_each_length_changes_nothing():
    shapes = [(518, 686), (686, 518), (518, 518), (518, 924)]
    found = labelling.choose_buckets(shapes, 8)
    assert found == [518, 686, 924]
    for h, w in [(480, 640), (640, 480), (500, 500), (1080, 1920)]:
        official = transforms.network_size(h, w)
        assert labelling.label_shape(h, w, 518, found) == official


def test_buckets_snap_the_longer_side_only():
    assert labelling.label_shape(480, 640, 518, [518, 700]) == (518, 700)
    assert labelling.label_shape(640, 480, 518, [518, 700]) == (700, 518)
    assert labelling.label_shape(480, 1000, 518, [518, 700]) == (518, 700)


def test_bucketed_labels_are_resized_not_padded(tmp_path):
    source, network = Photos(10), Network()
    run(network, source, tmp_path / "out", buckets=1)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    (bucket,) = card["identity"]["input"]["buckets"]
    assert {b.shape[1:3] for b in network.batches} == {(28, bucket), (bucket, 28)}
    store = LabelStore(tmp_path / "out")
    shape = labelling.label_shape(33, 33, SIZE, [bucket])
    whole = transforms.normalise(transforms.resize_image(source[2]["image"], *shape))
    np.testing.assert_allclose(store.read(2, "p/2.jpg").disparity, whole.mean(-1), atol=5e-5)
    # The student sees its own shape, and the label follows.
    record = labels.with_labels(source, store)[2]
    example = transforms.apply_geometry(record, transforms.centre_geometry(33, 33, SIZE), SIZE)
    assert example["disparity"].shape == example["image"].shape[:2] == (28, 28)


# Devices, and the online teacher


class Convolution:
    """A model as small as can be: one 3x3 convolution."""

    class decoder:
        head = "relative"

    def apply(self, variables, images):
        kernel = variables["params"]["kernel"]
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[..., 0]


class MetricConvolution(Convolution):
    class decoder:
        head = "metric"

    def apply(self, variables, images):
        return 20 * jax.nn.sigmoid(super().apply(variables, images) - 3)


KERNEL = {"kernel": np.random.default_rng(0).normal(0, 1, (3, 3, 3, 1)).astype(np.float32)}


def test_eight_devices_label_like_one(tmp_path):
    source = Photos(9)
    for name, devices in (("one", jax.devices()[:1]), ("eight", jax.devices())):
        predict = inference.Predictor(Convolution(), KERNEL, devices=devices)
        run(predict, source, tmp_path / name, batch_size=8)
    one, eight = LabelStore(tmp_path / "one"), LabelStore(tmp_path / "eight")
    for i in range(9):
        a, b = (s.read(i, source.key(i)).disparity for s in (one, eight))
        assert np.ptp(a) > 1
        # float32 sums in another order, and one 16-bit step of each label's range.
        assert np.abs(a - b).max() <= 2e-5 * np.ptp(a)


def test_the_batch_lies_on_all_devices():
    predict = inference.Predictor(Convolution(), KERNEL)
    out = predict(np.zeros((16, 14, 14, 3), np.float32))
    assert [s.data.shape for s in out.addressable_shards] == [(2, 14, 14)] * 8
    with pytest.raises(ValueError, match="batch of 3 does not divide over 8 devices"):
        predict(np.zeros((3, 14, 14, 3), np.float32))


def test_a_metric_teacher_gives_disparity():
    model = MetricConvolution()
    images = np.random.default_rng(0).normal(0, 1, (1, SIZE, SIZE, 3)).astype(np.float32)
    depth = np.asarray(model.apply({"params": KERNEL}, images))
    assert depth.min() < 1e-3 < 1 < depth.max(), "both sides of the floor"
    predict = inference.Predictor(model, KERNEL, devices=jax.devices()[:1])
    # float32, one program against separate operations
    np.testing.assert_allclose(predict(images), 1 / np.maximum(depth, 1e-3), rtol=1e-4)


def test_predictors_of_one_model_share_their_program():
    model = Convolution()
    images = np.random.default_rng(0).normal(0, 1, (8, 14, 14, 3)).astype(np.float32)
    first = inference.Predictor(model, KERNEL)
    second = inference.Predictor(model, {"kernel": 2 * KERNEL["kernel"]})
    np.testing.assert_allclose(second(images), 2 * np.asarray(first(images)), rtol=1e-6)  # float32
    assert first._run is second._run and first._run._cache_size() == 1
    # Linen modules are told apart by their fields, not by who built them.
    a, b, c = (models.build(TINY, scan=scan) for scan in (True, True, False))
    programs = [inference.Predictor(m, KERNEL)._run for m in (a, b, c)]
    assert programs[0] is programs[1] is not programs[2]


class Squares(Photos):
    """Images whose whole is one training crop: record and online teacher see the same input."""

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 256, (45, 45, 3), np.uint8)
        return {"key": self.key(index), "image": image}


def random_params(model, size):
    """Parameters of the right shapes (the initialiser takes longer to compile than the rest)."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))

    def draw(x):
        fan_in = max(1, int(np.prod(x.shape[:-1])))
        return jnp.asarray(rng.standard_normal(x.shape) * (2 / fan_in) ** 0.5 + 0.1, x.dtype)

    return jax.tree.map(draw, shapes["params"])


def test_records_and_online_teacher_meet_on_identical_input(tmp_path, monkeypatch):
    """To 2e-5 of the label's range, of which the 16-bit step is .8e-5 (the rest is float32)."""
    model = models.build(TINY, scan=False)
    params = random_params(model, SIZE)
    source, batch = Squares(4), 2
    run(inference.Predictor(model, params, devices=jax.devices()[:1]), source, tmp_path / "out")
    monkeypatch.setitem(sources.TYPES, "squares", lambda labelled=None: source)
    # A flip is not part of the identical input.
    centre = transforms.centre_geometry(45, 45, SIZE)
    monkeypatch.setattr(transforms, "draw_geometry", lambda *args, **kwargs: centre)
    config = {"unlabelled": {"type": "squares", "labels": {"path": str(tmp_path / "out")}}}
    online = jax.jit(lambda images: state.label_online(model, params, {"image": images}, 1))
    with pipeline.train_batches(
        config, labelled_batch=0, unlabelled_batch=batch, size=SIZE, seed=0
    ) as batches:
        for _ in range(4):
            seen = next(batches)["unlabelled"]
            record = seen["disparity"]
            there = np.asarray(online(seen["image"])["disparity"])
            spread = np.ptp(record, axis=(1, 2))
            assert (spread > 0).all() and seen["valid"].all()
            error = np.abs(record - there).max((1, 2)) / spread
            assert (error <= 2e-5).all(), error


# The program


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A checkpoint of the demo's model with random weights: its path, model and parameters."""
    path = tmp_path_factory.mktemp("teacher") / "run"
    model = models.build("demo", scan=False)
    params = random_params(model, 112)
    described = {"variant": "demo", "version": "v2", "head": "relative", "max_depth": None}
    checkpoint.save_params(path, params, {"model": described, **described, "licence": "MIT"})
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
        "--batch_size=2", "--shard_size=4",
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert "cannot label 2.png" in done.stdout
    assert re.search(r"5 images labelled in .* images/s.*1 compiled programs", done.stdout)
    assert "1 of 6 have no label" in done.stdout
    card = json.loads((out / "card.json").read_text())
    assert list(card["invalid"]) == ["2.png"] and card["data"] == str(photos)
    assert card["licence"] == licences.combined(card["licence_chain"])
    assert card["licence_chain"][-1]["source"] == teacher[0]
    joined = labels.attach(sources.make({"type": "folder", "path": str(photos)}), str(out))
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


def test_help_lists_the_flags():
    done = program("--help")
    assert "--buckets" in done.stdout and "--checkpoint" in done.stdout


def test_a_batch_that_does_not_divide_names_the_multiple(tmp_path, teacher):
    with pytest.raises(ValueError, match="batch_size=3 does not divide over 8 devices"):
        pseudo_label.label(teacher[0], Squares(3), tmp_path / "x", batch_size=3, size=56)


def test_fingerprints_tell_teachers_apart():
    params = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.zeros((2, 3))}}
    same = {"b": {"c": np.zeros((2, 3))}, "a": jnp.arange(6, dtype=jnp.float32)}
    assert labelling.fingerprint(params) == labelling.fingerprint(same)
    for other in (
        {**params, "a": params["a"] + 1e-6},
        {**params, "a": params["a"].astype(np.float64)},
        {**params, "b": {"c": np.zeros((3, 2))}},
        {**params, "b": {"d": np.zeros((2, 3))}},
    ):
        assert labelling.fingerprint(params) != labelling.fingerprint(other)


PROCESS = """
import sys
import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from depth_anything_jax import pseudo_label
from depth_anything_jax.data import sources

source = sources.make({"type": "folder", "path": sys.argv[4]})
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
    source = sources.make({"type": "folder", "path": str(photos)})
    assert len(labels.attach(source, str(tmp_path / "two"))) == 8
