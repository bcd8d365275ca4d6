"""The report's page: what is best, where links lead, names instead of paths, light and dark."""

import re

import pytest

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.report import page, tables
from depth_anything_jax.evaluation.scores.aggregate import METRICS
from depth_anything_jax.visualization import html_report

HASH = protocols.get("golden", "disparity-affine").hash


def row(checkpoint, abs_rel, delta1=0.5, **more):
    return {
        **dict.fromkeys((*METRICS, "accuracy", "whdr"), float("nan")),
        "checkpoint": checkpoint, "set": "nyu", "protocol": "golden@1", "hash": HASH,
        "kind": "disparity-affine", "view": "disparity-affine", "images": 9, "read": 9, "split": 9,
        "skipped": 0, "pairs": 0, "ties": 0, "published": [], "not_compared": [],
        "abs_rel": abs_rel, "delta1": delta1, **more,
    }  # fmt: skip


def built(rows, relative=(), facts=None):
    sections = [page.Section(rows[0], "<figure></figure>")]
    switches = {HASH: protocols.get("golden", "disparity-affine")}
    return page.build("Scores", rows, relative, sections, switches, facts or {})


def test_arrows_say_what_is_better_and_the_best_of_those_that_compare_is_bold():
    rows = [
        row("a", 0.2, 0.91), row("b", 0.1, 0.92), row("c", 0.10001, 0.9),
        row("d", 0.05, 0.95, images=8), row("e", 0.01, 0.99, set="kitti"),
        row("f", 0.01, 0.99, hash="other"), row("g", 0.01, 0.99, corruption="fog", severity=1),
    ]  # fmt: skip
    text = tables.table(rows, {})
    assert "| AbsRel ↓ | δ1 ↑ |" in text
    assert re.findall(r"\*\*(.*?)\*\*", text) == ["0.1000", "0.9200", "0.1000"]
    assert "**" not in tables.table(rows) and "| AbsRel | δ1 |" in tables.table(rows)
    assert "**" not in tables.table([row("a", 0.2), row("b", 0.2)], {}), "no difference, no best"


def test_every_column_has_a_direction_and_a_meaning():
    assert tables.COLUMNS.keys() == page.MEANINGS.keys()
    assert tables.COLUMNS.keys() <= tables.BETTER.keys()
    text = built([row("a", 0.2, whdr=0.3)])
    assert "<dt>AbsRel ↓</dt><dd>mean of |p − g| / g; less is better</dd>" in text
    assert "<dt>WHDR ↓</dt>" in text and "<dt>RMSE" not in text


def test_links_lead_to_their_sections():
    text = built([row("a", 0.2), row("b", 0.1)])
    targets = set(re.findall(r"<h[23] id=([\w-]+)", text))
    links = re.findall("href='#(.*?)'", text)
    assert targets == set(links) and len(targets) == 7
    assert f"<td><a href='#images-0'>a</a></td><td>nyu</td><td>golden@1 <a href='#protocol-{HASH}'>"
    assert "<td><a href='#images-0'>a</a></td>" in text and "<td>b</td>" in text


def test_paths_are_shortened_to_what_tells_them_apart():
    one, two = "/media/runs/first/run/model", "/media/runs/second/run/model"
    rows = [row(one, 0.2), row(two, 0.1, set="folder:/data/sets/x y?list_file=/data/z.txt")]
    rows.append(row("https://huggingface.co/a/b", 0.3))
    relative = [
        {
            **rows[0],
            "relative_to": two,
            "sets": 1,
            "mri": 0.1,
            "left_out": ["folder:/data/sets/x y"],
        }
    ]
    text = built(rows, relative, {"checkpoint": [one, two], "load": {"from": one}})
    assert "/media" not in text and "/data" not in text.replace("<td>folder:sets/x y", "")
    for shown in ("first/run/model", "second/run/model", "folder:sets/x y?list_file=data/z.txt"):
        assert shown in text, shown
    assert "https://huggingface.co/a/b" in text
    assert "<td>second/run/model</td><td>1</td>" in text


def luminance(colour):
    if len(colour) == 3:
        colour = "".join(2 * c for c in colour)
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_both_themes_have_contrast_and_the_page_fits_a_phone():
    text = html_report.page("a", "")
    assert "<meta name='viewport' content='width=device-width" in text
    assert "overflow-x:auto" in text and "prefers-color-scheme:dark" in text
    themes = re.findall(r":root\{([^}]*)\}", text)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+):#(\w+)", theme))
        for ground in ("page", "head"):
            for ink in ("text", "link"):
                a, b = sorted(luminance(colours[name]) for name in (ground, ink))
                assert (b + 0.05) / (a + 0.05) > 7, (theme, ground, ink)


@pytest.mark.parametrize("name", ["model", "/model", "a/b", "baseline:mean", "/"])
def test_names_without_a_long_path_are_kept(name):
    assert tables.identity(page._Shortened([name])(row(name, 0.1)))[0] in (name, name.strip("/"))
