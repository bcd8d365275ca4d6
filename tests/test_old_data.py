"""What the programs wrote on 2026-11-30 is still read, and means the same.

tests/fixtures/old_data holds it and what was read from it then; tests/fixtures/make_old_data.py
made it and says how. A test that fails here says that people's old files are lost or misread: read
them as before, instead of making the folder again.
"""

import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from depth_anything_jax import Depth, DepthAnything, configs, models, pseudo_label, train
from depth_anything_jax.checkpoints import orbax_io, pretrained
from depth_anything_jax.data import registry
from depth_anything_jax.data.pseudo_labels import join
from depth_anything_jax.data.sources.base import disparity_of, kind_of
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import checkpoint_backup, logger

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "fixtures" / "old_data"
RECORDED = json.loads((FOLDER / "recorded.json").read_text(encoding="utf-8"))
TINY = {
    "dim": 8, "depth": 4, "heads": 1, "hidden": 32, "features": 4, "out_channels": (4, 4, 4, 4),
    "v2_taps": (0, 1, 2, 3), "grid": 2,
}  # fmt: skip
# float32 sums in another order: other programs of XLA, other devices than the one of then
ROUNDING = 1e-5


@pytest.fixture(scope="module", autouse=True)
def tiny_networks_compiled_quickly():
    """And for one of the eight devices: half a minute less."""
    make = sharding.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda *a: make(*a, devices=jax.devices()[:1]))
        patch.setitem(models.VARIANTS, "tiny", models.Variant(**TINY))
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def inside_a_copy(tmp_path, monkeypatch):
    """Programs were called inside the folder: cards, logs and checkpoints hold relative paths."""
    shutil.copytree(FOLDER, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    monkeypatch.setenv("DEPTH_ANYTHING_CACHE", "")


def summary(values):
    """As recorded of an array: its shape, mean and spread, and seven of its values."""
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    some = values.ravel()[np.linspace(0, values.size - 1, 7).astype(int)]
    return {
        "shape": list(values.shape),
        "unknown": int(values.size - finite.size),
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        "values": [float(v) if np.isfinite(v) else None for v in some],
    }


def facts_of(record):
    """As recorded of an example."""
    found = {k: record[k] for k in ("key", "dataset", "domain") if k in record}
    found["kind"] = kind_of(record)
    found["image"] = summary(record["image"])
    if "camera" in record:
        found["camera"] = np.asarray(record["camera"]).tolist()
    found["disparity"] = summary(disparity_of(record))
    found["shift_known"] = bool(record["shift_known"])
    return found | {name: int(record[name].sum()) for name in ("valid", "sky")}


def examples(source):
    """As recorded of a source."""
    return [{"name": source.key(i)} | facts_of(source[i]) for i in range(len(source))]


def weigh(params):
    """As recorded of parameters, whatever they are called: how many, and their sums."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
    return {
        "count": sum(x.size for x in leaves),
        "sum": float(sum(x.sum() for x in leaves)),
        "absolute": float(sum(np.abs(x).sum() for x in leaves)),
    }


def same(found, recorded, rounding=1e-12):
    """Compares what is read now with what was read then."""
    if isinstance(recorded, dict):
        assert found.keys() == recorded.keys()
        for name in recorded:
            same(found[name], recorded[name], rounding)
    elif isinstance(recorded, list):
        assert len(found) == len(recorded)
        for one, other in zip(found, recorded, strict=True):
            same(one, other, rounding)
    elif isinstance(recorded, float):
        assert found == pytest.approx(recorded, rel=rounding, abs=rounding)
    else:
        assert found == recorded


# Runs


@pytest.mark.parametrize(
    "run", ["runs/student", "runs/sigmoid", pytest.param("mirrors/bins", marks=pytest.mark.nightly)]
)
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(run, capfd):
    told = RECORDED["metrics"][run]
    name, _, variant = told["config"].partition(":")
    config = runpy.run_path(str(configs.folder() / name))["get_config"](variant)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in told["fields"].items()}
    config.update_from_flattened_dict(fields)
    mirrored = run if run.startswith("mirrors") else ""
    workdir = "runs/again" if mirrored else run
    train.train(config, workdir, mirror=mirrored)
    assert f"continues after step 2 of {config.total_steps}" in capfd.readouterr().out
    rows = logger.read_metrics(workdir)
    assert len(rows) == len(told["rows"]) == config.total_steps
    for row, recorded in zip(rows, told["rows"], strict=True):
        # The third step shows what was restored. The fourth shows what the moments made of it:
        # divided by their roots, so that rounding of small gradients counts as much as of large.
        rounding = {3: ROUNDING, 4: 10 * ROUNDING}.get(row["step"], 0)
        same({name: row[name] for name in recorded}, recorded, rounding)


# Weights


@pytest.mark.parametrize("source", RECORDED["networks"])
def test_weights_are_what_they_were_and_predict_the_same(source):
    if source == "runs/bins":
        assert checkpoint_backup.Mirror("mirrors/bins", source).restore(lambda settings: None) == 2
    recorded = RECORDED["networks"][source]
    found = pretrained.load(source)
    names = ("variant", "version", "head", "max_depth", "focal", "licence", "bin_centres")
    assert {n: getattr(found, n) for n in names} == {n: recorded[n] for n in names}
    assert found.input.as_json() == recorded["input"]
    assert found.metadata["licence_chain"] == recorded["licence_chain"]
    same(weigh(found.params), recorded["params"])
    model = DepthAnything.from_pretrained(source)
    size, lens = recorded["input_size"], recorded["intrinsics"]
    depth = model("photos/a.png", input_size=size, intrinsics=lens).depth
    same(summary(depth), recorded["depth"], ROUNDING)


def test_a_run_with_an_average_has_its_last_parameters_too():
    last, _ = orbax_io.load_params("runs/student", ema=False)
    same(weigh(last), RECORDED["not_averaged"])
    average = RECORDED["networks"]["runs/student"]["params"]
    assert abs(average["sum"] - RECORDED["not_averaged"]["sum"]) > 1e-3  # they are not the same


def test_an_export_for_transformers_has_the_weights_of_the_official_layout():
    ours, theirs = (
        pretrained.load(f"weights/{x}") for x in ("teacher.safetensors", "transformers")
    )
    assert jax.tree.structure(ours.params) == jax.tree.structure(theirs.params)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    for name in ("variant", "version", "head", "max_depth", "licence", "input"):
        assert getattr(ours, name) == getattr(theirs, name), name


# Labels


@pytest.mark.parametrize("store", RECORDED["labels"])
def test_pseudo_labels_join_their_images(store):
    recorded = RECORDED["labels"][store]
    source = registry.make({**registry.parse(recorded["images"]), "labels": store})
    assert len(source) == recorded["count"] - len(recorded["without"])
    same(examples(source), recorded["examples"])
    assert join.licences(store) == recorded["licences"]


@pytest.mark.parametrize(
    ("store", "teacher", "options"),
    [
        ("labels/photos", "weights/teacher.safetensors", {"size": 28, "flip": True, "buckets": 2}),
        ("labels/metres", "runs/sigmoid", {}),
    ],
)
def test_a_store_is_known_as_the_same_teachers_of_the_same_images(store, teacher, options):
    recorded = RECORDED["labels"][store]
    before = {p.name: p.read_bytes() for p in pathlib.Path(store).glob("*.array_record")}
    source = registry.make(registry.parse(recorded["images"]))
    done = pseudo_label.label(teacher, source, store, **options)
    assert (done.images, done.skipped) == (0, recorded["count"])
    assert done.invalid == len(recorded["without"])
    assert {p.name: p.read_bytes() for p in pathlib.Path(store).glob("*.array_record")} == before


# Prepared data


@pytest.mark.parametrize("path", RECORDED["prepared"])
def test_prepared_data_hold_the_same_examples(path):
    same(examples(registry.make(registry.parse(f"tfds:{path}"))), RECORDED["prepared"][path])


def test_prepared_data_are_known_as_complete(monkeypatch, capsys):
    command = ["prepare_data.py", "--source=rgbd:pairs/manifest.json?datasets=metres"]
    command += ["--out=prepared", "--name=metres"]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(ROOT / "tools" / "prepare_data.py"), run_name="__main__")
    assert "prepared/metres/1.0.0 is already complete: 4 records" in capsys.readouterr().out


# Predictions and scores

# A program as `python -m` starts it, with the tiny network and the versions of then.
START = """
import ast, importlib.metadata, runpy, sys
import depth_anything_jax
from depth_anything_jax import models

tiny, versions, *sys.argv = sys.argv[1:]
models.VARIANTS["tiny"] = models.Variant(**ast.literal_eval(tiny))
versions, now = ast.literal_eval(versions), importlib.metadata.version
depth_anything_jax.__version__ = versions.pop("version", depth_anything_jax.__version__)
importlib.metadata.version = lambda name: versions.get(name) or now(name)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def start(*arguments, versions=None):
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", START, repr(TINY), repr(versions or {}), *arguments],
        capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
             "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("path", RECORDED["predictions"])
def test_saved_depth_is_read_as_it_was_written(path):
    recorded = RECORDED["predictions"][path]
    silent = path.endswith((".npy", ".pfm"))
    depth = Depth.load(path, kind=recorded["kind"] if silent else None)
    assert (depth.kind, dict(depth.meta)) == (recorded["kind"], recorded["meta"])
    lens = depth.intrinsics
    assert (None if lens is None else list(lens)) == recorded["intrinsics"]
    same(summary(depth.depth), recorded["depth"])


def test_predict_makes_only_what_is_missing():
    out = pathlib.Path("predictions/relative")
    there = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for lost in out.glob("a.*"):
        lost.unlink()
    said = start(
        "depth_anything_jax.predict", "photos/a.png", "photos/sub/c.png", "--size=28",
        "--checkpoint=runs/student", f"--out={out}", "--resume",
        "--format=png16,npy,npz,pfm,exr,color,side-by-side",
    )  # fmt: skip
    assert "1 of 2 are already done" in said and "1 of 1 done" in said
    assert {p for p in out.rglob("*") if p.is_file()} == there.keys()
    for path, data in there.items():
        assert path.name.startswith("a.") or path.read_bytes() == data
    for path, recorded in RECORDED["predictions"].items():
        if path.startswith(str(out)):
            depth = Depth.load(path, kind=recorded["kind"])
            # 16 bits: rounding may fall on the next of 65,535 steps from 0 to about 12
            same(summary(depth.depth), recorded["depth"], 2e-4 if ".png" in path else ROUNDING)


def test_an_evaluation_goes_on_where_it_was_killed():
    """Other versions of the package, of jax and of numpy refuse a log, as their digits may differ:
    these are told those of then, so that this shows whether anything else has changed."""
    recorded = RECORDED["scores"]
    first = json.loads(pathlib.Path("scores/log.jsonl").read_text().splitlines()[0])["run"]
    versions = {name: first[name] for name in ("version", "jax", "numpy")}
    start(*recorded["command"], "--out=scores", "--resume", versions=versions)
    found = json.loads(pathlib.Path("scores/scores.json").read_text())
    assert [s["scored_before"] for s in found["speed"]] == [2]
    for part in ("images", "sets"):
        assert len(found[part]) == len(recorded[part])
        for row, old in zip(found[part], recorded[part], strict=True):
            taken_over = part == "images" and row["key"] in ("0.png", "1.png")
            same({name: row[name] for name in old}, old, 0 if taken_over else 10 * ROUNDING)
