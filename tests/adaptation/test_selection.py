"""Which photos are used: near-duplicates, sizes, and scenes that are held out whole."""

import numpy as np
import pytest

from depth_anything_jax.adaptation import selection
from depth_anything_jax.adaptation.photos import Photo
from depth_anything_jax.data import image_hashes


def hashes(count, seed=0):
    """Hashes of pictures unlike each other."""
    drawn = np.random.default_rng(seed).integers(0, 2**64, (count, 2), np.uint64)
    return [(int(a), int(b)) for a, b in drawn]


def flipped(value, bits, seed=0):
    """A hash that differs in so many bits."""
    at = np.random.default_rng(seed).choice(128, bits, replace=False)
    words = list(value)
    for b in at:
        words[b // 64] ^= 1 << int(b % 64)
    return words[0], words[1]


def photos(count, *, folder="", seed=0, size=(200, 300), **fields):
    return [
        Photo("/r", f"{folder}{i:04d}.jpg", size=size, hash=h, **fields)
        for i, h in enumerate(hashes(count, seed))
    ]


def select(found, **options):
    return selection.select(found, **{"size": 98, "share": 0.1, **options})


def test_thinning_finds_what_all_pairs_find():
    rng = np.random.default_rng(1)
    found = photos(60)
    for i in range(60):  # copies at 1 to 14 bits
        base = found[int(rng.integers(60))]
        near = flipped(base.hash, int(rng.integers(1, 15)), seed=i)
        found.append(Photo("/r", f"copy{i}.jpg", size=base.size, hash=near))
    kept, dropped = selection.thinned(found)
    bits = [np.array(p.hash, np.uint64) for p in kept]
    pairs = image_hashes.near_duplicates(bits, bits)
    assert [p for p in pairs if p.first != p.second] == []
    assert len(kept) + len(dropped) == 120 and len(dropped) > 10
    names = {p.path for p in kept}
    assert all(reason.partition(": ")[2] in names for _, reason in dropped)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 96), (2, 2, 2, 2, 32), (30, 30, 30, 1, 1)])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_half_of_the_photos_at_least_are_trained_on(sizes, share):
    found = [p for i, n in enumerate(sizes) for p in photos(n, folder=f"{i}/", seed=i)]
    chosen = select(found, share=share)
    assert 2 * len(chosen.train) >= len(chosen.held_out) + len(chosen.train)
    assert chosen.held_out


def test_too_few_to_train_on_are_refused():
    with pytest.raises(ValueError, match="are left to train on .* another --held_out"):
        select(photos(10), share=0.5)


def test_a_dropped_photo_has_its_reason():
    found = photos(30)
    found += [
        Photo("/r", "bad.jpg", error="not a picture"),
        Photo("/r", "tiny.jpg", size=(40, 60), hash=hashes(1, 7)[0]),
        Photo("/r", "wall.jpg", size=(200, 300)),
        Photo("/r", "twin.jpg", size=(200, 300), hash=flipped(found[3].hash, 2)),
    ]
    chosen = select(found, failed=[("clip.mp4", "cannot be read: damaged")])
    reasons = dict(chosen.dropped)
    assert reasons["/r/bad.jpg"] == "cannot be read: not a picture"
    assert reasons["/r/tiny.jpg"] == "too small for the crop: short side 40"
    assert reasons["/r/wall.jpg"].startswith("flat")
    assert reasons["/r/twin.jpg"] == "nearly the same as another: /r/0003.jpg"
    assert chosen.reasons()["cannot be read"] == 2
    assert len(chosen.train) + len(chosen.held_out) == 30


@pytest.mark.parametrize(
    "found, options, message",
    [
        ([], {}, "names no photo"),
        (photos(1), {}, "1 different photos of 1 are left: 9 or more"),
        ([Photo("/r", f"{i}.jpg", size=(200, 300), hash=(1, 2)) for i in range(50)], {},
         "1 different photos of 50 are left, 49 are nearly the same as others"),
        (photos(50, size=(40, 60)), {}, "Crops have 98 pixels, the largest photo 40: .*--size"),
        (photos(50), {"mask": (300, 200)},
         r"50 another size than the mask\. The mask is 300x200, the photos 200x300 \(50\)"),
        ([Photo("/r", f"{i}.jpg", error="damaged") for i in range(9)], {},
         "none of 9 photos can be used: 9 cannot be read"),
    ],
)  # fmt: skip
def test_too_few_photos_are_refused_with_a_way_out(found, options, message):
    with pytest.raises(ValueError, match=message):
        select(found, **options)


def test_photos_of_another_size_than_the_mask_are_left_out():
    found = photos(20) + photos(5, folder="other/", seed=3, size=(100, 100))
    chosen = select(found, mask=(200, 300))
    assert len(chosen.dropped) == 5 and chosen.reasons() == {"another size than the mask": 5}


def test_of_many_folders_whole_ones_are_held_out():
    found = [p for k in range(8) for p in photos(6, folder=f"walk{k}/", seed=k)]
    chosen = select(found)
    held, kept = ({p.name.split("/")[0] for p in x} for x in (chosen.held_out, chosen.train))
    assert held and not held & kept and len(held | kept) == 8
    assert "of 8 folders" in chosen.how
    more = select(found + photos(6, folder="walk8/", seed=8))  # a new folder moves no other
    assert {p.name.split("/")[0] for p in more.held_out} <= held | {"walk8"}


def test_neighbours_that_resemble_each_other_stay_on_one_side():
    """A flat folder of twelve sequences, each a slow change of its first picture."""
    found = []
    for k, base in enumerate(hashes(12)):
        for i in range(10):
            near = flipped(base, 10, seed=100 * k + i)  # 20 bits apart: no near-duplicates
            found.append(Photo("/r", f"{k:02d}_{i:02d}.jpg", size=(200, 300), hash=near))
    chosen = select(found)
    held, kept = ({p.name[:2] for p in x} for x in (chosen.held_out, chosen.train))
    assert held and not held & kept
    assert len(chosen.train) + len(chosen.held_out) == 120


def test_unlike_photos_are_held_out_in_several_places():
    chosen = select(photos(100))
    numbers = [int(p.name[:4]) for p in chosen.held_out]
    assert 8 <= len(numbers) <= 20
    assert max(numbers) - min(numbers) > 50


def test_shots_of_a_video_are_scenes_and_a_single_one_loses_its_end():
    two = [
        Photo("/r", f"v/{i:03d}.jpg", f"v\n{i // 20}", (200, 300), h)
        for i, h in enumerate(hashes(120))
    ]
    chosen = select(two)
    held, kept = ({p.scene for p in x} for x in (chosen.held_out, chosen.train))
    assert held and not held & kept
    one = [Photo("/r", f"v/{i:03d}.jpg", "v\n0", (200, 300), h) for i, h in enumerate(hashes(100))]
    chosen = select(one)
    assert [p.name for p in chosen.held_out] == [f"v/{i:03d}.jpg" for i in range(90, 100)]
    assert [p.name for p in chosen.train][-1] == "v/084.jpg"
    assert chosen.reasons() == {"between the part trained on and the part held out": 5}


def test_half_a_million_photos_hold_out_a_bounded_part():
    kept = photos(3000)
    train, held, _, _ = selection.split(kept * 10, share=0.5)
    assert len(held) <= 2 * selection.MOST_HELD_OUT and len(train) > len(held)
