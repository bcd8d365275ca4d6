"""Scores during training: what is checked before the first step, and scores that fail."""

import types

import cv2
import numpy as np
import pytest

from depth_anything_jax.checkpoints.bundle import ModelBundle
from depth_anything_jax.data import transforms
from depth_anything_jax.evaluation.runner import predictors
from depth_anything_jax.training import metrics_buffer, monitor
from tests.helpers.tiny_runs import shipped


def student(metric):
    head, max_depth = ("sigmoid", 20.0) if metric else ("relative", None)
    return ModelBundle(
        params={}, variant="demo", version="v2", head=head, max_depth=max_depth, licence=None,
        source="", parts="all", metadata={}, input=transforms.OFFICIAL_INPUT, network=None,
    )  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Folders of labels beside four images."""
    rng = np.random.default_rng(0)
    depth = np.linspace(1000, 5000, 40 * 50).reshape(40, 50)
    maps = {"depth": depth, "empty": depth * 0, "disparity": 250_000 / depth}
    for name in ("rgb", *maps):
        (tmp_path / name).mkdir()
    for i in range(4):
        cv2.imwrite(
            str(tmp_path / f"rgb/{i}.png"), rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
        )
        for name, values in maps.items():
            cv2.imwrite(str(tmp_path / f"{name}/{i}.png"), values.astype(np.uint16))
    return {
        name: f"pairs:{tmp_path}/rgb?depths={tmp_path}/{name}&" + how
        for name, how in {
            "depth": "fmt=nyu",
            "empty": "fmt=nyu",
            "disparity": "fmt=png16&kind=disparity&scale=1",
        }.items()
    }


def evaluator(*sources, metric=False, **fields):
    c = shipped("teacher", "demo", **{"eval.data": sources, "eval.every": 2, **fields})
    return monitor.Evaluator(c, student(metric), None)


@pytest.fixture(autouse=True)
def no_devices(monkeypatch):
    monkeypatch.setattr(monitor, "gather_program", lambda mesh: lambda params: params)


def test_labels_that_cannot_be_scored_are_refused_before_the_first_step(data):
    for name, metric, why in (
        ("empty", True, "cannot be scored: .*none of 4 images"),
        ("empty", False, "cannot be scored: .*none of 4 images"),
        ("disparity", True, "labels of disparity"),
    ):
        with pytest.raises(ValueError, match=f"eval.data: .*{why}"):
            evaluator(data["depth"], data[name], metric=metric)
    evaluator(data["depth"], metric=True)
    evaluator(data["depth"], data["disparity"])
    evaluator(data["empty"], **{"eval.every": 0})


def test_a_score_that_fails_is_told_and_the_run_goes_on(data, monkeypatch, capsys):
    found = evaluator(data["depth"], *["scenes:C?count=2&size=28"] * 2)
    labels = predictors.make("baseline:gt", kind="disparity-affine")

    def lookup(record, protocol):
        if record["image"].shape[0] == 40:
            raise RuntimeError("out of memory")
        return labels.lookup(record, protocol)

    monkeypatch.setattr(predictors, "of_bundle", lambda bundle: labels._replace(lookup=lookup))
    scores = found(types.SimpleNamespace(params={}, ema=None, step=6))
    assert {k.split("/")[1] for k in scores} == {"scenes C", "scenes C (2)"}
    assert len(scores) == 6
    told = capsys.readouterr().out
    assert told.startswith("step 6: ") and "RuntimeError: out of memory" in told


def test_the_running_average_is_scored_where_there_is_one(monkeypatch):
    monkeypatch.setattr(monitor, "gather_program", lambda mesh: lambda params: params)
    found, scored = evaluator("scenes:C?count=2&size=28"), []

    def of_bundle(bundle):
        scored.append(bundle.params)
        return predictors.make("baseline:gt", kind="disparity-affine")

    monkeypatch.setattr(predictors, "of_bundle", of_bundle)
    for ema in (None, {"w": 2}):
        found(types.SimpleNamespace(params={"w": 1}, ema=ema, step=6))
    assert scored == [{"w": 1}, {"w": 2}]


def test_the_rate_that_is_logged_is_that_of_the_update_that_was_made():
    c = shipped("teacher", "demo", **{"total_steps": 10, "optim.warmup": 4})
    buffer = metrics_buffer.MetricsBuffer(c)
    for done, share in ((1, 1 / 4), (2, 2 / 4), (10, 0)):
        buffer.add(done, {"loss/total": np.float32(1)}, 0)
        numbers = buffer.fetch(done)
        for group in ("encoder", "decoder"):
            assert numbers[f"lr/{group}"] == pytest.approx(c.optim[f"{group}_lr"] * share)
