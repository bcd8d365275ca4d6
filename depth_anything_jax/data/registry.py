"""Builds sources of records from text or mappings: folders, manifests, training sets, scenes.

A source is a sequence: `len(source)`, `source[i]` → record, `source.key(i)` → the record's name
without reading it. A record is a dict:
  key          str, the path relative to the source's root
  image        uint8 (h, w, 3) RGB
and where the source is labelled
  depth        float32 (h, w), metres; or, by the label's kind,
  disparity    float32 (h, w), any unit; both 0 where invalid
  valid        bool (h, w): where the label holds a measurement
  sky          bool (h, w): known sky (all False without a mask)
  shift_known  bool: zero disparity means infinitely far (depth labels, scale-only disparity)
and sometimes `dataset`, `domain` and `camera` (`data.camera.Camera`: fx, fy, cx, cy in pixels of
the image).

`make(spec)` builds one from a mapping, `{"type": "folder", "path": …}` (docs/data.md). Sources hold
paths and no open files, so that spawned workers can receive them.
"""

from __future__ import annotations

import ast
import inspect
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.pseudo_labels.label_codec import LabelError
from depth_anything_jax.data.sources import manifest
from depth_anything_jax.data.sources.base import Source, SourceError, Subset
from depth_anything_jax.data.sources.files import FolderSource, pairs, rgbd
from depth_anything_jax.data.training_sets import SETS
from depth_anything_jax.data.training_sets.base import TrainingSet
from depth_anything_jax.utils.choices import did_you_mean

if TYPE_CHECKING:
    from depth_anything_jax.data.pseudo_labels.join import Labelled

# Modules that take long to import are imported where they are needed.


def _tfds(path: str | None = None, **options: Any) -> Source:
    from depth_anything_jax.data.sources.tfds_source import RecordSource

    return RecordSource(path, **options)


def _scenes(**options: Any) -> Source:
    from depth_anything_jax.data.scenes.source import SceneSource

    return SceneSource(**options)


def _benchmark(set: str, path: str, name: str | None = None, **options: Any) -> Source:
    from depth_anything_jax.data import benchmarks
    from depth_anything_jax.data.benchmarks.training_source import TrainingSource

    return TrainingSource(benchmarks.make(set, path, **options), name)


TYPES: dict[str, Callable[..., Source]] = {
    "folder": FolderSource,
    "rgbd": rgbd,
    "pairs": pairs,
    "tfds": _tfds,
    "scenes": _scenes,
    "benchmark": _benchmark,
    **SETS,
}


def make(spec: Mapping[str, Any]) -> Source:
    """Builds a source from its description.

    Args:
      spec: "type" (a key of TYPES) and that type's fields. Every type also takes "slice": [start,
        stop] (part of the records, in order) and "labels": {…} (labels that `attach` adds to the
        images). "weight" belongs to the mixture and is ignored here; fields that are None count as
        absent.

    Raises:
      SourceError: an unknown type or field (naming the nearest one), or a layout that is not there.
    """
    options = {k: v for k, v in dict(spec).items() if v is not None}
    kind = options.pop("type", None)
    if kind not in TYPES:
        raise SourceError(
            f"unknown source type {kind!r} in {dict(spec)}: one of {', '.join(TYPES)}"
        )
    options.pop("weight", None)
    for field in _LISTS:
        if isinstance(options.get(field), str):
            options[field] = options[field].split(",")
    part, labels = options.pop("slice", None), options.pop("labels", None)
    _check_fields(kind, options)
    source = TYPES[kind](**options)
    if len(source) == 0:
        raise SourceError(f"source {dict(spec)} holds no record")
    if part is not None:
        start, stop = part
        indices = range(len(source))[start:stop]
        if not indices:
            raise SourceError(f"slice {list(part)} of the {len(source)} in {source.name} is empty")
        source = Subset(source, indices)
    if labels is not None:
        source = attach(source, labels)
    return source


def _check_fields(kind: str, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(TYPES[kind]).parameters
    if kind == "scenes":
        from depth_anything_jax.data.scenes.source import SceneSource

        parameters = inspect.signature(SceneSource).parameters
    known = [p for p, value in parameters.items() if value.kind != value.VAR_KEYWORD]
    if kind == "rgbd":
        known += [f for f in manifest.DEFAULT_FIELDS if f not in manifest.SELECTABLE]
    if kind == "pairs":
        known += [f for f in manifest.DEFAULT_FIELDS if f != "split"]
    if kind == "benchmark":
        known += options  # its reader names what it does not know
    if kind in SETS:
        known += [p for p in inspect.signature(TrainingSet).parameters if p not in known]
    if kind == "tfds":
        from depth_anything_jax.data.sources.tfds_source import RecordSource

        known += [p for p in inspect.signature(RecordSource).parameters if p != "path"]
    for field, value in options.items():
        if kind == "rgbd" and field in manifest.SELECTABLE:
            raise SourceError(
                f"source type 'rgbd' has no field {field!r}: {field}s={value} selects the entries "
                f"with that {field}, default_{field}={value} is for entries without one"
            )
        if field not in known:
            raise SourceError(
                f"source type {kind!r} has no field {field!r}"
                + (did_you_mean(field, known) or f": it takes {', '.join(known)}")
            )
    for field, value in parameters.items():
        if (
            value.default is value.empty
            and value.kind != value.VAR_KEYWORD
            and field not in options
        ):
            raise SourceError(f"source type {kind!r} needs the field {field!r}")
    for field in ("count", "seed", "size", "fov") if kind == "scenes" else ():
        value, numbers = options.get(field, 0), (int, float) if field == "fov" else int
        if isinstance(value, bool) or not isinstance(value, numbers):
            whole = "" if field == "fov" else "whole "
            raise SourceError(f"scenes: {field}={value!r}: must be a {whole}number, as {field}=100")


# The field that the text between ":" and "?" fills; "path" for the others.
_MAIN_FIELD = {"scenes": "domain", "pairs": "images", "benchmark": "set"}


_TEXTS = (
    "path", "images", "depths", "root", "mask", "depth_root", "data_dir", "name", "suffix", "fmt",
    "kind", "field", "dataset", "domain", "split", "part", "cameras", "cameras_file", "splits_file",
    "default_dataset", "default_domain", "default_split",
)  # fmt: skip
_LISTS = ("datasets", "domains", "splits", "scenes", "exclude", "files")


def parse(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """Parses one line of text into the mapping that `make` takes; mappings pass unchanged.

    Values that read as Python literals (numbers, True) become them, and so do "true" and "false",
    but for names and paths; list-valued fields (datasets, domains, splits, scenes, exclude, files)
    are split at commas; the rest stay text.

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
        if name in spec:
            raise ValueError(f"source {source!r}: {name!r} is given twice")
        spec[name] = value.split(",") if name in _LISTS else _literal(name, value)
    return spec


def _literal(name: str, text: str) -> Any:
    if name in _TEXTS:
        return text
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def attach(source: Source, spec: Mapping[str, Any] | str) -> Labelled:
    """Joins the labels that a description names to a source of images.

    Args:
      source: the images.
      spec: a path, or {"path", "type", …}. "type" is "records" or "files" (without it, records
        where the folder has a card). Both take "shuffle" and "mask", a file (see `Labelled`);
        files take `FileLabels`' fields and "allow_missing". A path may carry them too:
        "labels/x?shuffle=1".

    Raises:
      LabelError: an unknown type or field, or labels that do not fit.
    """
    from depth_anything_jax.data.pseudo_labels import join, label_store

    options: dict[str, Any] = {"path": spec} if isinstance(spec, str) else dict(spec)
    if not options.get("path"):
        raise LabelError(f"labels {spec!r} name no path")
    options |= parse(f"folder:{os.fspath(options['path'])}") | {"type": options.get("type")}
    path, kind = options.pop("path"), options.pop("type")
    if kind is None:
        root = pathlib.Path(path).expanduser()
        kind = "files" if root.is_dir() and not (root / label_store.CARD).exists() else "records"
    shuffle, mask = options.pop("shuffle", None), options.pop("mask", None)
    common = {"shuffle": shuffle, "mask": None if mask is None else formats.read_mask(str(mask))}
    if kind == "records":
        _refuse_unknown(options, kind, ("shuffle", "mask"))
        return join.with_labels(source, label_store.LabelStore(path), **common)
    if kind != "files":
        raise LabelError(f"labels.type={kind!r}: one of records, files")
    allow_missing = bool(options.pop("allow_missing", False))
    fields = (
        "kind", "shift_known", "suffix", "void", "fmt", "scale", "field", "label_orientation",
        "label_stretched",
    )  # fmt: skip
    _refuse_unknown({k: v for k, v in options.items() if k not in fields}, kind, fields)
    labels = join.FileLabels(path, **options)
    return join.with_files(source, labels, allow_missing=allow_missing, **common)


def _refuse_unknown(options: Mapping[str, Any], kind: str, known: Sequence[str]) -> None:
    if options:
        raise LabelError(
            f"labels of type {kind!r} have no field {', '.join(options)}; they take "
            f"path, type, {', '.join(known)}"
        )
