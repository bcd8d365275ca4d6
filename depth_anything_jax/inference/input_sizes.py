"""Computes the network's input size for a picture, and refuses pictures with too many patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from depth_anything_jax.data import buckets
from depth_anything_jax.inference import images

# Patches of one picture. Attention's scores of ViT-S take 6.4 GB of float32 at this many where they
# are held at once, and 518 x 6216 pixels (1:12) come to it. Our choice.
MAX_TOKENS = 16384


def of_network(
    pixels: Sequence[int],
    input_size: int,
    lengths: Sequence[int] = (),
    *,
    patch_size: int,
    most: int = MAX_TOKENS,
    shrink: bool = False,
) -> tuple[int, int]:
    """Computes height and width of the network's input for a picture.

    Args:
      pixels: height and width of the picture.
      input_size: its shorter side, before rounding to patches.
      lengths: allowed lengths of its longer side; empty: the official one.
      patch_size: of the encoder, in pixels.
      most: maximum number of patches.
      shrink: takes the largest smaller input_size that has no more than `most` patches.

    Raises:
      ValueError: more patches than `most`; the message says what to do.
    """

    def at(size: int) -> tuple[int, int]:
        return buckets.label_shape(pixels[0], pixels[1], size, lengths, patch_size=patch_size)

    def tokens(shape: tuple[int, int]) -> int:
        return shape[0] * shape[1] // patch_size**2

    shape = at(input_size)
    if tokens(shape) <= most:
        return shape
    smaller = (n * patch_size for n in range(input_size // patch_size, 0, -1))
    fits = next((n for n in smaller if tokens(at(n)) <= most), None)
    if shrink and fits is not None:
        return at(fits)
    advice = "crop it"
    if fits is not None:
        advice += f", give input_size={fits} or less, or tile={max(patch_size, min(pixels[:2]))}"
    raise ValueError(
        f"a picture of {pixels[0]}x{pixels[1]} pixels would go to the network as {shape[0]}x"
        f"{shape[1]}, {tokens(shape):,} patches, and memory grows with their square; the limit is "
        f"max_tokens={most:,}: {advice}"
    )


def lengths(
    pictures: Iterable[Any], input_size: int, chosen: int | Sequence[int], *, patch_size: int
) -> Sequence[int]:
    """Returns the allowed lengths of the longer side: `chosen` itself, or that many from a
    sample of up to 256 pictures; none for 0.

    Raises:
      ValueError: lengths that are not multiples of the patch size; a number, and pictures that
        are not a sequence; none of the sample can be read.
    """
    if not isinstance(chosen, int):
        bad = [n for n in chosen if n % patch_size or n < patch_size]
        if bad:
            raise ValueError(f"buckets={list(chosen)}: {bad} are no multiples of {patch_size}")
        return list(chosen)
    if chosen < 0:
        raise ValueError(f"buckets={chosen}: how many lengths, or the lengths themselves")
    if not chosen or not pictures:
        return []
    if not isinstance(pictures, Sequence):
        raise ValueError(
            f"buckets={chosen} are chosen from a sample, which needs a list; of an iterator give "
            "the lengths: buckets=(518, 686, 924)"
        )
    return buckets.sampled(_Pictures(pictures), input_size, chosen, patch_size=patch_size)


class _Pictures:
    """Pictures as a data source for `buckets.sampled`."""

    name = "the pictures"

    def __init__(self, pictures: Sequence[Any]):
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": images.read(self._pictures[index]).pixels}

    def key(self, index: int) -> str:
        """The picture's number, for messages."""
        return str(index)
