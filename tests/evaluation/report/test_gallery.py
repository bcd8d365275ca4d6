"""The report's pictures: which images, what their colours mean, and that the page stands alone."""

import math
import re

import cv2
import numpy as np
import pytest

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.report import gallery, session, tables
from depth_anything_jax.evaluation.runner import loop, predictors, stream
from depth_anything_jax.evaluation.scores.aggregate import ImageScores
from depth_anything_jax.utils import scale_shift
from depth_anything_jax.visualization import colormaps, html_report

KIND = "disparity-affine"


def scored(*values, **more):
    return [ImageScores(f"{i}", abs_rel=v, norm_l1=v, **more) for i, v in enumerate(values)]


@pytest.mark.parametrize(
    "n, each, expected",
    [
        (1, 3, ["worst 1"]),
        (2, 3, ["worst 2", "best 1"]),
        (3, 3, ["worst 3", "median 2", "best 1"]),
        (9, 1, ["worst 9", "median 5", "best 1"]),
        (9, 2, ["worst 9", "worst 8", "median 5", "median 4", "best 2", "best 1"]),
        (101, 3, ["worst 101", "worst 100", "worst 99", "median 52", "median 51", "median 50",
                  "best 3", "best 2", "best 1"]),
    ],
)  # fmt: skip
def test_worst_median_and_best_are_chosen(n, each, expected):
    values = np.random.default_rng(n).permutation(n) + 1
    images = [*scored(*map(float, values)), ImageScores("skipped", why="no label")]
    chosen = gallery.pick(images, each)
    assert [f"{p.why} {p.rank}" for p in chosen] == expected
    assert [p.scores.abs_rel for p in chosen] == [p.rank for p in chosen]


def test_labels_without_a_unit_are_ranked_by_normalised_l1_and_pairs_not_at_all():
    plain = [i._replace(abs_rel=math.nan) for i in scored(3.0, 1.0, 2.0)]
    assert [p.scores.key for p in gallery.pick(plain, 1)] == ["0", "2", "1"]
    assert gallery.pick([ImageScores("pairs", pairs=3)], 3) == []


class Ramps:
    """Records whose depth is a ramp of disparity, and an image of it."""

    def __init__(self, count=5, hw=(40, 1000)):
        self.count, self.hw = count, hw

    def __len__(self):
        return self.count

    def key(self, i):
        return f"folder/<{i}>.png"

    def __getitem__(self, i):
        disparity = np.broadcast_to(np.linspace(0.15, 1, self.hw[1], dtype=np.float32), self.hw)
        image = np.full((*self.hw, 3), 20 * i, np.uint8)
        valid = np.zeros(self.hw, bool)
        valid[:, ::7] = True  # sparse, as lidar is
        valid[:5] = False
        return {
            "key": self.key(i), "image": image, "depth": 1 / disparity, "valid": valid,
            "sky": ~valid, "dataset": "ramps", "domain": "indoor",
        }  # fmt: skip


def network(images):
    """The ramp, the more wrong the brighter the image is."""
    b, h, w, _ = images.shape
    ramp = np.linspace(5, 9, w) + np.zeros((h, 1))
    wrong = np.where(np.arange(w) % 2, 1, -1) * (images[:, :1, :1, 0] + 3) / 5
    return ramp[None] + np.broadcast_to(wrong, (b, h, w))


def test_the_maps_are_those_that_were_scored():
    """The mean of the error map is AbsRel, in the space of the protocol."""
    source = Ramps(2)
    for name in ("golden", "da"):
        rules = stream.ProtocolResolver([KIND], name, {"input_size": 28})
        made = predictors.of_network(network, kind=KIND)
        scores = loop.evaluate_candidate(
            made, source, protocol=name, switches={"input_size": 28}
        ).per_image
        for index, record, prediction in stream.predictions(made, source, [0, 1], rules):
            a = scale_shift.Alignment(scores[index].scale, scores[index].shift)
            found = gallery.maps(prediction, KIND, record, rules.of(record), a, whole=False)
            error = found.error[found.valid]
            assert error.mean() == pytest.approx(scores[index].abs_rel, rel=1e-12)
            assert scores[index].abs_rel > 0.01 and error.size == scores[index].n


def test_what_a_prediction_does_not_know_is_grey():
    """The truth as a prediction is NaN between its sparse pixels, which is no nearest depth."""
    record, rules = Ramps(1)[0], protocols.get("golden", KIND, "ramps", "indoor")
    sparse = np.where(record["valid"], 1 / record["depth"], np.nan)
    found = gallery.maps(sparse, KIND, record, rules, scale_shift.NONE, whole=True)
    np.testing.assert_array_equal(np.isfinite(found.prediction), found.valid)
    strip, _ = gallery.draw(found)
    label, prediction = strip[:, :320], strip[:, 320 + gallery.GAP :][:, :320]
    np.testing.assert_array_equal(label, prediction)
    # Where it is scored, what is not finite counts as near, and is drawn so.
    none = np.full_like(sparse, np.nan)
    found = gallery.maps(none, KIND, record, rules, scale_shift.NONE, whole=True)
    np.testing.assert_array_equal(np.isfinite(found.prediction), found.valid)


def test_label_and_prediction_share_their_colours_and_sparse_pixels_stay_visible():
    record, rules = Ramps(1)[0], protocols.get("golden", KIND, "ramps", "indoor")
    exact = gallery.maps(1 / record["depth"], KIND, record, rules, scale_shift.NONE, whole=True)
    strip, (low, high) = gallery.draw(exact)
    assert (low, high) == pytest.approx(
        np.percentile(1 / record["depth"][record["valid"]], [2, 98])
    )
    h, w = gallery.fit(record["valid"].shape)
    assert (h, w) == (13, 320) and strip.shape == (13, 3 * 320 + 2 * gallery.GAP, 3)
    label, prediction, error = (strip[:, k * (320 + gallery.GAP) :][:, :320] for k in range(3))
    grey = (label == colormaps.GREY).all(-1)
    assert grey[:1].all() and not (prediction == colormaps.GREY).all(-1).any()
    assert 0.3 < (~grey[3:]).mean() <= 0.5, "every 7th pixel, three of which become one"
    same = np.abs(label[~grey].astype(int) - prediction[~grey]).max(-1)
    assert np.quantile(same, 0.9) <= 12  # a cell's mean of one pixel against that of three
    near_is_red = prediction[5, -1].astype(int) - prediction[5, 0]
    assert near_is_red[0] > 50 and near_is_red[2] < -50
    assert (error[~grey] == error[~grey][0]).all(), "no error has one colour"


@pytest.fixture
def run(tmp_path):
    source = Ramps(12)
    made = predictors.of_network(network, kind=KIND, name="<b>a model</b>")
    rules = stream.ProtocolResolver([KIND], "golden", {"input_size": 28})
    found = loop.evaluate_candidate(
        made, source, protocol="golden", switches={"input_size": 28}
    ).per_image
    about = {"checkpoint": made.name, "kind": KIND, "view": KIND, "protocol": "golden@1"}
    rows = tables.rows(found, about, reader="ramps", split=12, how="image")
    for row in rows:
        row["published"], row["not_compared"] = [], []
    images = [{**about, "set": "ramps", "hash": i.protocol, **i._asdict()} for i in found]
    facts = {"sets": ["<ramps>", "b"], "switches": {"input_size": 28}, "corrupt": []}
    with session.Session(tmp_path, facts) as kept:
        kept.show(made, source, rows, found, rules)
        kept.write(rows, images)
    return tmp_path, found


def test_the_page_stands_alone_and_says_what_it_shows(run):
    folder, found = run
    page = (folder / "report.html").read_text()
    assert not re.search(r"https?://|<script|@import|src='//", page)
    links = re.findall(r"src='([^']+)'", page)
    assert len(links) == 18 and all((folder / link).is_file() for link in links)
    assert len(list((folder / "pictures").iterdir())) == 18, "nine of twelve images, two files each"
    for link in links:
        picture = cv2.imread(str(folder / link))
        assert max(picture.shape[0], picture.shape[1] / 3.1) <= gallery.WIDTH
    worst = max(found, key=lambda i: i.abs_rel)
    figures = [f"AbsRel {worst.abs_rel:.4f}", f"δ1 {worst.delta1:.4f}", f"scale {worst.scale:.6g}"]
    names = ["worst</b>, 12 of 12", "folder/&lt;11&gt;.png", worst.protocol, "&lt;b&gt;a model"]
    for text in (*figures, *names, "linear-gradient", "/m (", "red is near", "disparity_floor"):
        assert text in page, text
    assert "<p>golden@1 on ramps as disparity-affine</p>" in page
    cells = dict(
        re.findall("<tr><td>(.*?)</td><td>(.*?)</td></tr>", page.partition("<h2 id=run>")[2])
    )
    assert cells["sets"] == "&lt;ramps&gt;, b" and cells["switches"] == "input_size=28"
    assert {"version", "jax", "numpy"} <= cells.keys() and "corrupt" not in cells
    assert "<b>a model" not in page


def test_markdown_tables_become_html():
    text = "| a | b |\n|---|---|\n| <1> | 2 |\n\n- one\n- <two>\nbelow\n- last"
    assert html_report.tables(text) == (
        "<div class=scroll tabindex=0><table>"
        "<tr><th>a</th><th>b</th></tr><tr><td>&lt;1&gt;</td><td>2</td></tr></table></div>"
        "<ul><li>one</li><li>&lt;two&gt;</li></ul><p>below</p><ul><li>last</li></ul>"
    )
