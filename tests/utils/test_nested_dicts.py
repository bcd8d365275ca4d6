"""Nested dicts: flat ones and back."""

from depth_anything_jax.utils.nested_dicts import flatten, unflatten


def test_flat_names_are_the_keys_on_the_way():
    tree = {"a": 1, "b": {"c": [2], "d": {"e": None, "f": {}}}}
    assert flatten(tree) == {"a": 1, "b/c": [2], "b/d/e": None}
    assert flatten(tree, ".") == {"a": 1, "b.c": [2], "b.d.e": None}
    assert unflatten(flatten(tree)) == {"a": 1, "b": {"c": [2], "d": {"e": None}}}
    assert unflatten({"a.b": 1, "a.c": 2}, ".") == {"a": {"b": 1, "c": 2}}
