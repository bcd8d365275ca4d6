"""Chooses the photos that are trained on, and holds others out by scene.

Dropped are files that cannot be read, flat images, those much smaller than a crop or of another
size than the mask, and near-duplicates by perceptual hash: the first of each is kept.

Held out are whole scenes, in this order of preference: of five or more folders and videos some
whole ones; of fewer, blocks of neighbouring photos (by name) and shots that begin and end where the
picture changes; of a single scene its end, after a gap. Neighbouring frames are never on two sides.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from depth_anything_jax.adaptation.identity import write
from depth_anything_jax.adaptation.photos import Photo, bits_of
from depth_anything_jax.data import image_hashes
from depth_anything_jax.data.examples import stable_seed

FEWEST = 8  # photos to train on; CutMix mixes each with another one
FOLDERS = 5  # and videos, from which on each counts as one scene
RELATED = 32  # bits of 128 in which neighbours of one scene differ at most; unrelated photos: 50
BLOCKS = 4  # places in a sequence of photos from which some are held out
MOST_HELD_OUT = 500
ENLARGED = 2.0  # a photo is dropped where its short side would grow by more
GAP = 0.05  # share of a single scene's photos between those trained on and those held out
_CHUNKS = np.array_split(np.arange(128), image_hashes.NEAR + 1)


@dataclasses.dataclass
class Selection:
    """The photos by use.

    Attributes:
      train, held_out: photos in order.
      dropped: (path, reason) of the others.
      how: which rule held out the scenes.
    """

    train: list[Photo]
    held_out: list[Photo]
    dropped: list[tuple[str, str]]
    how: str

    def reasons(self) -> Counter[str]:
        """Counts the dropped by reason, without names and numbers of single photos."""
        return Counter(reason.partition(":")[0] for _, reason in self.dropped)


def select(
    photos: Sequence[Photo],
    *,
    size: int,
    share: float,
    seed: int = 0,
    mask: tuple[int, int] | None = None,
    failed: Sequence[tuple[str, str]] = (),
) -> Selection:
    """Drops and splits photos.

    Args:
      size: side of the training crop.
      share: of the photos to hold out.
      mask: size of the static mask.
      failed: what was dropped before.

    Raises:
      ValueError: too few are left; the message says why and what to do.
    """
    dropped = list(failed)
    kept: list[Photo] = []
    small: list[int] = []
    for photo in photos:
        if photo.error:
            dropped.append((photo.path, f"cannot be read: {photo.error}"))
        elif mask is not None and photo.size != mask:
            shown = "{}x{}, the mask {}x{}".format(*photo.size, *mask)
            dropped.append((photo.path, f"another size than the mask: {shown}"))
        elif min(photo.size) * ENLARGED < size:
            small.append(min(photo.size))
            dropped.append((photo.path, f"too small for the crop: short side {min(photo.size)}"))
        elif photo.hash is None:
            dropped.append((photo.path, "flat, nearly one colour"))
        else:
            kept.append(photo)
    _check_any(photos, kept, dropped, size, small, mask)
    kept, doubles = thinned(kept)
    dropped += doubles
    if len(kept) < FEWEST + 1:
        same = f", {len(doubles)} are nearly the same as others" if doubles else ""
        raise ValueError(
            f"{len(kept)} different photos of {len(photos)} are left{same}: {FEWEST + 1} or more "
            "are needed (some are held out), and a hundred or more are better. Of a video take "
            "more frames with --fps"
        )
    train, held, gap, how = split(kept, share=share, seed=seed)
    if len(train) < FEWEST or not held:
        raise ValueError(
            f"{len(train)} of {len(kept)} photos are left to train on and {len(held)} are held out "
            f"({how}): {FEWEST} and 1 are needed. Give more photos, or another --held_out"
        )
    reason = "between the part trained on and the part held out"
    return Selection(train, held, dropped + [(p.path, reason) for p in gap], how)


def _check_any(photos, kept, dropped, size, small, mask) -> None:
    if kept:
        return
    if not photos:
        first = f": {dropped[0][0]}: {dropped[0][1]}" if dropped else ""
        raise ValueError(f"--photos names no photo and no video with frames{first}")
    reasons = Counter(reason.partition(":")[0] for _, reason in dropped)
    advice = ""
    if mask is not None and reasons["another size than the mask"]:
        sizes = Counter(p.size for p in photos if p.size[0])
        shown = ", ".join(f"{h}x{w} ({n})" for (h, w), n in sizes.most_common(3))
        advice = (
            f". The mask is {mask[0]}x{mask[1]}, the photos {shown}: make the mask at the photos' "
            "size (height x width, upright)"
        )
    elif small:
        advice = (
            f". Crops have {size} pixels, the largest photo {max(small)}: give a smaller --size"
        )
    told = "; ".join(f"{n} {reason}" for reason, n in reasons.most_common())
    raise ValueError(f"none of {len(photos)} photos can be used: {told}{advice}")


def thinned(photos: Sequence[Photo]) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Drops near-duplicates of photos before them.

    Two hashes that differ in at most NEAR bits agree in one of NEAR + 1 chunks at least, so that
    only those in one of the same chunks are compared: half a million take a minute.
    """
    buckets: list[dict[bytes, list[int]]] = [{} for _ in _CHUNKS]
    kept: list[Photo] = []
    hashes: list[np.ndarray] = []
    owners: list[str] = []
    dropped = []
    for photo in photos:
        own = bits_of(photo)
        if own is None:
            kept.append(photo)
            continue
        bits = np.unpackbits(own.view(np.uint8))
        keys = [np.packbits(bits[chunk]).tobytes() for chunk in _CHUNKS]
        near = {i for table, key in zip(buckets, keys, strict=True) for i in table.get(key, ())}
        double = -1
        if near:
            order = sorted(near)
            others = np.stack([hashes[i] for i in order])
            differing = np.bitwise_count(others ^ own).sum(-1)
            if differing.min() <= image_hashes.NEAR:
                double = order[int(differing.argmin())]
        if double >= 0:
            dropped.append((photo.path, f"nearly the same as another: {owners[double]}"))
            continue
        for table, key in zip(buckets, keys, strict=True):
            table.setdefault(key, []).append(len(hashes))
        hashes.append(own)
        owners.append(photo.path)
        kept.append(photo)
    return kept, dropped


def split(
    photos: Sequence[Photo], *, share: float, seed: int = 0
) -> tuple[list[Photo], list[Photo], list[Photo], str]:
    """Splits photos into those trained on, those held out, and a gap; also says how."""
    wanted = min(max(1, round(share * len(photos))), MOST_HELD_OUT)
    units: dict[str, list[Photo]] = {}
    for photo in photos:
        video = photo.scene.partition("\n")[0]
        units.setdefault(f"{photo.root}\n{video or os.path.dirname(photo.name)}", []).append(photo)
    if len(units) >= FOLDERS:
        chosen: set[str] = set()
        count = 0
        for unit in sorted(units, key=lambda u: stable_seed(seed, u.partition("\n")[2])):
            fits = count + len(units[unit]) <= _most(wanted, len(photos))
            if count < wanted and fits:
                chosen.add(unit)
                count += len(units[unit])
        if chosen:
            return (
                [p for u, members in units.items() if u not in chosen for p in members],
                [p for u, members in units.items() if u in chosen for p in members],
                [],
                f"{len(chosen)} of {len(units)} folders and videos",
            )
    groups = [g for members in units.values() for g in scenes(members)]
    held = _blocks([len(g) for g in groups], wanted)
    if held:
        return (
            [p for i, g in enumerate(groups) if i not in held for p in g],
            [p for i, g in enumerate(groups) if i in held for p in g],
            [],
            f"{len(held)} of {len(groups)} scenes, told apart by their pictures",
        )
    gap = max(1, round(GAP * len(photos)))
    ordered = [p for g in groups for p in g]
    end = len(ordered) - wanted
    how = f"the last {wanted} of one scene, after a gap of {gap}"
    return ordered[: end - gap], ordered[end:], ordered[end - gap : end], how


def scenes(photos: Sequence[Photo]) -> list[list[Photo]]:
    """Cuts photos of one folder or video, in order, into scenes: at cuts, and unlike neighbours."""
    found: list[list[Photo]] = []
    for photo in photos:
        if found and _one_scene(found[-1][-1], photo):
            found[-1].append(photo)
        else:
            found.append([photo])
    return found


def _one_scene(before: Photo, after: Photo) -> bool:
    if before.scene or after.scene:  # shots of a video
        return before.scene == after.scene
    a, b = bits_of(before), bits_of(after)
    return a is not None and b is not None and int(np.bitwise_count(a ^ b).sum()) <= RELATED


def _most(wanted: int, total: int) -> int:
    """Returns how many may be held out in whole scenes: never more than half of all."""
    return min(max(2 * wanted, total // 4), total // 2)


def _blocks(sizes: Sequence[int], wanted: int) -> set[int]:
    """Chooses groups of about `wanted` photos together, in BLOCKS places, of at most half of all;
    none where each group has more."""
    total, starts = sum(sizes), np.cumsum([0, *sizes[:-1]])
    held: set[int] = set()
    for block in range(BLOCKS):
        goal, count = round(wanted * (block + 1) / BLOCKS), sum(sizes[i] for i in held)
        at = int(np.searchsorted(starts, total * (block + 0.5) / BLOCKS, side="right")) - 1
        while count < goal and at < len(sizes):
            if at not in held and count + sizes[at] <= _most(wanted, total):
                held.add(at)
                count += sizes[at]
            at += 1
    return held


def write_list(path: pathlib.Path, photos: Sequence[Photo]) -> None:
    """Writes the names of photos of one root as a manifest (JSON lines)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, "".join(json.dumps({"rgb": p.name}) + "\n" for p in photos))
