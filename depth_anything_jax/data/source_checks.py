"""What a metric run needs of its sources: labels in metres and, for canonical models, cameras."""

from __future__ import annotations

from collections.abc import Sequence

from depth_anything_jax.data import camera
from depth_anything_jax.data.sources.base import Source, unwrapped
from depth_anything_jax.data.sources.files import RGBDSource


def without_metres(source: Source) -> str | None:
    """The key of a record whose label is not in metres; None where all seem to be.

    A manifest is looked through; of other sources the first record is read.
    """
    base, indices = unwrapped(source, range(len(source)))
    if isinstance(base, RGBDSource):
        entries = (base.entries[i] for i in indices)
        return next((e.rgb for e in entries if e.kind != "depth"), None)
    record = source[0]
    return None if "depth" in record else record["key"]


def without_camera(source: Source) -> str | None:
    """The same for records without a camera."""
    base, indices = unwrapped(source, range(len(source)))
    if isinstance(base, RGBDSource):
        entries = (base.entries[i] for i in indices)
        return next((e.rgb for e in entries if not e.has_camera), None)
    record = source[0]
    return record["key"] if camera.of(record) is None else None


def check(
    labelled: Sequence[Source], *, metres: bool, cameras: bool, field: str = "data.labelled"
) -> None:
    """Refuses sources before the first batch that would fail at every record.

    Args:
      metres, cameras: what is needed.
      field: of the configuration, that names them.

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
