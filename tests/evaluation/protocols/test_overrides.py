"""Switches as text: types, choices, what is refused, and the name that says what was changed."""

import dataclasses
import math

import pytest

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols import overrides
from depth_anything_jax.evaluation.protocols.protocol import Protocol, ProtocolError
from tests.helpers.protocol_switches import OTHER


def test_every_switch_can_be_said():
    """As `show` writes it, `parse` reads it; the protocol takes it; the hash follows."""
    assert set(overrides.NAMES) == OTHER.keys()
    base = protocols.get("golden", "metric")
    for name, value in OTHER.items():
        found = overrides.parse([f"{name}={overrides.show(value)}"])
        assert found == {name: value} and type(found[name]) is type(value), name
        assert protocols.get("golden", "metric", **found).hash != base.hash, name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("disparity_floor=cap", "cap"),
        ("disparity_floor=0.01", 0.01),
        ("max_depth=inf", math.inf),
        ("max_depth=1e2", 100.0),
        ("flip=True", True),
        ("flip = false", False),
        ("input_size=392", 392),
    ],
)
def test_values_have_the_switch_type(text, value):
    (found,) = overrides.parse([text]).values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["crop"], "switch 'crop': should read name=value"),
        (["corp=garg"], "no switch 'corp'; there are alignment, align_on.*; did you mean 'crop'"),
        (
            ["crop=eigen"],
            "switch crop='eigen': must be one of none, nyu, nyu-pixels, eigen-kitti, garg",
        ),
        (["flip=yes"], "switch flip='yes': must be one of true, false"),
        (["max_depth=far"], "switch max_depth='far': must be one of a number"),
        (["max_depth=nan"], "max_depth='nan'"),
        (["input_size=1.5"], "switch input_size='1.5': must be one of a whole number"),
        (["disparity_floor=none"], "must be one of cap, label, a number"),
        (["crop=garg", "crop=none"], "switch 'crop' is given twice: garg and none"),
    ],
)
def test_what_is_no_switch_or_value_is_refused_with_the_choices(texts, message):
    with pytest.raises(ProtocolError, match=message):
        overrides.parse(texts)


def test_the_name_says_what_was_changed():
    found = overrides.parse(["max_depth=50", "crop=none", "flip=false", "disparity_floor=0.001"])
    name = overrides.label("zoe@1", found)
    assert name == "zoe@1+crop=none+disparity_floor=0.001+flip=false+max_depth=50"
    assert overrides.parse(name.split("+")[1:]) == found
    assert overrides.label("da@1", {}) == "da@1"


def test_a_switch_is_the_one_of_the_protocol():
    found = overrides.parse(["crop=garg", "max_depth=50"])
    changed = protocols.get("da", "disparity-affine", "kitti", "outdoor", **found)
    plain = protocols.get("da", "disparity-affine", "kitti", "outdoor")
    assert changed == dataclasses.replace(plain, crop="garg", max_depth=50)
    assert isinstance(changed, Protocol)


def test_another_protocol_can_be_reached_by_its_switches():
    """Names are not in the hash: the protocol of the stored official scores, said from `da`."""
    found = overrides.parse(["space=depth", "min_depth=0.001"])
    for dataset, domain in (("nyu", "indoor"), ("kitti", "outdoor")):
        changed = protocols.get("da", "disparity-affine", dataset, domain, **found)
        assert changed.hash == protocols.get("golden", "disparity-affine", dataset, domain).hash
