"""Nested dicts as flat ones, whose names are the keys on the way to each leaf, and back."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """{"a/b": leaf} of nested dicts; empty ones leave no trace."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            below = flatten(value, separator)
            flat |= {f"{name}{separator}{path}": leaf for path, leaf in below.items()}
        else:
            flat[name] = value
    return flat


def unflatten(flat: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """Nested dicts of {"a/b": leaf}."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        *folders, name = path.split(separator)
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree
