"""The metric demo: both starts differ in nothing else, the table prints what was measured."""

import ast
import dataclasses
import json
import runpy

import numpy as np
import pytest

from depth_anything_jax import configs
from depth_anything_jax.data.camera import Camera
from depth_anything_jax.demo import metric as demo_metric
from depth_anything_jax.demo import stages as demo_stages
from depth_anything_jax.demo.metric import LONG, METRICS, MetricPlan
from depth_anything_jax.evaluation.runner.predictors import of_network
from depth_anything_jax.evaluation.scores import metrics
from depth_anything_jax.training import config_checks


def flags_of(stage):
    return dict(x.removeprefix("--").split("=", 1) for x in stage.command if "=" in x)


@pytest.mark.parametrize("head", ["sigmoid", "bins"])
def test_the_starts_differ_in_nothing_else(head):
    plan = MetricPlan(heads=(head,), seeds=(3,))
    stages = {s.name: s for s in demo_metric.stages(plan)}
    assert set(stages) == {"relative", f"tuned-{head}", f"scratch-{head}"}
    tuned, scratch = stages[f"tuned-{head}"], stages[f"scratch-{head}"]
    assert tuned.after == ("relative-3",) and scratch.after == ()
    a, b = flags_of(tuned), flags_of(scratch)
    differ = {k for k in a | b if a.get(k) != b.get(k)}
    assert differ == {"workdir", "config.init_from", "config.init_parts"}
    assert a["config.init_from"] == stages["relative"].workdir
    assert a["config.init_parts"] == {"sigmoid": "decoder", "bins": "relative"}[head]
    # the encoder from scratch is the one that relative depth began with
    teacher = runpy.run_path(configs.resolve("configs/teacher.py"))["get_config"]("demo")
    assert (b["config.init_from"], b["config.init_parts"]) == (teacher.init_from, "encoder")


def test_nothing_learns_from_the_scenes_that_are_scored():
    for split in ("test", "val"):
        plan = dataclasses.replace(LONG, split=split)
        relative, metric, scored = plan.scene_sets()
        assert len({s.folder for s in (relative, metric, scored)}) == 3
        assert scored.domain == metric.domain and scored.seed != metric.seed
    held = {dataclasses.replace(LONG, split=s).test_set().folder for s in ("test", "val")}
    assert len(held) == 2


def test_the_long_one_has_both_heads_and_three_seeds_in_folders_of_their_own():
    stages = demo_metric.stages(LONG)
    assert len(stages) == 3 * (1 + 2 * 2) == len({s.workdir for s in stages})
    for stage in stages:
        assert flags_of(stage)["config.seed"] == str(stage.seed)
        assert all(f"-{stage.seed}" in x for x in (stage.workdir, *stage.after))


@pytest.mark.parametrize("stage", demo_metric.stages(dataclasses.replace(LONG, seeds=(0,))))
def test_its_fields_are_those_of_the_trainer(stage, tmp_path):
    flags = flags_of(stage)
    file, _, variant = flags["config"].partition(":")
    config = runpy.run_path(configs.resolve(file))["get_config"](variant)
    for name, text in flags.items():
        if name.startswith("config."):
            literal = text[0] in "0123456789("
            value = ast.literal_eval(text) if literal else text
            config.update_from_flattened_dict({name.removeprefix("config."): value})
    config_checks.check(config, config_checks.batch_sizes(config), str(tmp_path))


def test_the_constant_is_the_best_one():
    rng = np.random.default_rng(0)
    depth = (1 / rng.uniform(0.01, 1, (3, 4, 4))).astype(np.float32)  # and beyond the range
    valid = np.ones(depth.shape, bool)
    depth[0, :2], valid[0, :2] = 0, False  # the sky
    scenes = [{"depth": d, "valid": v} for d, v in zip(depth, valid, strict=True)]
    depth = depth[valid & (depth < 20)]
    found = demo_metric.middle_depth(scenes)

    def loss(d):
        return np.mean((np.log(depth) - np.log(d)) ** 2)

    assert all(loss(found) < loss(found * f) for f in (0.99, 1.01))


def fake_scores(plan, shift, n=60):
    """Tuned is better than scratch by `shift` in every metric, up to a little noise."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.8, n)
    offsets = {"constant": 0.4}
    for head in plan.heads:
        offsets |= {f"scratch-{head}": 0.1, f"tuned-{head}": 0.1 - shift}
    out = {}
    for row, offset in offsets.items():
        error = base + offset + 0.02 * rng.standard_normal((len(plan.seeds), n))
        errors = {"abs_rel": error / 2, "rmse": error, "abs_rel_median": error / 4}
        out[row] = errors | {"delta1": 1 - error}
    return out


@pytest.mark.parametrize(
    ("shift", "said"), [(0.05, "better"), (-0.05, "worse"), (0.0, "no effect measured")]
)
def test_the_table_says_what_was_measured_whatever_it_is(shift, said):
    scores = fake_scores(LONG, shift)
    text = demo_metric.table(LONG, scores)
    for head in LONG.heads:
        a, b = scores[f"tuned-{head}"], scores[f"scratch-{head}"]
        row, by_seed = (
            x for x in text.splitlines() if x.startswith("| relative depth first −") and head in x
        )
        assert row.count(said) == len(METRICS)
        interval = metrics.paired_interval(a["rmse"], b["rmse"])
        assert f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}] {said}" in row
        cells = [float(x) for x in by_seed.strip("|").split("|")[1:]]
        np.testing.assert_allclose(cells, (a["abs_rel"] - b["abs_rel"]).mean(1), atol=5.1e-4)
        plain = next(x for x in text.splitlines() if x.startswith(f"| metres from scratch ({head}"))
        cells = [float(x) for x in plain.strip("|").split("|")[1:]]
        np.testing.assert_allclose(cells, [b[m].mean() for m in METRICS], atol=5.1e-4)


class Wall:
    """Scenes of a wall, nearer on the left, with the sky above it."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        depth = np.tile(np.linspace(2, 30, 28, dtype=np.float32), (28, 1))
        valid = np.arange(28)[:, None] > np.zeros(28) + 3
        image = np.full((28, 28, 3), 30 * index, np.uint8)
        camera = Camera(20.0, 30.0, 13.5, 13.5)
        return {"image": image, "depth": depth, "valid": valid, "camera": camera}


def test_the_report_is_one_page_with_one_bar_of_metres(tmp_path, monkeypatch):
    plan = MetricPlan(folder=str(tmp_path / "demo"), size=28)
    (tmp_path / "demo").mkdir()
    monkeypatch.setattr(MetricPlan, "test_set", lambda self: Wall())
    wall = Wall()[0]["depth"]

    def predictors(plan):
        for row, factor in (("constant", 0.0), ("scratch-sigmoid", 0.5), ("tuned-sigmoid", 1.0)):
            candidate = of_network(
                lambda x, f=factor: np.repeat(f * wall[None], len(x), 0), kind="metric"
            )
            if row == "tuned-sigmoid":  # canonical depth at twice the focal length of (20 + 30) / 2
                candidate = of_network(
                    lambda x: np.repeat(2 * wall[None], len(x), 0), kind="metric"
                )._replace(focal=50.0)
            yield row, 0, candidate

    monkeypatch.setattr(demo_metric, "candidates_of", predictors)
    columns, drawn = demo_metric.picture(plan)
    assert columns == ["scene", "scratch-sigmoid", "tuned-sigmoid", "label"]
    tiles = drawn[: 6 * 30].reshape(6, 30, 4, 30, 3)[:, 1:-1, :, 1:-1]
    scene, scratch, tuned, label = tiles[2].swapaxes(0, 1)
    np.testing.assert_array_equal(scene, Wall()[2]["image"])
    counts = Wall()[0]["valid"] & (wall <= demo_metric.RANGE)
    np.testing.assert_array_equal(tuned[counts], label[counts])  # the same metres, the same colour
    assert (label[~counts] == 128).all()  # what does not count is grey
    assert (scratch[counts] != label[counts]).any(-1).mean() > 0.9
    left, right = tuned[10, 1].astype(int), tuned[10, 12].astype(int)
    assert left[0] > left[2] and right[2] > left[2]  # near is red, far is blue
    marks = {k: {"command": [], "seconds": 61.0} for k in ("relative-0", "all")}
    demo_metric.write(plan, fake_scores(plan, 0.05), marks, str(tmp_path / "docs"))
    page = (tmp_path / "demo/report.html").read_text()
    assert page.count("<img src='data:image/png;base64,") == 1 and "src='http" not in page
    assert "better" in page and "1.0 min in total" in page
    assert set(json.loads((tmp_path / "demo/scores.json").read_text())) == set(
        fake_scores(plan, 0.05)
    )
    note = (tmp_path / "docs/demo.md").read_text()
    assert "images/demo.png" in note and (tmp_path / "docs/images/demo.png").exists()


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_the_whole_of_it_in_little(tmp_path, monkeypatch):
    """All programs in earnest, sixty steps each, both heads; a second call runs none again."""
    monkeypatch.chdir(tmp_path)
    plan = MetricPlan(
        folder=str(tmp_path / "demo"), size=28, images=6, metric_images=6, held_out=6,
        relative_steps=60, metric_steps=60, heads=("sigmoid", "bins"),
    )  # fmt: skip
    scores = demo_metric.demo(plan)
    assert list(scores) == [
        "constant", "scratch-sigmoid", "tuned-sigmoid", "scratch-bins", "tuned-bins",
    ]  # fmt: skip
    assert all(np.isfinite(v).all() for row in scores.values() for v in row.values())
    assert (tmp_path / "demo/report.html").exists()
    monkeypatch.setattr(demo_stages, "_start", None)
    again = demo_metric.demo(plan)
    for row in scores:
        np.testing.assert_array_equal(scores[row]["abs_rel"], again[row]["abs_rel"])
