"""Checks a run's sources: metres and cameras where they are needed, the same files on resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from depth_anything_jax.data import camera
from depth_anything_jax.data.pseudo_labels.label_store import keys_digest
from depth_anything_jax.data.sources.base import Source, Subset, unwrapped
from depth_anything_jax.data.sources.files import RGBDSource

NAMES = 1_000_000  # keys of a source that are digested: a second or two


def without_metres(source: Source) -> str | None:
    """Returns the key of a record whose label is not in metres, or None.

    All entries of a manifest are checked, and the first record of other sources.
    """
    base, indices = unwrapped(source, range(len(source)))
    if isinstance(base, RGBDSource):
        entries = (base.entries[i] for i in indices)
        return next((e.rgb for e in entries if e.kind != "depth"), None)
    record = source[0]
    return None if "depth" in record else record["key"]


def without_camera(source: Source) -> str | None:
    """Returns the key of a record without a camera, or None, as `without_metres` does."""
    base, indices = unwrapped(source, range(len(source)))
    if isinstance(base, RGBDSource):
        entries = (base.entries[i] for i in indices)
        return next((e.rgb for e in entries if not e.common.has_camera), None)
    record = source[0]
    return record["key"] if camera.of(record) is None else None


def describe(sources: Mapping[str, Sequence[Source]]) -> dict[str, list[dict[str, Any]]]:
    """Counts and digests the records of each source of each part, as checkpoints keep it.

    Of more than NAMES records the keys of NAMES at equal distances are digested: a file more or
    less moves all keys behind it.
    """
    described: dict[str, list[dict[str, Any]]] = {}
    for part, members in sources.items():
        described[part] = []
        for source in members:
            some = Subset(source, range(0, len(source), -(-len(source) // NAMES)))
            facts = {"name": source.name, "records": len(source), "keys": keys_digest(some)}
            described[part].append(facts)
    return described


def check_unchanged(
    then: Mapping[str, Sequence[Mapping[str, Any]]],
    now: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    workdir: str,
    allowed: bool,
) -> str:
    """Refuses to continue a run whose sources have other records, or warns of it.

    Args:
      then, now: as `describe` gives them; what a checkpoint does not have is not compared.
      workdir: of the run.
      allowed: warn instead.

    Returns:
      The warning; "" where nothing has changed.

    Raises:
      ValueError: naming each source that has changed.
    """
    changed = []
    for part, members in now.items():
        for i, (old, new) in enumerate(zip(then.get(part, []), members, strict=False)):
            counts = old["records"], new["records"]
            if counts[0] != counts[1]:
                what = f"{counts[0]} records when it was saved, {counts[1]} now"
            elif old["keys"] != new["keys"]:
                what = f"{counts[0]} records as before, but with other names or in another order"
            else:
                continue
            changed.append(f"\n  data.{part}[{i}], {new['name']}: {what}")
    text = f"the data of {workdir} have changed:{''.join(changed)}"
    if allowed and changed:
        return f"warning: {text}\n  It goes on with another order of examples"
    if changed:
        raise ValueError(
            f"{text}\nIt would go on with another order of examples. Restore the files; or go on "
            "with --config.data.allow_changed=True; or choose another --workdir, which may start "
            f"from these weights: --config.init_from={workdir} --config.init_parts=params"
        )
    return ""


def check(
    labelled: Sequence[Source], *, metres: bool, cameras: bool, field: str = "data.labelled"
) -> None:
    """Raises, before the first batch, for sources whose records would all fail.

    Args:
      metres, cameras: whether labels in metres, or cameras, are needed.
      field: the configuration's field that names the sources.

    Raises:
      ValueError: naming the source, a record and how to fix it.
    """
    for source in labelled:
        key = without_metres(source) if metres else None
        if key is not None:
            raise ValueError(
                f"{field}: {source.name} has labels of disparity, in no known unit ({key}), "
                "and a metric head learns metres. Give depth (kind=depth, and scale where the file "
                "has no unit; docs/data.md), leave the source out, or train a relative model"
            )
        key = without_camera(source) if cameras else None
        if key is not None:
            raise ValueError(f"{field}: {source.name}: {camera.missing(key)}")
