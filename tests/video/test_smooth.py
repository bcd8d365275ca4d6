"""Smoothing takes the flicker and nothing else: static clips, moving objects, cameras and cuts."""

import cv2
import numpy as np
import pytest

from depth_anything_jax.data.scenes.source import render
from depth_anything_jax.data.sources.base import disparity_of
from depth_anything_jax.utils import scale_shift
from depth_anything_jax.video import cuts, smooth
from depth_anything_jax.video.cuts import Pictures
from depth_anything_jax.video.smooth import Flicker, SharedRange, Smoother


def scene(domain, index, size=112):
    rendered = render(domain, 1, index, size)
    return rendered["image"], disparity_of(rendered | {"valid": ~rendered["sky"]})


def spread(disparity):
    return float(np.subtract(*np.percentile(disparity, [98, 2])))


def run(frames, maps):
    look, smoother = Pictures(), Smoother()
    return [smoother(m, look(f)) for f, m in zip(frames, maps, strict=True)]


def flicker_of(maps):
    meter = Flicker()
    for values in maps:
        meter.add(values, False)
    return meter.mean


def jittered(maps, rng, noise=0.01):
    """What a network that sees single frames does: a scale and a shift for each, and noise."""
    unit = spread(maps[0])
    out = []
    for m in maps:
        scale, shift = np.exp(rng.normal(0, 0.1)), rng.normal(0, 0.05) * unit
        out.append((scale * m + shift + rng.normal(0, noise * unit, m.shape)).astype(np.float32))
    return out


def static(domain, index, rng, count=30):
    """A camera that stands still, with the noise of a sensor."""
    image, disparity = scene(domain, index)
    noise = rng.normal(0, 3, (count, *image.shape))
    return [np.clip(image + n, 0, 255).astype(np.uint8) for n in noise], [disparity] * count


def moving(count=12):
    """A box that crosses a room, then, after a cut, one that crosses a courtyard: exact maps."""
    frames, maps = [], []
    box, _ = scene("B", 3, 28)
    for index in (0, 1):
        image, disparity = scene("A", index)
        for k in range(count):
            frame, depth = image.copy(), disparity.copy()
            frame[40:68, 5 * k : 5 * k + 28] = box
            depth[40:68, 5 * k : 5 * k + 28] = (1 + 0.02 * k) * disparity.max()  # and comes nearer
            frames.append(frame)
            maps.append(depth)
    return frames, maps


@pytest.mark.parametrize(("domain", "index"), [("A", 0), ("B", 0), ("C", 1)])
def test_flicker_falls_to_the_noise(domain, index):
    rng = np.random.default_rng(0)
    frames, exact = static(domain, index, rng)
    unit = spread(exact[0])
    given = jittered(exact, rng)
    out = run(frames, given)
    assert [o.restarted for o in out] == [True] + [False] * 29
    before, after = flicker_of(given), flicker_of([o.values for o in out])
    # two frames of noise of .01 differ by .01 · 2/√π; no affine map can take that away
    floor = 0.01 * 2 / np.sqrt(np.pi)
    assert after < 1.2 * floor and before > 4 * after
    for o, g in zip(out, given, strict=True):  # affine, and told
        np.testing.assert_allclose(o.values, o.scale * g + o.shift, atol=1e-5 * unit)


def test_temporal_alignment_error_falls():
    """In metres, as Video Depth Anything measures it: the clip aligned to the truth at once."""
    rng = np.random.default_rng(0)
    frames, exact = static("A", 0, rng)
    given = jittered(exact, rng)
    errors = []
    for maps in (given, [o.values for o in run(frames, given)]):
        together = np.concatenate([m.ravel() for m in maps])
        found = scale_shift.least_squares(together, np.concatenate([m.ravel() for m in exact]))
        far = float(exact[0].min())
        metres = [1 / np.maximum(found.scale * m + found.shift, far) for m in maps]
        meter = Flicker(metric=True)
        for m in metres:
            meter.add(m, False)
        assert meter.pairs == len(maps) - 1
        errors.append(meter.mean)
    assert errors[0] > 4 * errors[1], errors


def test_an_exact_sequence_is_left_alone():
    frames, maps = moving()
    out = run(frames, maps)
    assert [k for k, o in enumerate(out) if o.restarted] == [0, 12]
    for o, m in zip(out, maps, strict=True):
        assert abs(o.scale - 1) < 1e-6 and abs(o.shift) < 1e-6 * spread(m)
        np.testing.assert_allclose(o.values, m, rtol=2e-6)


def exact(frames, maps):
    """The clip goes through as it is, without a restart."""
    for k, (o, m) in enumerate(zip(run(frames, maps), maps, strict=True)):
        assert o.restarted == (k == 0)
        assert abs(o.scale - 1) < 1e-6 and abs(o.shift) < 1e-6 * spread(m), k


def test_what_fills_nearly_half_of_the_picture_may_move():
    """It comes nearer and looks different each time; the rest is what tells the scale."""
    rng = np.random.default_rng(0)
    image, disparity = scene("A", 0)
    frames, maps = [], []
    for k in range(8):
        frame, depth = image.copy(), disparity.copy()
        light = 60 + 8 * (k % 2)
        frame[:50] = light + rng.integers(0, 9, frame[:50].shape)
        depth[:50] *= 1 + 0.1 * k
        frames.append(frame)
        maps.append(depth)
    exact(frames, maps)


def test_what_jumps_about_leaves_no_memory():
    """An object that is somewhere else each time: where it was, the reference begins anew."""
    image, disparity = scene("A", 0)
    frames, maps = [], []
    for k in range(12):
        frame, depth = image.copy(), disparity.copy()
        part = slice(21 * (k % 5), 21 * (k % 5) + 21)
        frame[part] = 0.7 * frame[part]
        depth[part] = 3 * disparity.max() - disparity[part]
        frames.append(frame)
        maps.append(depth)
    exact(frames, maps)


def test_a_moving_object_is_no_flicker():
    """With flicker on top the exact sequence comes back, one scale and shift for each scene."""
    frames, maps = moving()
    given = jittered(maps, np.random.default_rng(0), noise=0)
    out = [o.values for o in run(frames, given)]
    for part in (slice(0, 12), slice(12, 24)):
        truth = np.concatenate([m.ravel() for m in maps[part]])
        errors = []
        for clip in (given, out):
            x = np.concatenate([m.ravel() for m in clip[part]])
            found = scale_shift.least_squares(x, truth)
            errors.append(np.abs(found.scale * x + found.shift - truth).mean() / spread(truth))
        # a twentieth of the correction is left out by design
        assert errors[1] < errors[0] / 8, errors


def pan(step, count, size=336):
    image, disparity = scene("A", 2, size)
    columns = [slice(step * k, step * k + 112) for k in range(count)]
    return [image[100:212, c] for c in columns], [disparity[100:212, c].copy() for c in columns]


def test_a_moving_camera_is_not_held_back():
    """No cell stands still here. An exact sequence drifts by a few per cent, and a jittered one
    comes much nearer to the truth."""
    frames, maps = pan(2, 60)
    out = run(frames, maps)
    assert not any(o.restarted for o in out[1:])
    assert all(abs(o.scale - 1) < 0.03 for o in out)
    given = jittered(maps, np.random.default_rng(0), noise=0)
    truth = np.concatenate([m.ravel() for m in maps])
    errors = []
    for clip in (given, [o.values for o in run(frames, given)]):
        x = np.concatenate([m.ravel() for m in clip])
        found = scale_shift.least_squares(x, truth)
        errors.append(np.abs(found.scale * x + found.shift - truth).mean())
    assert errors[0] > 3 * errors[1], errors


def test_an_approach_stays_an_approach():
    """Towards a wall disparity grows everywhere; what is known is taken back only in part."""
    image, disparity = scene("A", 3, 336)
    frames, maps = [], []
    for k in range(50):
        zoom = 1 + 0.01 * k
        size = int(336 / zoom)
        cut = slice((336 - size) // 2, (336 - size) // 2 + size)
        frames.append(cv2.resize(image[cut, cut], (112, 112), interpolation=cv2.INTER_AREA))
        small = cv2.resize(disparity[cut, cut], (112, 112), interpolation=cv2.INTER_AREA)
        maps.append(small * zoom)
    out = run(frames, maps)
    assert all(0.9 < o.scale < 1.1 for o in out)
    assert np.median(out[-1].values) > 0.8 * np.median(maps[-1])


def test_noise_does_not_eat_contrast():
    """Errors as networks make them, smooth over a tenth of the picture: a regression in one
    direction shrinks the map a little each time (to .4 after 150 frames), the other swells it."""
    rng = np.random.default_rng(0)
    _, disparity = scene("A", 0)
    smoother, still = Smoother(), cuts.Change(False, np.zeros((32, 32), bool))
    unit, scales = spread(disparity), []
    for _ in range(100):
        coarse = rng.normal(0, 0.1 * unit, (16, 16)).astype(np.float32)
        error = cv2.resize(coarse, disparity.shape[::-1], interpolation=cv2.INTER_CUBIC)
        scales.append(smoother(disparity + error, still).scale)
    assert 0.94 < np.mean(scales[-20:]) < 1.06


def test_cuts_are_seen_in_pictures_and_in_maps():
    rng = np.random.default_rng(0)
    pictures = [scene(domain, index)[0] for domain in "ABC" for index in range(4)]
    look = Pictures()
    found = []
    for picture in pictures:
        for _ in range(3):
            noisy = np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
            found.append(look(noisy).cut)
    assert found == [True, False, False] * 12
    look, frames = Pictures(), pan(3, 60)[0]  # a camera that turns quickly
    assert [look(f).cut for f in frames] == [True] + [False] * 59
    # the same picture, and a map that says the opposite
    _, disparity = scene("A", 0)
    smoother = Smoother()
    results = [smoother(m) for m in (disparity, 2 * disparity + 1, -disparity, -disparity)]
    assert [r.restarted for r in results] == [True, False, True, False]
    np.testing.assert_allclose(results[1].scale, 0.95 * 0.5 + 0.05, rtol=1e-6)


def test_a_change_of_light_moves_nothing():
    """The picture grows darker everywhere; the maps go on."""
    image, disparity = scene("A", 0)
    frames = [(image * (1 - 0.01 * k)).astype(np.uint8) for k in range(30)]
    given = jittered([disparity] * 30, np.random.default_rng(0), noise=0)
    out = run(frames, given)
    assert not any(o.restarted for o in out[1:])
    assert flicker_of([o.values for o in out]) < flicker_of(given) / 5


def test_a_flash_leaves_scale_and_shift():
    """What a network says of white frames is of nothing: the maps after go on as those before."""
    rng = np.random.default_rng(0)
    frames, exact = static("A", 0, rng)
    given = jittered(exact, rng, noise=0)
    for k in (10, 11, 20):
        frames[k] = np.full_like(frames[k], 255)
        given[k] = rng.random(given[k].shape).astype(np.float32)
    out = run(frames, given)
    assert [k for k, o in enumerate(out) if o.restarted] == [0]
    seen = [k for k in range(30) if k not in (10, 11, 20)]
    assert flicker_of([out[k].values for k in seen]) < flicker_of([given[k] for k in seen]) / 5


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 7), (40, 3)])
def test_small_maps(shape):
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    smoother, look = Smoother(), Pictures()
    image = np.zeros((*shape, 3), np.uint8)
    for scale in (1, 2, 1):
        out = smoother(scale * values, look(image))
        assert np.isfinite(out.values).all() and out.values.shape == shape


def test_hostile_maps():
    _, disparity = scene("A", 0)
    holes = disparity.copy()
    holes[20:40, 30:60] = np.nan
    holes[:3] = np.inf
    flat, nothing = np.ones_like(disparity), np.full_like(disparity, np.nan)
    smoother = Smoother()
    for values in (disparity, holes, 1.5 * holes, disparity):
        out = smoother(values)
        assert np.isfinite(out.scale) and np.isfinite(out.shift)
        np.testing.assert_array_equal(np.isfinite(out.values), np.isfinite(values))
    assert not out.restarted
    for values in (flat, disparity, nothing, disparity, np.zeros_like(flat), flat):
        out = smoother(values)
        np.testing.assert_array_equal(out.values, values)
        assert out.restarted and (out.scale, out.shift) == (1, 0)
    out = smoother(disparity[:50])  # another size in the middle
    assert out.restarted


def test_shared_range():
    """Constant where the scene is, smooth where it changes, new at a cut."""
    shared = SharedRange()
    ramp = np.linspace(0, 1, 10_001)[None]
    np.testing.assert_allclose(shared(ramp, True), (0.02, 0.98), atol=1e-9)
    np.testing.assert_allclose(shared(ramp, False), (0.02, 0.98), atol=1e-9)
    low, high = shared(2 * ramp, False)
    assert high == pytest.approx(0.9 * 0.98 + 0.1 * 1.96)
    for _ in range(60):
        low, high = shared(2 * ramp, False)
    assert high == pytest.approx(1.96, rel=1e-2) and low == pytest.approx(0.04, rel=1e-2)
    np.testing.assert_allclose(shared(5 + ramp, True), (5.02, 5.98), atol=1e-9)
    np.testing.assert_allclose(shared(np.full((2, 2), np.nan), False), (5.02, 5.98), atol=1e-9)
    assert SharedRange()(np.full((2, 2), np.nan), True) == (0, 1)


def test_measures_by_hand():
    a, b = np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 2.0, 5.0]])
    # |a − b| = 1, 0, 1: over b 1/2, 0, 1/5; over a 1, 0, 1/4
    assert smooth.temporal_alignment_error(a, b) == pytest.approx((0.7 / 3 + 1.25 / 3) / 2)
    assert smooth.temporal_alignment_error(a, b) == smooth.temporal_alignment_error(b, a)
    assert smooth.temporal_alignment_error(0 * a, b) is None
    part = np.where(a == 4, np.nan, a)
    assert smooth.temporal_alignment_error(part, b) == pytest.approx((0.5 / 2 + 1 / 2) / 2)
    ramp = np.linspace(0, 1, 101)[None]
    assert smooth.flicker(ramp, ramp + 0.1) == pytest.approx(0.1 / 0.96)
    assert smooth.flicker(7 * ramp - 3, 7 * ramp - 2.3) == pytest.approx(0.1 / 0.96)
    assert smooth.flicker(np.ones((2, 2)), np.ones((2, 2))) is None
    meter = Flicker()
    assert meter.mean is None
    for values, cut in ((ramp, True), (ramp + 0.1, False), (5 * ramp, True), (5 * ramp, False)):
        meter.add(values, cut)
    assert meter.pairs == 2 and meter.mean == pytest.approx(0.05 / 0.96)
