"""Assigns values to parameters by their paths: learning rates, decay, freezing, sharding.

A *table* is an ordered sequence of (regex, value) pairs. A parameter gets the value of the first
pattern that matches its whole path ("encoder/blocks/attn/qkv/kernel").
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from depth_anything_jax.utils import param_paths

Table = Sequence[tuple[str, Any]]


def path_of(key_path) -> str:
    """Converts a key path of `jax.tree` functions to a slash-joined path."""
    return "/".join(_name(k) for k in key_path)


def _name(key) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def leaves_by_path(tree) -> dict[str, Any]:
    """Flattens a pytree to {path: leaf}, in tree order."""
    return {path_of(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_with_path(function, tree, *rest):
    """Like `jax.tree.map`, but passes each leaf's path as the function's first argument."""
    return jax.tree_util.tree_map_with_path(lambda p, *x: function(path_of(p), *x), tree, *rest)


def match(tree, table: Table, *, what: str, every_rule_used: bool = True):
    """Returns a tree of the structure of `tree` with each leaf's value from `table`.

    Args:
      what: the table's name in error messages ("optim.freeze").
      every_rule_used: whether to refuse a pattern that matches nothing (a misspelt path); a final
        catch-all ".*" is exempt.

    Raises:
      ValueError: no pattern matches a leaf, or a pattern matches no leaf.
    """
    rules = [(re.compile(pattern), value) for pattern, value in table]
    seen: set[str] = set()
    missing: list[str] = []

    def lookup(path, _):
        found = [(r.pattern, v) for r, v in rules if r.fullmatch(path)]
        seen.update(pattern for pattern, _ in found)
        if not found:
            missing.append(path)
            return None
        return found[0][1]

    values = map_with_path(lookup, tree)
    if missing:
        raise ValueError(
            f"{what}: no pattern matches {missing[0]!r}"
            + (f" and {len(missing) - 1} more parameters" if len(missing) > 1 else "")
            + "; end the table with ('.*', value)"
        )
    unused = [p for p, _ in table if p not in seen and p != ".*"]
    if every_rule_used and unused:
        raise ValueError(f"{what}: no parameter's path matches {unused}; check the spelling")
    return values


def fingerprint(params: Any) -> str:
    """Computes the SHA-256 of a tree of arrays in the order of their paths, to identify weights."""
    digest = hashlib.sha256()
    for path, leaf in sorted(param_paths.leaves_by_path(params).items()):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{path} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(leaf.data.cast("B") if leaf.size else b"")
    return digest.hexdigest()
