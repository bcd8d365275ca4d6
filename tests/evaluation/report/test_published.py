"""Published numbers: the tables are whole, and stand only beside rows of their protocol."""

import math

import pytest

from depth_anything_jax.data import benchmarks
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols.table import TABLE
from depth_anything_jax.evaluation.report import published
from depth_anything_jax.evaluation.scores import aggregate, pairs

LARGE = "depth-anything-v2-large"


def row(reader, dataset, digest, view="disparity-affine", **more):
    metrics = dict.fromkeys((*aggregate.METRICS, "accuracy", "whdr"), math.nan)
    return {
        "reader": reader, "set": dataset, "protocol": "da@1", "hash": digest, "view": view,
        "images": 654, "split": 654, "pairs": 0, **metrics, **more,
    }  # fmt: skip


def digest(name, dataset, domain="", kind="disparity-affine", **switches):
    return protocols.get(name, kind, dataset, domain, **switches).hash


NYU = row("nyu", "nyu", digest("da", "nyu", "indoor"), abs_rel=0.045, delta1=0.9)


@pytest.mark.parametrize("table", published.TABLES, ids=lambda t: f"{t.title} {t.sets[0]}")
def test_tables_are_whole(table):
    assert table.protocol in (*TABLE, "pairs")
    for place in table.sets:
        name = published._dataset(place).partition("/")[0]
        assert name in benchmarks.READERS, place
        published._hash(table, place)
    for printed in table.models.values():
        assert len(printed.split()) == len(table.sets)
        for text in printed.split():
            values = [float(v) * table.unit for v in text.split("/")]
            assert len(values) == len(table.metrics)
            shares = [v for m, v in zip(table.metrics, values, strict=True) if m != "rmse"]
            assert all(0 < v <= 1 for v in shares)
    assert {*table.images, *table.options} <= {*table.sets, *published._ZERO_SHOT}


def test_a_number_stands_beside_its_own_protocol():
    (found,), hidden = published.beside(NYU, LARGE)
    assert found["title"].startswith("V2") and found["values"] == {
        "abs_rel": 0.045,
        "delta1": 0.979,
    }
    assert found["ratios"] == pytest.approx({"abs_rel": 1, "delta1": 0.9 / 0.979})
    assert any("our reading" in note for note in found["notes"])
    assert hidden == [
        "plumbline is not beside da@1 as disparity-affine: its numbers of nyu are for golden@1 as "
        "disparity-affine"
    ]
    assert published.beside(NYU, "") == ([], [])


def test_a_metric_that_the_row_has_not_is_not_compared():
    (found,), _ = published.beside(NYU | {"abs_rel": math.nan}, LARGE)
    assert found["values"].keys() == found["ratios"].keys() == {"delta1"}
    assert published.beside(NYU | {"abs_rel": math.nan, "delta1": math.nan}, LARGE)[0] == []


@pytest.mark.parametrize(
    "other",
    [
        {"hash": digest("midas", "nyu")},
        {"hash": digest("da", "nyu", crop="nyu")},
        {"view": "depth-scale"},
    ],
)
def test_and_beside_no_other(other):
    found, hidden = published.beside(NYU | other, LARGE)
    assert not found and any("V2" in t and "of nyu are for da@1" in t for t in hidden)


def test_a_labelled_sample_of_a_set_is_not_the_set():
    sample = NYU | {"reader": "rgbd:pairs.json?datasets=nyu"}
    assert published.beside(sample, LARGE) == ([], [])


def test_differences_are_said():
    few = NYU | {"images": 10, "reader": "nyu?depth=filled&partial=True"}
    (found,), _ = published.beside(few, LARGE)
    text = " ".join(found["notes"])
    assert "ours is over 10 images, theirs over 654" in text
    assert "reader options differ: depth=filled" in text and "partial" not in text
    midas = digest("midas", "kitti")
    whole = row("kitti?split=midas_161&list_file=a", "kitti", midas, images=161, split=161)
    (found,), _ = published.beside(whole | {"delta1": 0.88}, "midas-v3.1-beit-large-512")
    assert found["values"] == {"delta1": 0.8844} and len(found["notes"]) == 1


def test_bundles_and_halves_of_sets_are_told_apart():
    bundle = row("moge?set=DIODE", "diode", digest("moge", "diode"), abs_rel=0.06)
    found, hidden = published.beside(bundle, LARGE)
    assert [f["values"]["abs_rel"] for f in found] == pytest.approx([0.0533, 0.0529]) and not hidden
    original = row("diode", "diode", digest("moge", "diode"), abs_rel=0.06)
    assert not published.beside(original, LARGE)[0]
    name = "depth-anything-v1-large-metric-kitti"
    for domain, count in (("outdoor", 1), ("indoor", 0)):
        half = row("diode", "diode", digest("zoe", "diode", domain, "metric"), "metric", images=446)
        assert len(published.beside(half | {"abs_rel": 0.8}, name)[0]) == count


def test_pairs_stand_beside_pooled_and_per_scene():
    of_pairs = {"hash": pairs.Rules().hash, "accuracy": 0.971, "pairs": 2067}
    for view in protocols.KINDS:
        (found,), _ = published.beside(row("da2k", "da2k", "", view) | of_pairs, LARGE)
        assert found["ratios"] == pytest.approx({"accuracy": 1}) and not found["notes"]
    (few,), _ = published.beside(row("da2k", "da2k", "") | of_pairs | {"pairs": 12}, LARGE)
    assert few["notes"] == ["ours is over 12 pairs, theirs over some 2,000"]
    aerial = row("da2k", "da2k/aerial", "", images=90) | of_pairs
    (found,), _ = published.beside(aerial, LARGE)
    assert found["values"] == pytest.approx({"accuracy": 0.995}) and not found["notes"]
    assert not published.beside(aerial | {"hash": pairs.Rules(flip=True).hash}, LARGE)[0]


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ("depth-anything/Depth-Anything-V2-Large", LARGE),
        ("depth-anything/Depth-Anything-V2-Large-hf", LARGE),
        ("files/depth_anything_v2_vitl.pth", LARGE),
        ("LiheYoung/depth-anything-small-hf", "depth-anything-v1-small"),
        ("Intel/dpt-beit-large-512", "midas-v3.1-beit-large-512"),
        ("Intel/zoedepth-nyu", "zoedepth-nyu"),
        ("depth-anything/Depth-Anything-V2-Metric-Indoor-Large-hf", ""),
        ("files/depth_anything_metric_depth_indoor.pt", "depth-anything-v1-large-metric-nyu"),
        ("depth_anything_metric_depth_outdoor", "depth-anything-v1-large-metric-kitti"),
        ("facebook/dinov2-large", ""),
        ("runs/student", ""),
        ("", ""),
    ],
)
def test_models_are_known_by_the_names_of_their_files(origin, name):
    assert published.model_of(origin) == name
    assert name in ("", *published.MODELS)


def test_unknown_names_list_what_there_is():
    known = f"there are those of .*zoedepth-nyu; 'none'.*did you mean '{LARGE}'"
    with pytest.raises(ValueError, match=known):
        published.check("depth-anything-v2-larg")
    assert published.check("none") == "" and published.check(LARGE) == LARGE
