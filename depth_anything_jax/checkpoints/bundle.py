"""Weights with all that is known of them, and the model bundle: a network ready for its users."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from depth_anything_jax.data import transforms
from depth_anything_jax.models import depth_anything
from depth_anything_jax.utils import map_kinds


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters and what they are.

    Attributes:
      params: {"encoder": …, "decoder": …} and "bins" under a bins head, numpy, at least float32;
        "encoder" alone for a backbone.
      variant: name in `models.depth_anything.VARIANTS`.
      version: "v1" or "v2", which blocks are tapped; None for an encoder that nobody tapped yet.
      head: "relative", "sigmoid" or "bins".
      max_depth: metres, of a metric head.
      focal: pixels, of a metric head that predicts canonical depth (`outputs.to_metres`).
      licence: SPDX name, the most restrictive along the chain; None: unknown.
      source: what was asked for.
      parts: "all" or "encoder".
      input: how an image becomes the network's input; the bins head's differs from the others'.
      bin_centres: of a bins head, read off the tensors.
      metadata: of the file or checkpoint, and "layout" (of `convert.LAYOUTS`, or "flax" of a
        checkpoint of ours), "licence_chain" (see `licences`) and, where tensors were missing,
        "filled" ({"by": "init" or "zeros", "tensors": names}).
    """

    params: dict[str, Any]
    variant: str
    version: str | None
    head: str
    max_depth: float | None
    licence: str | None
    source: str
    parts: str
    metadata: dict[str, Any]
    input: transforms.InputTransform
    bin_centres: str | None = None
    focal: float | None = None

    @property
    def kind(self) -> map_kinds.MapKind:
        """What the network predicts."""
        return map_kinds.of_head(self.head)

    @property
    def is_metric(self) -> bool:
        """Whether the output is metres; else it is disparity up to scale and shift."""
        return map_kinds.is_metric_head(self.head)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelBundle(Weights):
    """A network with its parameters and all that its use needs; unpacks as `network, params`.

    Attributes:
      network: `network.apply({"params": params}, images)` gives depth.
      dtype: that it computes in.
    """

    network: Any
    dtype: Any = jnp.float32

    def __iter__(self) -> Iterator[Any]:
        return iter((self.network, self.params))


def bundle_of(found: Weights, *, dtype: Any = jnp.float32, **how: Any) -> ModelBundle:
    """The bundle of loaded weights and the network that they belong to.

    Args:
      found: as `pretrained.load` gives it.
      dtype: compute dtype; the parameters stay as they are.
      **how: of `models.build`: scan, remat, attention.

    Raises:
      ValueError: an encoder alone.
    """
    if "decoder" not in found.params or found.version is None:
        raise ValueError(
            f"{found.source} holds an encoder alone, which predicts no depth: teachers and models "
            "to score need their decoder too. A training run can start from it (init_from)"
        )
    network = depth_anything.build(
        found.variant,
        version=found.version,
        head=found.head,
        max_depth=found.max_depth,
        bin_centres=found.bin_centres,
        dtype=dtype,
        **how,
    )
    known = {field.name: getattr(found, field.name) for field in dataclasses.fields(Weights)}
    return ModelBundle(**known, network=network, dtype=dtype)
