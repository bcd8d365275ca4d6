"""The choice of a step without labels, and what the report says of it."""

import json
import os
import pathlib

import numpy as np
import pytest

from depth_anything_jax.adaptation import choice, report
from depth_anything_jax.adaptation.plan import Plan
from depth_anything_jax.checkpoints.bundle import ModelBundle
from depth_anything_jax.data import transforms
from tests.helpers.small_networks import KERNEL, Convolution


def rows(*means):
    """Steps 0, 10, 20, …, whose views have these means."""
    return {
        10 * i: {"flip": m, "scale": 2 * m, "distortion": 3 * m, "variety": 0.8}
        for i, m in enumerate(means)
    }


def test_the_trained_step_that_agrees_best_is_chosen():
    assert choice.chosen_step(rows(1.0, 0.8, 0.5, 0.6)) == (20, [])


def test_no_view_counts_more_than_another():
    found = rows(1.0, 0.8, 0.8)
    found[10]["distortion"] *= 0.9  # a tenth of the view with the largest numbers
    found[20]["flip"] *= 0.8  # a fifth of the one with the smallest
    assert choice.chosen_step(found)[0] == 20


def test_a_training_that_does_not_help_is_told():
    step, warnings = choice.chosen_step(rows(1.0, 1.2, 1.1))
    assert step == 20 and "no sign that the adaptation helped" in warnings[0]


def test_a_collapsed_step_is_not_chosen_however_well_it_agrees():
    found = rows(1.0, 0.9, 0.01)
    found[20]["variety"] = 0.1
    step, warnings = choice.chosen_step(found)
    assert step == 10 and "1 of 2 checkpoints answer nearly one map" in warnings[0]
    found[10]["variety"] = 0.2
    step, warnings = choice.chosen_step(found)
    assert step == 10 and "collapsed" in warnings[0]


def test_variety_is_that_of_maps_of_different_photos():
    rng = np.random.default_rng(0)
    maps = [rng.random((6, 8)), rng.random((8, 6)), rng.random((6, 8))]
    assert choice.variety(maps) > 0.5
    layout = np.linspace(0, 1, 48).reshape(6, 8)
    assert choice.variety([layout, 2 * layout + 1, layout]) == pytest.approx(0, abs=1e-6)
    assert choice.variety([np.full((6, 8), 3.0), np.full((6, 8), 4.0)]) == 0
    assert choice.variety(maps[:1]) == 1


def test_the_report_says_how_well_the_measure_ranked_the_steps():
    found = rows(1.0, 0.8, 0.5, 0.6)
    for step, error in zip(found, (0.2, 0.18, 0.15, 0.16), strict=True):
        found[step]["abs_rel nyu"] = error
    text = report.ranked(found, 20, "abs_rel nyu")
    assert "0.0% above the best one (20)" in text and "rank correlation 1.00" in text
    assert "12.5% above" not in text and "before the training 0.2000, chosen 0.1500" in text
    assert "20.0% above the best one" in report.ranked(found, 10, "abs_rel nyu")
    table = report.steps_table({"steps": found, "chosen": 20})
    assert "| before | 1.000 |" in table and "| 20 (chosen) | 0.500 |" in table


def test_scores_of_deleted_or_other_checkpoints_are_not_used(tmp_path):
    file = tmp_path / "steps.json"
    assert choice.known_rows(file, ["a"], {10: 1}) == {}
    rows_of = {s: {"flip": float(s)} for s in (0, 10, 20, 30)}
    kept = {"of": ["a"], "stamps": {0: 0, 10: 1, 20: 2, 30: 3}, "rows": rows_of}
    file.write_text(json.dumps(kept))
    assert set(choice.known_rows(file, ["a"], {0: 0, 10: 1, 20: 9})) == {0, 10}
    assert choice.known_rows(file, ["b"], {0: 0, 10: 1}) == {}  # another training
    file.write_text(json.dumps(kept)[:30])
    assert choice.known_rows(file, ["a"], {0: 0, 10: 1}) == {}


def test_the_model_follows_its_checkpoint_and_is_never_lost(tmp_path, monkeypatch):
    plan = Plan(("photos",), "teacher", str(tmp_path))
    for step in (10, 20):
        (tmp_path / "run" / "checkpoints" / str(step)).mkdir(parents=True)
    values = {"10": 1.0, "20": 2.0}

    def load_params(path):
        return values[path.rpartition("/")[2]], {"step": 1, "licence": "x"}

    def save_params(path, params, meta):
        pathlib.Path(path).mkdir()
        pathlib.Path(path, "params").write_text(f"{params} {meta}")

    monkeypatch.setattr(choice.orbax_io, "load_params", load_params)
    monkeypatch.setattr(choice.orbax_io, "save_params", save_params)
    model = pathlib.Path(choice.write_model(plan, 10), "params")
    assert model.read_text() == "1.0 {'licence': 'x'}"
    values["10"] = 3.0
    choice.write_model(plan, 10)
    assert model.read_text().startswith("1.0")  # the same checkpoint
    os.utime(tmp_path / "run" / "checkpoints" / "10", ns=(5, 5))  # trained anew
    choice.write_model(plan, 10)
    assert model.read_text().startswith("3.0")
    del values["20"]
    with pytest.raises(KeyError):
        choice.write_model(plan, 20)
    assert model.read_text().startswith("3.0")


def bundle(kernel):
    """A convolution as a model."""
    return ModelBundle(
        params={"kernel": kernel}, variant="vits", version="v2", head="relative", max_depth=None,
        licence=None, source="", parts="all", metadata={}, input=transforms.OFFICIAL_INPUT,
        network=Convolution(),
    )  # fmt: skip


def test_a_symmetric_network_agrees_with_itself_when_mirrored():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (42, 56, 3), np.uint8) for _ in range(2)]
    kernel = KERNEL["kernel"]
    even = kernel + kernel[:, ::-1]
    symmetric = choice.measure(bundle(even), images, 28)
    other = choice.measure(bundle(kernel), images, 28)
    assert symmetric.mean("flip") < 1e-5 < other.mean("flip")
    assert symmetric.mean("scale") > 0.01 and symmetric.mean("distortion") > 0.001
    assert [m.shape for m in symmetric.maps] == [(28, 42)] * 2
    assert choice.differences(other.maps, other.maps) == [0, 0]
    assert min(choice.differences(symmetric.maps, other.maps)) > 0.1
    again = choice.measure(bundle(even), images, 28)
    assert again.views == symmetric.views


def test_masked_pixels_do_not_count():
    images = [np.random.default_rng(0).integers(0, 255, (28, 28, 3), np.uint8)]
    mask = np.zeros((28, 28), bool)
    mask[:, 10:18] = True
    whole = choice.measure(bundle(KERNEL["kernel"]), images, 28)
    part = choice.measure(bundle(KERNEL["kernel"]), images, 28, mask=mask)
    assert part.mean("flip") != whole.mean("flip")
    assert choice.differences(whole.maps, [m + 5 * ~mask for m in whole.maps], mask) == [
        pytest.approx(0, abs=1e-6)
    ]
