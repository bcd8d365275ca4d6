"""What the numbers of a map mean: one vocabulary for labels, predictions, heads and saved files."""

from __future__ import annotations

import enum


class MapKind(enum.StrEnum):
    """The kind of a map. Members are the strings that stand in files, options and reports.

    Labels (a record's label stands in the field of that name):
      DEPTH: along the optical axis, in metres.
      DISPARITY: inverse depth, in any unit.
    Predictions, by what is unknown of them:
      DISPARITY_AFFINE: scale and shift of inverse depth.
      DEPTH_AFFINE: scale and shift of depth.
      DEPTH_SCALE: the scale of depth.
      METRIC: nothing, it is depth in metres.
    Maps of `inference.depth.Depth` and its files:
      RELATIVE_INVERSE_DEPTH: disparity up to scale and shift.
      METRIC_DEPTH: depth in metres, inf where infinitely far.
    """

    DEPTH = "depth"
    DISPARITY = "disparity"
    DISPARITY_AFFINE = "disparity-affine"
    DEPTH_AFFINE = "depth-affine"
    DEPTH_SCALE = "depth-scale"
    METRIC = "metric"
    RELATIVE_INVERSE_DEPTH = "relative inverse depth"
    METRIC_DEPTH = "metric depth"

    def __repr__(self) -> str:
        # As of a plain string: errors quote it, and score logs hash the repr of tables of kinds.
        return repr(self.value)

    @property
    def larger_is_nearer(self) -> bool:
        """Whether the numbers are inverse depth."""
        return self in (
            MapKind.DISPARITY,
            MapKind.DISPARITY_AFFINE,
            MapKind.RELATIVE_INVERSE_DEPTH,
        )

    @property
    def prediction(self) -> MapKind:
        """The kind that a saved map is scored as."""
        return _SCORED_AS.get(self, self)


LABELS = (MapKind.DEPTH, MapKind.DISPARITY)
PREDICTIONS = (
    MapKind.DISPARITY_AFFINE,
    MapKind.DEPTH_AFFINE,
    MapKind.DEPTH_SCALE,
    MapKind.METRIC,
)
SAVED = (MapKind.RELATIVE_INVERSE_DEPTH, MapKind.METRIC_DEPTH)
_SCORED_AS = {
    MapKind.RELATIVE_INVERSE_DEPTH: MapKind.DISPARITY_AFFINE,
    MapKind.METRIC_DEPTH: MapKind.METRIC,
}


def of_head(head: str) -> MapKind:
    """The kind of what a network's head predicts: "relative", or one in metres (sigmoid, bins)."""
    return MapKind.DISPARITY_AFFINE if head == "relative" else MapKind.METRIC


def is_metric_head(head: str) -> bool:
    """Whether a head predicts metres, of which zero disparity is infinitely far."""
    return of_head(head) is MapKind.METRIC
