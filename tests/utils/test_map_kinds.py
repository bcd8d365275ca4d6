"""utils/map_kinds.py: members are the strings of files, and print as they do."""

import json

import pytest

from depth_anything_jax.utils import map_kinds
from depth_anything_jax.utils.map_kinds import MapKind


def test_members_are_the_strings_that_stand_in_files():
    assert (*map_kinds.LABELS, *map_kinds.PREDICTIONS, *map_kinds.SAVED) == tuple(MapKind)
    for kind in MapKind:
        assert repr({kind: kind}) == repr({kind.value: kind.value})  # score logs hash such tables
        assert json.dumps({kind: kind}) == json.dumps({kind.value: kind.value})
        assert MapKind(kind.value) is kind and f"{kind}" == kind.value
    assert {kind.value for kind in MapKind if kind.larger_is_nearer} == {
        "disparity", "disparity-affine", "relative inverse depth",
    }  # fmt: skip


@pytest.mark.parametrize("head", ["relative", "sigmoid", "bins"])
def test_a_head_has_one_kind(head):
    metric = head != "relative"
    assert map_kinds.is_metric_head(head) == metric
    saved = map_kinds.SAVED[metric]
    assert saved.prediction is map_kinds.of_head(head)
    assert saved.larger_is_nearer == map_kinds.of_head(head).larger_is_nearer != metric
