"""What the evaluation program can be asked for: pairs, views, switches, comparisons."""

import json
import subprocess
import sys

import numpy as np
import pytest

from depth_anything_jax import evaluate
from depth_anything_jax.checkpoints import pretrained
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.data import transforms
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols import table
from depth_anything_jax.evaluation.report import published, tables
from depth_anything_jax.evaluation.runner import loop, predictors
from depth_anything_jax.evaluation.scores import pairs, relative_improvement
from tests.helpers import benchmark_files

H, W = 48, 64
PROGRAM = [sys.executable, "-m", "depth_anything_jax.evaluate"]


@pytest.fixture
def sets(tmp_path):
    """ScanNet's frames of a slope, DA-2K and DIW; everything is closer to the right."""
    depth = np.tile(np.linspace(4000, 500, W), (H, 1)).astype(np.uint16)
    for i in range(2):
        folder = tmp_path / "scannet/scene0707_00"
        benchmark_files.write_image(folder / f"color/{i}.jpg", H, W)
        benchmark_files.write(folder / f"depth/{i}.png", benchmark_files.png16(depth + 100 * i))
    right = {"point1": [3, 60], "point2": [40, 2], "closer_point": "point1"}
    left = {"point1": [9, 5], "point2": [7, 50], "closer_point": "point2"}
    found = {"images/indoor/a.jpg": [right, left], "images/object/b.jpg": [right]}
    for image in found:
        benchmark_files.write_image(tmp_path / "da2k" / image, H, W)
    benchmark_files.write(tmp_path / "da2k/annotations.json", json.dumps(found))
    benchmark_files.write_image(tmp_path / "diw/DIW_test/a.thumb", H, W)
    benchmark_files.write(
        tmp_path / "diw/DIW_test.csv", f"./DIW_test/a.thumb\n4,3,9,60,>,{W},{H}\n"
    )
    names = ["scannet?partial=True", "da2k", "diw"]
    folders = [str(tmp_path / name.partition("?")[0]) for name in names]
    return names, folders


@pytest.fixture
def metric(monkeypatch):
    """A network of metres that grow to the left, and how often it looked."""
    looks = []

    def predict(images):
        looks.append(len(images))
        width = images.shape[2]
        return np.broadcast_to(np.linspace(4, 0.5, width), images.shape[:3]).astype(np.float32)

    made = predictors.of_network(predict, kind="metric", name="net")
    real = predictors.make
    monkeypatch.setattr(
        predictors, "make", lambda name, **k: made if name == "net" else real(name, **k)
    )
    return looks


SMALL = {"input_size": 28}


def test_a_metric_model_has_moges_four_rows_from_one_look(sets, metric):
    opened = evaluate.open_sets(sets[0][:1], sets[1][:1])
    ((rows, images),) = evaluate.evaluate("net", opened, protocol="moge", changed=SMALL)
    assert [r["view"] for r in rows] == list(protocols.VIEWS["metric"])
    assert len({r["hash"] for r in rows}) == 4 and len(metric) == 2, "one look at each image"
    assert len(images) == 8 and {i["view"] for i in images} == set(protocols.VIEWS["metric"])
    for r in rows:  # each is what the view alone gives
        ((alone, _),) = evaluate.evaluate(
            "net", opened, protocol="moge", changed=SMALL, views=[r["view"]]
        )
        assert {k: v for k, v in alone[0].items() if v == v} == {
            k: v for k, v in r.items() if v == v
        }
    text = tables.table(rows)
    assert "| scored as |" in text and "| disparity-affine | moge@2+input_size=28 " in text
    errors = [r["abs_rel"] for r in rows]
    assert errors[0] > errors[1] > errors[2], (
        "more freedom, less error: the second image is farther"
    )


def test_a_view_may_be_asked_for_and_decides_the_default_protocol(sets, metric):
    opened = evaluate.open_sets(sets[0][:1], sets[1][:1])
    ((rows, _),) = evaluate.evaluate("net", opened, changed=SMALL, views=["disparity-affine"])
    (row,) = rows
    assert (row["kind"], row["view"], row["protocol"]) == (
        "metric", "disparity-affine", "da@1+input_size=28",
    )  # fmt: skip
    expected = protocols.get("da", "disparity-affine", "scannet", "indoor", **SMALL)
    assert row["hash"] == expected.hash
    files = evaluate.evaluate("baseline:gt", opened, kind="depth-affine", views=["metric"])
    with pytest.raises(
        protocols.ProtocolError, match="a depth-affine prediction cannot be scored as metric"
    ):
        next(files)
    with pytest.raises(protocols.ProtocolError, match="zoe@2 does not score depth-scale"):
        next(evaluate.evaluate("net", opened, protocol="zoe", views=["depth-scale"]))


@pytest.mark.parametrize("name", table.TABLE)
def test_views_share_what_the_network_sees(name):
    """One look serves them all: kinds of a protocol differ in the alignment alone."""
    entry = table.TABLE[name]
    of_the_fit = {"alignment", "align_on", "prediction_floor"}
    assert all(switches.keys() <= of_the_fit for switches in entry.kinds.values())
    expected = protocols.VIEWS["metric"] if name == "moge" else ("metric",)
    assert protocols.views(name, "metric") == expected


def test_the_truth_is_perfect_as_every_view(sets):
    opened = evaluate.open_sets(sets[0][:1], sets[1][:1])
    ((rows, _),) = evaluate.evaluate("baseline:gt", opened, kind="metric", protocol="moge")
    assert len(rows) == 4
    for r in rows:
        assert r["abs_rel"] < 1e-6 and r["delta1"] == 1, r["view"]  # float32 labels


def test_sequences_have_views_too(sets, metric):
    opened = evaluate.open_sets(sets[0][:1], sets[1][:1])
    views = ["metric", "disparity-affine"]
    ((rows, _),) = evaluate.evaluate("net", opened, protocol="vda", changed=SMALL, views=views)
    assert [(r["view"], r["aggregate"], r["images"]) for r in rows] == [
        (v, "sequence", 2) for v in views
    ]
    assert rows[0]["abs_rel"] > rows[1]["abs_rel"]


def test_a_choice_of_frames_is_none_of_pairs(sets, metric, tmp_path):
    """DA-2K's scenes are no sequences: all its pairs are scored, as its row's label says."""
    file = tmp_path / "da2k/annotations.json"
    found = json.loads(file.read_text())
    found["images/indoor/c.jpg"] = found["images/indoor/a.jpg"]
    benchmark_files.write_image(tmp_path / "da2k/images/indoor/c.jpg", H, W)
    file.write_text(json.dumps(found))
    opened = evaluate.open_sets(*sets)
    changed = SMALL | {"frames": 1, "frame_step": 3, "aggregate": "sequence"}
    rows = [r for part, _ in evaluate.evaluate("net", opened, changed=changed) for r in part]
    assert [r["images"] for r in rows] == [1, 3, 2, 1, 1]
    assert [r["pairs"] for r in rows[1:3]] == [5, 4]
    assert {r["protocol"] for r in rows[1:]} == {"pairs@1+input_size=28"}


def test_pairs_are_in_the_table_pooled_and_by_scene(sets, metric, tmp_path):
    found = list(
        evaluate.evaluate("net", evaluate.open_sets(*sets), changed=SMALL | {"crop": "nyu-pixels"})
    )
    rows = [r for part, _ in found for r in part]
    images = [i for _, part in found for i in part]
    assert [r["set"] for r in rows] == ["scannet", "da2k", "da2k/indoor", "da2k/object", "diw"]
    da2k, diw = rows[1], rows[4]
    assert (da2k["accuracy"], da2k["pairs"], da2k["ties"], da2k["images"]) == (1, 3, 0, 2)
    assert diw["whdr"] == 0 and np.isnan(diw["accuracy"]) and np.isnan(da2k["abs_rel"])
    assert da2k["protocol"] == "pairs@1+input_size=28", "a crop is nothing to pairs"
    assert da2k["hash"] == diw["hash"] == pairs.Rules(input_size=28).hash
    text = tables.table(rows)
    assert "2, 3 pairs, 0 ties |" in text and "pairs right | WHDR |" in text
    tables.write(tmp_path, rows, images)
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert [i["correct"] for i in saved["images"]] == [0, 0, 2, 1, 1]
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 6
    alone = evaluate.open_sets(["da2k"], [sets[1][1]])
    ((zero, _),) = evaluate.evaluate("baseline:zero", alone)
    assert (zero[0]["accuracy"], zero[0]["ties"]) == (0, 3)
    with pytest.raises(
        ValueError, match="crop changes nothing in pairs of points; .* resize, flip"
    ):
        next(evaluate.evaluate("baseline:zero", alone, changed={"crop": "nyu", "flip": True}))
    with pytest.raises(
        protocols.ProtocolError, match="disparity-affine prediction cannot be scored as metric"
    ):
        next(evaluate.evaluate("baseline:zero", alone, views=["metric"]))


def test_improvement_over_a_named_checkpoint(sets, metric):
    opened = evaluate.open_sets(*sets)
    rows, images = [], []
    options = {"protocol": "midas", "changed": SMALL, "kind": "metric"}
    for name in ("net", "baseline:zero"):
        for part in evaluate.evaluate(name, opened, **options):
            rows += part[0]
            images += part[1]
    (found,) = relative_improvement.rows(rows, images, "baseline:zero")
    assert (found["checkpoint"], found["sets"], found["images"]) == ("net", 3, 5)
    zero, net = (next(r for r in rows if r["checkpoint"] == n) for n in ("baseline:zero", "net"))
    assert found["abs_rel"] == pytest.approx(1 - net["abs_rel"] / zero["abs_rel"])
    assert found["whdr"] == 1 and not found["left_out"]
    assert f"| net | baseline:zero | 3 | 5 | {100 * found['abs_rel']:+.1f} % |" in (
        tables.relative_table([found])
    )


def test_published_numbers_stand_in_the_table(sets, monkeypatch):
    """A released model by its name, or by what the user says it is; other weights not."""

    def knows(record, rules):
        return np.tile(np.arange(W, dtype=float), (H, 1))

    made = predictors.Candidate("x", "disparity-affine", lookup=knows)
    released = made._replace(origin="depth-anything/Depth-Anything-V2-Small")
    opened = evaluate.open_sets(["da2k"], [sets[1][1]])
    for candidate, said, count in (
        (released, None, 3), (made, None, 0), (made, "depth-anything-v2-base", 3),
        (released, "none", 0),
    ):  # fmt: skip
        monkeypatch.setattr(predictors, "make", lambda *a, c=candidate, **k: c)
        ((rows, _),) = evaluate.evaluate("x", opened, published_as=said)
        assert sum(bool(r["published"]) for r in rows) == count
        assert ("published (ours / theirs)" in tables.table(rows)) == bool(count)
        if candidate is released and said is None:
            text = tables.table(rows)
            assert "V2 (arXiv 2406.09414), DA-2K: pairs right 0.953 (1.049)" in text
    with pytest.raises(ValueError, match="no published numbers of 'v2'"):
        next(evaluate.evaluate("x", opened, published_as="v2"))


@pytest.mark.parametrize(
    ("role", "more", "origin"),
    [
        ("weights", {}, "depth_anything_v2_vits"),
        ("initial weights", {}, ""),
        ("weights", {"filled": {"by": "zeros", "tensors": ["a"]}}, ""),
    ],
)
def test_only_imported_weights_that_are_whole_know_their_origin(role, more, origin, monkeypatch):
    chain = [{"role": role, "source": "depth_anything_v2_vits", "licence": "Apache-2.0"}]
    found = Weights(
        {"encoder": {}, "decoder": {}}, "vits", "v2", "relative", None, None, "x", "all",
        {"licence_chain": chain, **more}, input=transforms.OFFICIAL_INPUT,
    )  # fmt: skip
    monkeypatch.setattr(pretrained, "load", lambda source, **_: found)
    assert predictors.make("x").origin == origin
    assert published.model_of(origin) == ("depth-anything-v2-small" if origin else "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--switch=crop=eigen"], "ProtocolError: switch crop='eigen': must be one of none, nyu"),
        (["--size=28", "--switch=input_size=42"], "switch 'input_size' is given twice"),
        (["--relative_to=base"], "ValueError: --relative_to=base is none of the --checkpoint: gt"),
        (["--published=v3"], "ValueError: no published numbers of 'v3'"),
        (["--save_predictions=x", "--checkpoint=b"], "holds one map of each image"),
        (["--published=none", "--published=none"], "2 --published and 1 --checkpoint"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_read(flags, message):
    done = subprocess.run(
        [*PROGRAM, "--checkpoint=gt", "--data=nowhere", *flags], capture_output=True, text=True
    )
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_the_program_from_the_command_line(sets, tmp_path):
    done = subprocess.run(
        [
            *PROGRAM, "--checkpoint=baseline:mean", "--checkpoint=baseline:zero", "--kind=metric",
            f"--dataset={sets[0][0]}", f"--data={sets[1][0]}", "--as=metric", "--as=depth-affine",
            "--protocol=marigold", "--switch=crop=none", "--switch=max_depth=50",
            "--relative_to=baseline:zero", f"--out={tmp_path}/out", "--boundary",
        ], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "marigold@2+crop=none+max_depth=50" in done.stdout and "| mRI |" in done.stdout
    assert "| boundary F1, 1 px | 2 px | 3 px |" in done.stdout
    saved = json.loads((tmp_path / "out/scores.json").read_text())
    # Marigold aligns both views in depth: one hash, one comparison.
    assert len(saved["sets"]) == 4 and saved["relative"][0]["sets"] == 1
    assert {r["hash"] for r in saved["sets"]} == {
        protocols.get("marigold", "metric", "scannet", "indoor", crop="none", max_depth=50).hash
    }
    assert (tmp_path / "out/table.md").read_text().count("| baseline:mean |") == 3


def test_prediction_missing_in_one_view_is_missing_in_all(sets):
    """And the other views' rows say so under their own hash."""
    ((_, source),) = evaluate.open_sets(sets[0][:1], sets[1][:1])
    first = source.key(0)

    def lookup(record, rules):
        return None if record["key"] == first else np.where(record["valid"], record["depth"], 1)

    made = predictors.Candidate("x", "metric", lookup=lookup)
    found = loop.evaluate_views(made, source, views=("metric", "depth-scale"), protocol="moge")
    for view, scores in found.items():
        (missing,) = scores.skipped_images
        expected = protocols.get("moge", view, "scannet", "indoor").hash
        assert (missing.key, missing.protocol) == (first, expected)
