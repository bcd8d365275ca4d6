"""Protocols: switches and hashes, the frozen table, which alignment fits what, windows."""

import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols import table
from depth_anything_jax.evaluation.protocols.earlier_versions import EARLIER
from depth_anything_jax.evaluation.protocols.protocol import Protocol, ProtocolError
from depth_anything_jax.evaluation.scores import scoring
from tests.helpers.protocol_switches import OTHER

NAMES = list(table.TABLE)
EVERY = {f"{name}@{entry.version}": entry for name, entry in table.TABLE.items()} | EARLIER
DOMAINS = ("", "indoor", "outdoor")
BASE = Protocol(alignment="lsq-disparity")


def resolved(name: str) -> dict[str, str]:
    """{"set domain kind": hash} of everything a named protocol says, sets not in it included."""
    entry = EVERY[name]
    sets = {*entry.sets, "another"} - {"*"}
    return {
        f"{dataset} {domain} {kind}": protocols.get(name, kind, dataset, domain).hash
        for dataset in sorted(sets) for domain in DOMAINS for kind in sorted(entry.kinds)
    }  # fmt: skip


# Whoever changes a switch of a named protocol counts its version up and writes the new digest here:
# numbers published under the old name must not change their meaning.
FROZEN: dict[str, str] = {
    "golden@1": "5edc2a8984d5",
    "da@1": "0bd6e8556de2",
    "midas@1": "20b3ce4c162a",
    "marigold@1": "d0022bd0768c",
    "moge@1": "56e706d28446",
    "zoe@1": "93f88ce8a301",
    "unidepth@1": "f9adcd7e3283",
    "vda@1": "774a0e2bcf2d",
    "midas@2": "7e94b4eef271",
    "marigold@2": "b205aa3664bf",
    "moge@2": "449186ba4cb0",
    "zoe@2": "598e5b52c29e",
    "unidepth@2": "a7f1340716be",
    "v2@1": "233ef8a0afdc",
    "vda@2": "541e25361d6e",
}


def test_named_protocols_do_not_change_silently():
    found = {}
    for name in EVERY:
        text = json.dumps(resolved(name), sort_keys=True)
        assert protocols.named(name) == (name, EVERY[name])
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert found == FROZEN


def test_every_switch_changes_the_hash():
    assert OTHER.keys() == {f.name for f in dataclasses.fields(Protocol)}
    changed = [dataclasses.replace(BASE, **{name: value}) for name, value in OTHER.items()]
    assert len({p.hash for p in [BASE, *changed]}) == len(OTHER) + 1
    for value in ("cap", 0.1, 1e-3):  # a floor of 0.1 is not "cap", though it does the same at 10 m
        changed.append(dataclasses.replace(BASE, disparity_floor=value))
    assert len({p.hash for p in changed}) == len(OTHER) + 3
    assert all(re.fullmatch("[0-9a-f]{12}", p.hash) for p in changed)


def test_equal_switches_have_equal_hashes_whatever_they_are_called():
    whole = dataclasses.replace(BASE, max_depth=10, min_depth=0)
    real = dataclasses.replace(BASE, max_depth=10.0, min_depth=0.0)
    assert whole == real and whole.hash == real.hash
    one = protocols.get("golden", "disparity-affine", "nyu", "indoor")
    assert one.hash == protocols.get("golden@1", "metric", "tum", "indoor_synth").hash
    assert one.hash != protocols.get("golden", "disparity-affine", "nyu", "outdoor").hash
    assert "golden" not in one.canonical and json.loads(one.canonical)["max_depth"] == 10


def test_infinity_is_valid_json():
    moge = protocols.get("moge", "disparity-affine", "nyu")
    assert json.loads(moge.canonical)["max_depth"] == "inf"


def test_sets_and_domains_find_their_values():
    def cap(name, dataset, domain="", kind="disparity-affine"):
        return protocols.get(name, kind, dataset, domain).max_depth

    assert cap("da", "nyu") == 10 and cap("da", "kitti") == 80 and cap("da", "eth3d") == 200
    assert cap("midas", "eth3d") == 72 and cap("marigold@1", "diode") == 350
    assert cap("da", "my_pairs", "indoor") == 10 and cap("da", "my_pairs") == 80
    zoe = {d: protocols.get("zoe", "metric", "diode", d) for d in ("indoor", "outdoor")}
    assert (zoe["indoor"].max_depth, zoe["indoor"].crop) == (10, "nyu-pixels")
    assert (zoe["outdoor"].max_depth, zoe["outdoor"].crop) == (80, "garg")
    assert cap("zoe", "ibims", "outdoor", "metric") == 10, "the set goes before the domain"
    assert protocols.get("da", "disparity-affine", "nyu", space="depth").space == "depth"


def test_the_protocol_of_the_golden_scores_is_what_its_description_says():
    for domain, cap in (("indoor", 10), ("outdoor", 80), ("", 80)):
        found = protocols.get("golden", "disparity-affine", "any", domain)
        assert found == Protocol(
            alignment="lsq-disparity", space="depth", min_depth=1e-3, max_depth=cap, strict=True,
            disparity_floor="cap", crop="none", resize="bilinear-corners", flip=False,
            input_size=518, min_valid=10,
        )  # fmt: skip


ZOE = {  # docs/protocols.md's sources: range, frame, crop
    ("nyu", "indoor"): (1e-3, 10, "none", "nyu"),
    ("kitti", "outdoor"): (1e-3, 80, "kb", "garg"),
    ("ibims", "indoor"): (0, 10, "none", "nyu"),
    ("sunrgbd", "indoor"): (0, 8, "none", "nyu-pixels"),
    ("diml", "indoor"): (0, 10, "none", "nyu-pixels"),
    ("diml", "outdoor"): (2, 80, "none", "garg"),
    ("diode", "indoor"): (1e-3, 10, "none", "nyu-pixels"),
    ("diode", "outdoor"): (1e-3, 80, "none", "garg"),
    ("hypersim", "indoor"): (1e-3, 80, "none", "nyu-pixels"),
    ("vkitti2", "outdoor"): (1e-3, 80, "kb", "garg"),
    ("ddad", "outdoor"): (1e-3, 80, "none", "garg"),
}


@pytest.mark.parametrize(("where", "expected"), ZOE.items(), ids=str)
def test_zoedepths_switches_set_by_set(where, expected):
    low, high, frame, crop = expected
    assert protocols.get("zoe", "metric", *where) == Protocol(
        alignment="none", space="depth", min_depth=low, max_depth=high, strict=True, clamp=True,
        frame=frame, crop=crop, resize="bilinear-corners", flip=True, pad="none", min_valid=1,
        aggregate="image",
    )  # fmt: skip


def test_unidepths_caps_and_windows():
    caps = {"sunrgbd": 8, "ibims": 25, "eth3d": 50, "ddad": 120, "nuscenes": 80, "void": 10}
    for version in ("unidepth@1", "unidepth@2"):
        found = {d: protocols.get(version, "metric", d) for d in caps}
        assert {d: p.max_depth for d, p in found.items()} == caps
        indoor = protocols.get(version, "metric", "diode", "indoor")
        assert indoor == Protocol(
            alignment="none", min_depth=0, max_depth=25, strict=version == "unidepth@2",
            resize="bilinear", crop="none", flip=False, clamp=False,
        )  # fmt: skip
    zoe = protocols.get("zoe", "metric", "sunrgbd")
    record = {"depth": np.float32([[7.9, 8.0, 8.1, 0.0]]), "valid": np.ones((1, 4), bool)}
    whole = dataclasses.replace(zoe, crop="none")
    assert scoring.target(record | {"key": "x"}, whole).valid.tolist() == [
        [True, False, False, False]
    ]


def test_switches_that_came_later_leave_older_hashes_as_they_were():
    """Where they are at their defaults they are not in the hash; else they are."""
    later = {f.name: OTHER[f.name] for f in dataclasses.fields(Protocol) if "later" in f.metadata}
    assert later
    for name, value in later.items():
        assert name not in BASE.canonical
        assert f'"{name}":' in dataclasses.replace(BASE, **{name: value}).canonical
    pixels, nyu = (dataclasses.replace(BASE, crop=crop) for crop in ("nyu-pixels", "nyu"))
    assert pixels.hash == nyu.hash, (
        "on images of 480x640, which alone both allow, they are the same"
    )


ALIGNED = {  # protocol x kind decides the alignment
    "da": ("lsq-disparity", "lsq-depth", "lsq-disparity", "lsq-disparity"),
    "midas": ("lsq-disparity", "lsq-depth", "lsq-disparity", "lsq-disparity"),
    "marigold": ("lsq-disparity", "lsq-depth", "lsq-depth", "lsq-depth"),
    "moge": ("lsq-disparity", "l1-depth", "l1-depth-scale", "none"),
    "zoe": (None, None, None, "none"),
    "unidepth": (None, None, None, "none"),
    "v2": (None, None, None, "none"),
    "vda": ("lsq-disparity", "lsq-depth", "lsq-disparity", "none"),
    "golden": ("lsq-disparity", None, "lsq-disparity", "lsq-disparity"),
}


@pytest.mark.parametrize("name", NAMES)
def test_alignment_follows_from_protocol_and_kind(name):
    for kind, expected in zip(protocols.KINDS, ALIGNED[name], strict=True):
        if expected is None:
            with pytest.raises(
                ProtocolError, match=f"{name}@[0-9] does not score {kind} .*use one of"
            ):
                protocols.get(name, kind)
        else:
            assert protocols.get(name, kind, "nyu").alignment == expected


def test_without_a_name_relative_predictions_get_da_and_metric_ones_zoe():
    found = [protocols.default(kind) for kind in protocols.KINDS]
    assert found == ["da", "da", "da", "zoe"]


@pytest.mark.parametrize(
    ("alignment", "kind"),
    [
        ("none", "depth-scale"),  # metres that are not there
        ("median", "disparity-affine"),  # a shift is left unfitted
        ("lsq-depth", "disparity-affine"),  # the wrong space
        ("lsq-disparity", "depth-affine"),
        ("l1-depth-scale", "depth-affine"),
    ],
)
def test_an_alignment_that_makes_no_sense_names_both_and_the_cure(alignment, kind):
    with pytest.raises(ProtocolError) as error:
        protocols.get("moge", kind, alignment=alignment)
    text = str(error.value)
    assert f"'{alignment}'" in text and kind in text
    cure = text.rpartition("use ")[2].split(", ")
    assert cure == protocols.fits(kind) and alignment not in cure
    for works in cure:
        assert protocols.get("moge", kind, alignment=works).alignment == works


def test_views_lose_information_and_never_gain_it():
    assert protocols.VIEWS.keys() == set(protocols.KINDS)
    for kind, views in protocols.VIEWS.items():
        assert views[0] == kind
        assert all(set(protocols.VIEWS[v]) <= set(views) for v in views)
    assert protocols.VIEWS["metric"] == (
        "metric",
        "depth-scale",
        "depth-affine",
        "disparity-affine",
    )


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"crop": "eigen"}, "crop 'eigen': one of 'none', 'nyu'"),
        ({"max_depth": float("inf")}, "set a number or 'label'"),
        ({"disparity_floor": 0}, "disparity_floor 0.0 is not positive"),
        ({"min_depth": 80}, "min_depth 80.0 to max_depth 80.0 is an empty range"),
        ({"cap_mode": "clip", "max_depth": float("inf"), "disparity_floor": 1}, "clips nothing"),
        ({"alignment": "median", "per": "sequence"}, "per 'sequence' with alignment 'median'"),
        ({"per": "sequence", "align_on": "grid-64"}, "only 'lsq-…' on all pixels"),
        ({"input_size": 0}, "must be positive"),
        ({"outlier_ratio": 0.5}, "outlier_ratio 0.5: 0, or more than 1"),
    ],
)
def test_contradictions_are_refused(switches, message):
    with pytest.raises(ProtocolError, match=re.escape(message)):
        dataclasses.replace(BASE, **switches)


def test_unknown_names_list_what_there_is():
    with pytest.raises(ProtocolError, match="no protocol 'da@2'; there are .*da@1.*zoe@1"):
        protocols.get("da@2", "metric")
    with pytest.raises(ProtocolError, match="kind 'relative': one of disparity-affine"):
        protocols.get("da", "relative")
    with pytest.raises(ProtocolError, match="a protocol has no switch cap"):
        protocols.get("da", "disparity-affine", cap=3)


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_has_a_note(name):
    entry = table.TABLE[name]
    assert entry.notes and all(note.strip() for note in entry.notes)
    # These are described to the last switch; of all others something is inferred.
    assert any(n.startswith("unverified: ") for n in entry.notes) or name in ("golden", "zoe", "v2")
    assert set(protocols.KINDS) == set(entry.kinds) or entry.refuses


def test_windows_by_hand():
    rows = np.arange(480)[:, None] * np.ones(640)
    nyu = rows[protocols.window("nyu", 480, 640)]
    assert nyu.shape == (426, 560) and nyu[0, 0] == 45
    for name, hw, expected in [
        ("none", (3, 4), (0, 3, 0, 4)),
        ("garg", (352, 1216), (143, 349, 43, 1172)),
        ("eigen-kitti", (352, 1216), (117, 321, 43, 1172)),
        ("kb", (375, 1242), (23, 375, 13, 1229)),
        ("vda-kitti", (376, 1241), (0, 374, 0, 1242)),
        ("vda-scannet", (480, 640), (8, -8, 11, -11)),
    ]:
        y, x = protocols.window(name, *hw)
        assert (y.start, y.stop, x.start, x.stop) == expected
    with pytest.raises(ProtocolError, match="frame 'kb' is 352x1216, the image 350x1300"):
        protocols.window("kb", 350, 1300)


def test_the_digest_of_a_log_is_that_of_its_protocols_switches(monkeypatch):
    """Not of the table's form, of notes, or of protocols that a run does not use."""
    before = protocols.digest("da"), protocols.digest("zoe")
    assert before[0] != before[1] and protocols.digest("da@1", "zoe") != before[0]

    def change(**fields):
        monkeypatch.setitem(table.TABLE, "da", table.TABLE["da"]._replace(**fields))
        return protocols.digest("da"), protocols.digest("zoe")

    other = type("Another", (table.Named,), {})
    assert "Another" in repr(other(*table.TABLE["zoe"]))
    monkeypatch.setitem(table.TABLE, "zoe", other(*table.TABLE["zoe"]))
    assert change(notes=("reworded",)) == before
    base = {**table.TABLE["da"].base, "min_valid": 11}
    assert change(base=base) == (protocols.digest("da"), before[1]) != before
