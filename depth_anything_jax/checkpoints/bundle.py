"""`Weights`: parameters with their description; `ModelBundle`: these and the network to run."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from depth_anything_jax.data import transforms
from depth_anything_jax.models import depth_anything


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters and their description.

    Attributes:
      params: {"encoder": …, "decoder": …} and "bins" under a bins head, numpy, at least float32;
        "encoder" alone for a backbone.
      variant: name in `models.depth_anything.VARIANTS`.
      version: "v1" or "v2", which blocks are tapped; None for a bare encoder.
      head: "relative", "sigmoid" or "bins".
      max_depth: metres, of a metric head.
      focal: pixels, of a metric head that predicts canonical depth (`outputs.to_metres`).
      licence: SPDX name, the most restrictive along the chain; None: unknown.
      source: as requested.
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
    def is_metric(self) -> bool:
        """Whether the output is metres; else it is disparity up to scale and shift."""
        return self.head != "relative"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelBundle(Weights):
    """A network with its parameters and their description; unpacks as `network, params`.

    Attributes:
      network: `network.apply({"params": params}, images)` predicts depth.
      dtype: compute dtype.
    """

    network: Any
    dtype: Any = jnp.float32

    def __iter__(self) -> Iterator[Any]:
        return iter((self.network, self.params))


def bundle_of(found: Weights, *, dtype: Any = jnp.float32, **how: Any) -> ModelBundle:
    """Builds the network of loaded weights and returns both as a bundle.

    Args:
      found: from `pretrained.load`.
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
