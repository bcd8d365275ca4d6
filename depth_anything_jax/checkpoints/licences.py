"""Licences of weights, passed on from teacher to labels to student to export.

A *chain* is a list of {"role", "source", "licence"}, oldest first, kept in the metadata of
checkpoints, label sets and exports. What is made from several things has the most restrictive of
their licences. This is bookkeeping, not legal advice.
"""

import functools
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from depth_anything_jax.utils.formatting import shortened

UNKNOWN = "unknown"

# From free to restrictive, by SPDX identifier. Unknown terms may forbid anything, so they rank
# above every licence that allows commercial use; what is known to forbid it ranks above them.
_PERMISSIVE = ("Apache-2.0", "BSD-3-Clause", "MIT", "CC-BY-4.0", "CC-BY-SA-4.0")
_NON_COMMERCIAL = ("CC-BY-NC-4.0", "CC-BY-NC-SA-4.0")
_ORDER = (*_PERMISSIVE, UNKNOWN, *_NON_COMMERCIAL)


def released(family: str, variant: str) -> str:
    """Returns the licence of released weights.

    Source: the authors' READMEs (Depth Anything V1: Apache-2.0; V2: Small Apache-2.0, Base, Large
    and Giant CC-BY-NC-4.0, metric models and ports alike; DINOv2: Apache-2.0).

    Args:
      family: "v1", "v2" or "dinov2".
      variant: "vits", "vitb", "vitl" or "vitg".
    """
    return "CC-BY-NC-4.0" if family == "v2" and variant != "vits" else "Apache-2.0"


def spdx(name: str | None) -> str:
    """Returns the SPDX identifier of a known licence in any letter case; other names unchanged."""
    by_lower = {known.lower(): known for known in _ORDER}
    return by_lower.get((name or UNKNOWN).lower(), name or UNKNOWN)


def commercial_use(licence: str | None) -> bool | None:
    """Whether commercial use is allowed; None: unknown."""
    name = spdx(licence)
    return False if name in _NON_COMMERCIAL else True if name in _PERMISSIVE else None


def combine(licences: Iterable[str | None]) -> str:
    """Returns the most restrictive of several licences; "unknown" where there is none."""
    names = [spdx(x) for x in licences] or [UNKNOWN]
    return max(names, key=lambda n: _ORDER.index(n if n in _ORDER else UNKNOWN))


def check(chain: Any, source: str) -> None:
    """Raises ValueError where a chain that was read from `source` is not one."""

    def is_link(x: Any) -> bool:
        if not isinstance(x, Mapping):
            return False
        names = x.get("role"), x.get("source"), x.get("licence") or ""
        return all(isinstance(name, str) for name in names)

    if not isinstance(chain, list | tuple) or not all(map(is_link, chain)):
        raise ValueError(
            f"{source}: licence_chain={shortened(chain)} is not a list of objects with 'role', "
            "'source' and 'licence' as text"
        )


def extend(
    chain: Sequence[Mapping[str, Any]], role: str, source: str, licence: str | None
) -> list[dict[str, Any]]:
    """Returns the chain with one more link.

    Args:
      role: "teacher", "encoder", "labels", "student", "weights", "export", …
      source: hub id, path or name of the thing.
      licence: its own; None: unknown.
    """
    link = {"role": role, "source": source, "licence": spdx(licence)}
    links = [dict(x) for x in chain]
    return links if link in links else [*links, link]


def used(
    history: Sequence[Mapping[str, Any]], role: str, source: str, licence: str | None
) -> list[dict[str, Any]]:
    """Returns the chain of a thing and, last, the thing itself in its role here.

    Weights without a history are in their own chain, as "weights": that link becomes the last one.

    Args:
      history: the thing's own chain.
      role, source, licence: as for `extend`.
    """
    itself = (source, pathlib.PurePath(source).name)
    kept = [x for x in history if x.get("role") != "weights" or x.get("source") not in itself]
    return extend(kept, role, source, licence)


def merge(*chains: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Merges chains; every link is kept, once."""
    links: list[dict[str, Any]] = []
    for link in itertools.chain(*chains):
        if link not in links:
            links.append(dict(link))
    return links


def combined(chain: Iterable[Mapping[str, Any]]) -> str:
    """Returns the licence of what a chain ends with."""
    return combine(link.get("licence") for link in chain)


@functools.cache
def show(licence: str | None, source: str) -> None:
    """Warns once per process where commercial use of weights is not (known to be) allowed."""
    allowed = commercial_use(licence)
    if allowed is False:
        logging.warning(
            "licence of %s: %s, not free for commercial use; nor is anything trained on its "
            "output or from its weights",
            source,
            spdx(licence),
        )
    elif allowed is None:
        logging.warning("licence of %s: %s; find out before you pass it on", source, spdx(licence))


def note(chain: Sequence[Mapping[str, Any]]) -> str:
    """Formats the licence and its chain as Markdown."""
    licence = combined(chain)
    text = {
        True: "commercial use is allowed under its terms",
        False: "NOT free for commercial use",
        None: "find out before you pass it on",
    }[commercial_use(licence)]
    rows = [f"| {x['role']} | {x['source']} | {spdx(x.get('licence'))} |" for x in chain]
    table = ["| role | source | licence |", "|---|---|---|", *rows]
    return "\n".join([f"Licence: {licence} ({text}), the most restrictive of:", "", *table])
