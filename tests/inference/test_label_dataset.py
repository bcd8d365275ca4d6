"""Labelling a source: exact shapes, shards that survive kills, buckets."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from depth_anything_jax.data import buckets, transforms
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.pseudo_labels import join
from depth_anything_jax.data.pseudo_labels.label_codec import LabelError
from depth_anything_jax.data.pseudo_labels.label_store import LabelStore
from depth_anything_jax.inference import label_dataset, predictor
from depth_anything_jax.utils.encoders import DINOV2
from depth_anything_jax.utils.param_paths import fingerprint
from tests.helpers.labelling import SIZE, TEACHER, run
from tests.helpers.photos import Photos


class Network:
    """A stand-in for a teacher: each pixel's brightness; remembers its batches."""

    def __init__(self, stop_after=None):
        self.batches, self.stop_after = [], stop_after

    def __call__(self, images):
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(images.copy())
        return images.mean(-1)


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
        np.testing.assert_allclose(store.read(i, source.key(i)).values, exact(source, i), atol=5e-5)
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
        np.testing.assert_allclose(store.read(i, source.key(i)).values, expected, atol=5e-5)


def test_no_label_depends_on_the_batch_it_was_in(tmp_path):
    source = Photos(9)
    run(Network(), source, tmp_path / "one", batch_size=1, shard_size=9)
    run(Network(), source, tmp_path / "four", batch_size=4, shard_size=2, threads=5)
    one, four = LabelStore(tmp_path / "one"), LabelStore(tmp_path / "four")
    for i in range(9):
        key = source.key(i)
        assert (one.read(i, key).values == four.read(i, key).values).all()


def test_a_bound_on_waiting_images_runs_the_largest_group_early():
    sizes = [14, 28, 42, 14, 56, 70]
    inputs = (predictor.Input(i, np.full((s, 14, 3), s, np.float32)) for i, s in enumerate(sizes))
    network, stats = Network(), predictor.Stats()
    outputs = list(predictor.predict_all(network, inputs, batch_size=3, stats=stats, max_waiting=3))
    assert sorted(o.tag for o in outputs) == list(range(6))
    assert all((o.map == sizes[o.tag]).all() for o in outputs)
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
from depth_anything_jax.inference import label_dataset
from tests.helpers.photos import Photos

calls = 0

def predict(images):
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return images.mean(-1)

label_dataset.label_source(predict, Photos(10), sys.argv[1], teacher={"fingerprint": "abc",
    "variant": "demo"}, size=28, batch_size=2, shard_size=4)
"""


def test_a_killed_process_leaves_whole_shards_only(tmp_path):
    source, out = Photos(10), tmp_path / "out"
    here = str(pathlib.Path(__file__).resolve().parents[2])
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


def test_killed_before_or_after_any_file_appears_the_store_ends_the_same(tmp_path, monkeypatch):
    """A file is written aside and renamed; contact.png, which nobody reads back, is written."""

    class Killed(BaseException):
        pass

    source, path = Torn(10), type(epath.Path(tmp_path))
    run(Network(), source, tmp_path / "straight")

    def everything(folder):
        found = {p.name: p.read_bytes() for p in folder.iterdir()}
        card = json.loads(found.pop("card.json"))
        of_the_run_that_finished_it = ("images_per_second", "programs")
        return found, {k: v for k, v in card.items() if k not in of_the_run_that_finished_it}

    def killed_at(count, when, out):
        calls = 0
        with monkeypatch.context() as patch:
            for name, act in (("replace", path.replace), ("write_bytes", path.write_bytes)):

                def deadly(self, *args, act=act):
                    nonlocal calls
                    calls += 1
                    if (calls, when) == (count, "before"):
                        raise Killed
                    done = act(self, *args)
                    if (calls, when) == (count, "after"):
                        raise Killed
                    return done

                patch.setattr(path, name, deadly)
            try:
                run(Network(), source, out)
            except Killed:
                return True
        return False

    for when in ("before", "after"):
        for count in range(1, 20):
            out = tmp_path / f"{when}{count}"
            if not killed_at(count, when, out):
                break
            run(Network(), source, out)
            assert everything(out) == everything(tmp_path / "straight"), (when, count)
        assert count == 8  # the card twice, three shards, one list of failures, the contact sheet


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
        label_dataset.label_source(Network(stop_after=3), out=tmp_path / "out", **options)
    before = files(tmp_path / "out")
    network = Network()
    with pytest.raises(LabelError, match=message):
        label_dataset.label_source(network, out=tmp_path / "out", **(options | change))
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
    np.testing.assert_allclose(store.read(4, "p/4.jpg").values, exact(Photos(10), 4), atol=5e-5)
    assert len(join.with_labels(Torn(10), store)) == 9
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

    inputs = [predictor.Input(0, np.zeros((14, 280, 3), np.float32))]
    with pytest.raises(RuntimeError, match="batch of 2 images of 14x280: RESOURCE_EXHAUSTED"):
        list(predictor.predict_all(failing, inputs, batch_size=2))


def test_a_network_with_another_output_shape_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="made"):
        run(lambda images: images.mean(-1)[:, 1:], Photos(2), tmp_path / "out")


def test_bad_sizes(tmp_path):
    with pytest.raises(ValueError, match="size=500 is no multiple of 14; use 504"):
        run(Network(), Photos(2), tmp_path / "out", size=500)
    with pytest.raises(ValueError, match="batch_size=0"):
        run(Network(), Photos(2), tmp_path / "out", batch_size=0)


def test_progress_has_rate_programs_and_time_to_go(tmp_path, monkeypatch):
    monkeypatch.setattr(label_dataset, "_PROGRESS_SECONDS", 0)
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
        found = buckets.choose([(518, int(n)) for n in lengths], k)
        assert len(found) <= k and all(n % 14 == 0 for n in found)
        cost = np.abs(np.log(lengths[:, None] / np.array(found))).min(1).sum()
        assert cost == pytest.approx(brute_force(lengths, k), rel=1e-12)


def test_a_bucket_for_each_length_changes_nothing():
    shapes = [(518, 686), (686, 518), (518, 518), (518, 924)]
    found = buckets.choose(shapes, 8)
    assert found == [518, 686, 924]
    for h, w in [(480, 640), (640, 480), (500, 500), (1080, 1920)]:
        official = transforms.network_size(h, w, patch_size=14)
        assert buckets.label_shape(h, w, 518, found, patch_size=14) == official


def test_buckets_snap_the_longer_side_only():
    assert buckets.label_shape(480, 640, 518, [518, 700], patch_size=14) == (518, 700)
    assert buckets.label_shape(640, 480, 518, [518, 700], patch_size=14) == (700, 518)
    assert buckets.label_shape(480, 1000, 518, [518, 700], patch_size=14) == (518, 700)


def test_bucketed_labels_are_resized_not_padded(tmp_path):
    source, network = Photos(10), Network()
    run(network, source, tmp_path / "out", buckets=1)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    (bucket,) = card["identity"]["input"]["buckets"]
    assert {b.shape[1:3] for b in network.batches} == {(28, bucket), (bucket, 28)}
    store = LabelStore(tmp_path / "out")
    shape = buckets.label_shape(33, 33, SIZE, [bucket], patch_size=14)
    whole = DINOV2.normalise(transforms.resize_image(source[2]["image"], *shape))
    np.testing.assert_allclose(store.read(2, "p/2.jpg").values, whole.mean(-1), atol=5e-5)
    # The student sees its own shape, and the label follows.
    record = join.with_labels(source, store)[2]
    example = transforms.apply_geometry(
        record, transforms.centre_geometry(33, 33, SIZE, patch_size=14), SIZE
    )
    assert example["disparity"].shape == example["image"].shape[:2] == (28, 28)


def test_the_residual_of_a_lower_precision_is_measured_in_the_labels_range():
    def low(images):
        out = images.mean(-1)
        out[1, 3, 4] += 0.5 * np.ptp(out[1])
        return out

    source = Torn(8)  # 1, 4 and 7 are of another shape than 0, and 3 is broken
    found = label_dataset.residual(low, Network(), source, size=SIZE, batch_size=2)
    assert found == {"images": 2, "median": 0, "worst": pytest.approx(0.5)}
    found = label_dataset.residual(
        lambda x: x.mean(-1) * 1.01, Network(), source, size=SIZE, batch_size=3
    )
    assert found["images"] == 2 and 0 < found["median"] < found["worst"] < 0.05


def test_fingerprints_tell_teachers_apart():
    params = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.zeros((2, 3))}}
    same = {"b": {"c": np.zeros((2, 3))}, "a": jnp.arange(6, dtype=jnp.float32)}
    assert fingerprint(params) == fingerprint(same)
    for other in (
        {**params, "a": params["a"] + 1e-6},
        {**params, "a": params["a"].astype(np.float64)},
        {**params, "b": {"c": np.zeros((3, 2))}},
        {**params, "b": {"d": np.zeros((2, 3))}},
    ):
        assert fingerprint(params) != fingerprint(other)
