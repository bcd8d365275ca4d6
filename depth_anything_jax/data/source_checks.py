"""Checks that a metric run's sources have labels in metres and, where needed, cameras."""

from __future__ import annotations

from collections.abc import Sequence

from depth_anything_jax.data import camera
from depth_anything_jax.data.sources.base import Source, unwrapped
from depth_anything_jax.data.sources.files import RGBDSource


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
