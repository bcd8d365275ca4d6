"""Sources on one line, for configs and command lines: "type:path?field=value&field=value".

rgbd:pairs/manifest.json?datasets=nyu,tum        folder:photos        tfds:data/sa1b
scenes:A?count=1500&size=112                     benchmark:vkitti2?path=vkitti2&split=list&…
a bare path means folder:PATH
"""

import ast
from collections.abc import Mapping
from typing import Any

from depth_anything_jax.data.sources import TYPES

# The field that the text between ":" and "?" fills; "path" for the others.
_MAIN_FIELD = {"scenes": "domain", "pairs": "images", "benchmark": "set"}
_LISTS = ("datasets", "domains", "splits", "scenes", "exclude", "files")


def parse(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """A source's description as `sources.make` takes it; dicts pass unchanged.

    Values that read as Python literals (numbers, True) become them; list-valued fields (datasets,
    domains, splits, scenes, exclude, files) are split at commas; the rest stay text.

    Raises:
      ValueError: a field without "=", or an unknown type of source.
    """
    if not isinstance(source, str):
        return dict(source)
    head, _, query = source.partition("?")
    kind, colon, main = head.partition(":")
    if not colon or kind not in TYPES:
        if colon and "/" not in kind and "." not in kind and len(kind) > 1:
            raise ValueError(
                f"source {source!r}: {kind!r} is no type of source; use one of {', '.join(TYPES)}"
            )
        kind, main = "folder", head
    spec: dict[str, Any] = {"type": kind}
    if main:
        spec[_MAIN_FIELD.get(kind, "path")] = main
    for field in filter(None, query.split("&")):
        name, equals, value = field.partition("=")
        if not equals:
            raise ValueError(f"source {source!r}: {field!r} should read field=value")
        spec[name] = value.split(",") if name in _LISTS else _literal(value)
    return spec


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
