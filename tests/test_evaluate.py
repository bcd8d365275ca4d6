"""The evaluation program on rendered scenes and on a set in its own layout."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax import evaluate, models
from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.report import session, tables
from depth_anything_jax.evaluation.runner import predictors
from depth_anything_jax.evaluation.scores.aggregate import ImageScores
from tests.helpers import benchmark_files

SCENES = "scenes:A?count=2&size=28"
SMALL = {"input_size": 28}


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "model"
    model = models.build("demo")
    params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]
    meta = {"variant": "demo", "version": "v2", "head": "relative", "max_depth": None}
    orbax_io.save_params(folder, jax.tree.map(np.asarray, params), meta)
    return str(folder)


def test_rows_have_the_protocol_that_made_them(weights_folder):
    sets = evaluate.open_sets([], [SCENES])
    ((rows, images),) = evaluate.evaluate(weights_folder, sets, changed=SMALL)
    ((golden, _),) = evaluate.evaluate(weights_folder, sets, changed=SMALL, protocol="golden")
    names = [r[0]["protocol"] for r in (rows, golden)]
    assert rows[0]["images"] == 2 and names == ["da@1+input_size=28", "golden@1+input_size=28"]
    expected = protocols.get("golden", "disparity-affine", input_size=28)
    assert golden[0]["hash"] == expected.hash != rows[0]["hash"]
    assert rows[0]["abs_rel"] == pytest.approx(np.mean([i["abs_rel"] for i in images]))
    line = tables.table(rows).splitlines()[2]
    assert line.startswith(f"| {weights_folder} | {SCENES} | {names[0]} {rows[0]['hash']} | 2 | ")
    assert f" {rows[0]['abs_rel']:.4f} " in line


@pytest.fixture
def scannet(tmp_path):
    """Three frames in ScanNet's layout; the last has no valid pixel."""
    depth = np.random.default_rng(0).uniform(500, 4000, (48, 64)).astype(np.uint16)
    for i in range(3):
        folder = tmp_path / "scannet/scene0707_00"
        benchmark_files.write_image(folder / f"color/{i}.jpg", 96, 128)
        benchmark_files.write(folder / f"depth/{i}.png", benchmark_files.png16(depth * (i < 2)))
    return tmp_path / "scannet"


def test_the_truth_is_perfect_on_an_evaluation_set_and_the_rest_is_told(scannet, tmp_path):
    sets = evaluate.open_sets(["scannet?partial=True"], [str(scannet)])
    ((rows, images),) = evaluate.evaluate("baseline:gt", sets, kind="metric")
    (row,) = rows
    assert (row["set"], row["images"], row["skipped"]) == ("scannet", 2, 1)
    assert row["protocol"] == "zoe@2" and row["abs_rel"] < 1e-6 and row["delta1"] == 1
    assert "2 (+1 skipped)" in tables.table(rows)
    tables.write(session.new_folder(tmp_path / "out"), rows, images)
    saved = json.loads((tmp_path / "out/scores.json").read_text())
    assert [bool(i["why"]) for i in saved["images"]] == [False, False, True]
    assert saved["images"][2]["abs_rel"] is None and saved["sets"][0]["images"] == 2
    lines = (tmp_path / "out/scores.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith(
        "checkpoint,kind,protocol,space,view,reader,set,hash,key"
    )
    assert "scannet" in (tmp_path / "out/table.md").read_text()
    with pytest.raises(ValueError, match="out is not empty"):
        session.new_folder(tmp_path / "out")
    with pytest.raises(ValueError, match="--out=gs://b/scores: the log grows line by line"):
        session.new_folder("gs://b/scores")
    ((few, _),) = evaluate.evaluate("baseline:gt", sets, kind="metric", limit=1)
    assert "| 1; 1 of 3 read |" in tables.table(few)


def test_what_a_mean_does_not_tell_stands_below_the_table():
    known = {"abs_rel": 0.1, "delta1": 0.9, "delta2": 0.95, "rmse": 0.5, "protocol": "abc"}
    images = [
        ImageScores("a", scale=-1.0, **known),
        ImageScores("b", scale=1.0, not_finite=3, **known),
        *(ImageScores(f"c{i}", protocol="abc", why="no prediction") for i in range(4)),
    ]
    about = {"checkpoint": "x", "kind": "metric", "view": "metric", "protocol": "da@1"}
    found = tables.rows(images, about, reader="nyu", split=6, how="image")
    for row in found:
        row |= {"published": [], "not_compared": [], "space": "disparity"}
    text = tables.table(found)
    for line in (
        "- x on nyu: not scored, no prediction: 4 images (c0, c1, c2, …).",
        "- x on nyu: negative scale, the prediction is upside down: 1 images (a).",
        "- x on nyu: predictions that are not finite: 1 images (b).",
        "- da@1: AbsRel and RMSE are of disparity, RMSE in 1/m.",
    ):
        assert line in text.splitlines()
    assert "δ2" not in text  # only beside a published one
    beside = {"title": "T", "values": {"delta2": 0.9}, "ratios": {"delta2": 1.0556}, "notes": []}
    found[0] |= {"published": [beside], "space": "depth"}
    text = tables.table(found)
    assert "| δ2 |" in text and "| 0.9500 |" in text and "T: δ2 0.9 (1.056)" in text
    assert "1/m" not in text


@pytest.mark.parametrize("flag", ["limit", "batch_size", "threads"])
def test_a_negative_number_is_refused(flag):
    done = subprocess.run(
        [sys.executable, "-m", "depth_anything_jax.evaluate", "--checkpoint=baseline:gt",
         "--data=folder:x", f"--{flag}=-1"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode and f"--{flag}=-1" in done.stderr


def test_one_candidate_serves_all_sets(scannet, tmp_path, monkeypatch):
    """Weights are loaded once; files of all sets lie in one folder, also those past a limit."""
    made = []
    make = predictors.make
    monkeypatch.setattr(predictors, "make", lambda *a, **k: made.append(a) or make(*a, **k))
    other = tmp_path / "other"
    shutil.copytree(scannet / "scene0707_00", other / "scene0708_00")
    names = ["scannet?partial=True"] * 2
    sets = evaluate.open_sets(names, [str(scannet), str(other)])
    for _, source in sets:
        for i in range(3):
            depth = np.where(source[i]["valid"], source[i]["depth"], 1)
            file = (tmp_path / "files" / source.key(i)).with_suffix(".npy")
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, depth)
    for limit in (0, 1):
        found = list(
            evaluate.evaluate(f"predictions:{tmp_path}/files", sets, kind="metric", limit=limit)
        )
        assert [rows[0]["images"] for rows, _ in found] == [limit or 2] * 2
        assert all(rows[0]["delta1"] == 1 for rows, _ in found)
    assert len(made) == 2
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    with pytest.raises(ValueError, match="would share a file; name theirs a_png and a_jpg"):
        predictors.make("predictions:" + str(tmp_path), kind="metric", keys=["a.png", "a.jpg"])


def test_sets_and_folders_go_together(scannet):
    with pytest.raises(ValueError, match="2 --dataset and 1 --data: give one folder for each"):
        evaluate.open_sets(["scannet", "nyu"], [str(scannet)])
    with pytest.raises(ValueError, match="unknown evaluation set 'scanet'; did you mean 'scannet'"):
        evaluate.open_sets(["scanet"], [str(scannet)])
    with pytest.raises(ValueError, match="scannet has no option 'partail'"):
        evaluate.open_sets(["scannet?partail=True"], [str(scannet)])


def test_the_program_writes_json_and_names_what_is_missing(weights_folder, tmp_path):
    base = [sys.executable, "-m", "depth_anything_jax.evaluate", "--size=28"]
    good = [f"--checkpoint={weights_folder}", f"--data={SCENES}", f"--out={tmp_path}/out"]
    good += ["--allow-missing=nothing"]
    done = subprocess.run([*base, *good], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "da@1" in done.stdout and "disparity-affine, da@1" in done.stderr
    assert json.loads((tmp_path / "out/scores.json").read_text())["sets"][0]["images"] == 2
    # What comes before an error is printed and kept.
    both = [f"--checkpoint={weights_folder}", f"--checkpoint={tmp_path}/no", f"--data={SCENES}"]
    bad = subprocess.run([*base, *both, f"--out={tmp_path}/two"], capture_output=True, text=True)
    assert bad.returncode == 1 and "Traceback" not in bad.stderr
    assert "FileNotFoundError" in bad.stderr and f"| {weights_folder} |" in bad.stdout
    assert len(json.loads((tmp_path / "two/scores.json").read_text())["sets"]) == 1


def test_a_network_s_saved_predictions_are_scored_like_the_network(weights_folder, tmp_path):
    sets = evaluate.open_sets([], [SCENES])
    ((rows, images),) = evaluate.evaluate(
        weights_folder, sets, changed=SMALL, save_predictions=str(tmp_path)
    )
    ((again, scored),) = evaluate.evaluate(f"predictions:{tmp_path}", sets, changed=SMALL)
    assert again[0]["kind"] == "disparity-affine" and again[0]["abs_rel"] == rows[0]["abs_rel"]
    assert [i["delta1"] for i in scored] == [i["delta1"] for i in images]
    with pytest.raises(ValueError, match="--save_predictions: baseline:gt is no network"):
        next(evaluate.evaluate("baseline:gt", sets, save_predictions=str(tmp_path / "other")))
