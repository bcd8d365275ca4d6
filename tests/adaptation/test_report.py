"""The report: what it shows first, and that its commands are commands."""

import pathlib
import re

import numpy as np
import pytest

from depth_anything_jax.adaptation import report
from depth_anything_jax.adaptation.photos import Photo
from depth_anything_jax.adaptation.plan import Plan
from depth_anything_jax.adaptation.selection import Selection

ROOT = pathlib.Path(report.__file__).resolve().parents[2]


def test_its_commands_are_those_of_the_programs():
    plan = Plan(("my photos",), "teacher", "out", size=98)
    for line in report.commands(plan, "out/model"):
        program = re.search(r"depth_anything_jax\.(\w+)|tools/(\w+)\.py", line)
        file = f"depth_anything_jax/{program[1]}.py" if program[1] else f"tools/{program[2]}.py"
        text = (ROOT / file).read_text()
        for flag in re.findall(r"--(\w+)", line):
            assert f'"{flag}"' in text or f'"--{flag}"' in text, (line, flag)
    assert "'my photos'" in report.commands(plan, "out/model")[0]


def found(**fields):
    rng = np.random.default_rng(0)
    before = [rng.random((6, 8)).astype(np.float32) for _ in range(3)]
    after = [before[0], before[1] + rng.random((6, 8)), before[2] + 0.01 * rng.random((6, 8))]
    images = [rng.integers(0, 255, (30, 40, 3), np.uint8) for _ in range(3)]
    names = ["a.jpg", "<b>.jpg", "c.jpg"]
    return {
        "before": before, "after": after, "images": images, "keys": names, "mask": None, **fields
    }  # fmt: skip


def test_the_largest_changes_come_first():
    assert [i for i, _ in report.order(found())] == [1, 2, 0]
    page = report.pictures(found())
    places = [page.index(name) for name in ("&lt;b&gt;.jpg", "c.jpg", "a.jpg")]
    assert places == sorted(places) and page.count("<img") == 12
    assert report.pictures(found(before=None)).count("<img") == 6


def test_masked_pixels_are_grey():
    mask = np.zeros((30, 40), bool)
    shown = report._difference(*[x["after"][0] for x in (found(), found())], mask[:6, :8])
    assert (shown == report.colormaps.GREY).all()
    assert report.order(found(mask=~mask))[0][0] == 1


def test_what_was_dropped_is_counted_and_named():
    dropped = [("/r/x.jpg", "cannot be read: a & b"), ("/r/y.jpg", "cannot be read: c")]
    chosen = Selection([Photo("/r", "z.jpg")], [], dropped, "the end")
    assert "| dropped: cannot be read | 2 |" in report.photos_table(chosen)
    assert "/r/x.jpg: cannot be read: a &amp; b" in report._dropped(chosen)


def test_forgetting_is_told_with_and_without_labels():
    told = {"reference": "folder:clean", "images": 9, "disagreement": 0.05, "warning": ""}
    assert "| disagreement with before | 0 | 5.0% |" in report.forgetting_table(told)
    told |= {"error_before": 0.2, "error_after": 0.21, "lost": 0.05}
    text = report.forgetting_table(told)
    assert "0.2000 | 0.2100" in text and "changed by +5.0%" in text
    assert "no model before" in report.forgetting_table({})


@pytest.mark.parametrize("best, words", [(10, "0.0% above"), (20, "25.0% above")])
def test_the_choice_is_compared_with_the_best_step(best, words):
    rows = {
        s: {"flip": 1.0 - s / 100, "scale": 1.0, "distortion": 1.0, "abs_rel x": 0.25}
        for s in (10, 20, 30)
    }
    rows[best]["abs_rel x"] = 0.2
    assert words in report.ranked(rows, 10, "abs_rel x")
