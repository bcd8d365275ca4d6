"""What must hold of the losses whatever the formulas' details: invariances, counts, sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from depth_anything_jax.losses import relative
from tests.helpers import hostile

EXACT = 1e-12  # float64: rounding of some hundred sums


@functools.cache
def run(loss=relative.affine_invariant_by_region, **kwargs):
    """Compiled: arrays → ((sum, everything), gradient of the sum by the first array)."""

    def value(*arrays):
        result = loss(*arrays, **kwargs)
        return result.sum, result

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def batch(seed, b=6, h=9, w=10, dtype=np.float64):
    """Predictions, labels, valid pixels and boxes; the last map has no valid pixel."""
    rng = np.random.default_rng(seed)
    pred, label = rng.normal(2, 3, (b, h, w)), rng.uniform(0, 1, (b, h, w))
    valid = rng.random((b, h, w)) < 0.9
    valid[-1] = False
    mask = np.zeros((b, h, w), bool)
    mask[:, 2:7, 3:9] = True
    return (
        jnp.asarray(pred, dtype),
        jnp.asarray(label, dtype),
        jnp.asarray(valid),
        jnp.asarray(mask),
    )


def boxes_by_hand(pred, label, valid, mask, trim):
    """One map in plain Python numbers, pixel by pixel."""
    h, w = pred.shape
    n, residuals = 0, []
    for inside in (False, True):
        p, d = [], []
        for y in range(h):
            for x in range(w):
                if valid[y, x] and bool(mask[y, x]) == inside:
                    p.append(float(pred[y, x]))
                    d.append(float(label[y, x]))
        n += len(p)
        if len(p) < 10:
            continue
        normalised = []
        for values in (p, d):
            t = sorted(values)[(len(values) - 1) // 2]
            s = sum(abs(v - t) for v in values) / len(values)
            normalised.append([(v - t) / s for v in values])
        residuals += [abs(a - b) for a, b in zip(*normalised, strict=True)]
    if not residuals:
        return 0.0
    k = len(residuals) - (len(residuals) * trim[0]) // trim[1]
    kept = [r for r in residuals if r <= sorted(residuals)[k - 1]]
    return len(residuals) / n * sum(kept) / len(kept)


def random_boxes(count, h=9, w=10):
    rng = np.random.default_rng(5)
    pred, label = rng.normal(size=(count, h, w)), rng.uniform(size=(count, h, w))
    valid = rng.random((count, h, w)) < rng.uniform(0, 1, (count, 1, 1))
    y, x = (
        np.sort(rng.integers(0, h + 1, (2, count)), 0),
        np.sort(rng.integers(0, w + 1, (2, count)), 0),
    )
    rows, columns = np.arange(h)[None, :, None], np.arange(w)[None, None]
    y0, y1, x0, x1 = (a[:, None, None] for a in (*y, *x))
    mask = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
    return pred, label, valid, mask


def test_a_thousand_random_boxes_equal_plain_arithmetic(x64):
    pred, label, valid, mask = random_boxes(1000)

    @jax.jit
    def one_by_one(*arrays):
        return jax.vmap(lambda *a: relative.affine_invariant_by_region(*(x[None] for x in a)).sum)(
            *arrays
        )

    got = one_by_one(*map(jnp.asarray, (pred, label, valid, mask)))
    want = [
        boxes_by_hand(*arrays, (1, 10)) for arrays in zip(pred, label, valid, mask, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=EXACT)
    assert 0 < want.count(0) < 200 and len(set(want)) > 800


def test_label_and_prediction_may_be_scaled_and_shifted(x64):
    pred, label, valid, mask = batch(0)
    loss = run(gradient_weight=2.0)
    (value, _), gradient = loss(pred, label, valid, mask)
    (value_2, _), gradient_2 = loss(pred, 3.7 * label + 2, valid, mask)
    np.testing.assert_allclose(value_2, value, rtol=EXACT)
    np.testing.assert_allclose(gradient_2, gradient, rtol=0, atol=EXACT)
    (value_3, _), gradient_3 = loss(0.2 * pred - 5, label, valid, mask)
    np.testing.assert_allclose(value_3, value, rtol=EXACT)
    np.testing.assert_allclose(0.2 * gradient_3, gradient, rtol=0, atol=EXACT)


def test_gradient_is_orthogonal_to_shift_and_scale_of_every_region(x64):
    pred, label, valid, mask = batch(1)
    _, gradient = run(gradient_weight=2.0)(pred, label, valid, mask)
    for region in (mask, ~mask):
        inside = jnp.where(region, gradient, 0)
        assert jnp.abs(inside).sum(axis=(1, 2))[:-1].min() > 0.1
        np.testing.assert_allclose(inside.sum(axis=(1, 2)), 0, atol=EXACT)
        np.testing.assert_allclose((inside * pred).sum(axis=(1, 2)), 0, atol=EXACT)
    assert (jnp.where(valid, 0, gradient) == 0).all()


def test_flat_predictions_are_pushed_not_skipped_and_are_counted(x64):
    """Below the clamp the scale is a constant: the gradient still sums to 0, <g, p> may not."""
    _, label, valid, mask = batch(2)
    noise = jnp.asarray(np.random.default_rng(0).normal(size=label.shape))
    for pred in (jnp.zeros(label.shape), jnp.full(label.shape, 2.0), 2 + 1e-9 * noise):
        (value, result), gradient = run()(pred, label, valid, mask)
        assert value > 0 and jnp.isfinite(gradient).all()
        # rounding of sums of terms of size 1e6 / n
        np.testing.assert_allclose(gradient.sum(axis=(1, 2)), 0, atol=1e-8)
        assert result.logs["flat_predictions"] == (10, 10)
        assert result.logs["dropped_maps"] == (1, 6)
        assert result.logs["pred_zero_share"] == (6 if (pred == 0).all() else 0, 6)
    assert jnp.abs(gradient).sum() > 1


@pytest.mark.parametrize("gradient_weight", [0.0, 2.0])
def test_a_mask_of_zeros_is_the_plain_loss_and_one_of_ones_is_the_partners(x64, gradient_weight):
    pred, label, valid, _ = batch(3)
    plain = run(relative.affine_invariant, trim=0.1, gradient_weight=gradient_weight)
    partner = [jnp.roll(x, 1, axis=0) for x in (label, valid)]
    cases = [(jnp.zeros_like(valid), (label, valid)), (jnp.ones_like(valid), partner)]
    for mask, whose in cases:
        (want, _), want_gradient = plain(pred, *whose)
        mixed = [jnp.where(mask, p, x) for p, x in zip(partner, (label, valid), strict=True)]
        (value, _), gradient = run(gradient_weight=gradient_weight)(pred, *mixed, mask)
        np.testing.assert_allclose(value, want, rtol=EXACT)
        np.testing.assert_allclose(gradient, want_gradient, rtol=0, atol=EXACT)


def test_student_that_is_the_teacher_up_to_scale_and_shift_has_no_loss(x64):
    _, label, valid, mask = batch(4)
    loss = run(gradient_weight=2.0)
    for pred in (label, 4.0 * label + 3):
        (value, result), _ = loss(pred, label, valid, mask)
        assert 0 <= value < EXACT and result.count == 5
    assert loss(1 - label, label, valid, mask)[0][0] > 1


def test_the_share_asked_for_is_trimmed(x64):
    _, label, _, mask = batch(5)
    valid = jnp.ones_like(mask)
    pred = label + 0.003 * batch(6)[0]
    pred = pred.at[:, 0, :5].add(jnp.linspace(5, 9, 5))  # outliers
    (loose, result), _ = run(trim=0.0)(pred, label, valid, mask)
    assert result.logs["trimmed_share"] == (0, 6)
    for trim_per, trimmed in ("sample", 9), ("region", 6 + 3):
        (tight, result), _ = run(trim=0.1, trim_per=trim_per)(pred, label, valid, mask)
        np.testing.assert_allclose(result.logs["trimmed_share"][0] / 6, trimmed / 90, atol=EXACT)
        assert tight < loose


def test_guard_drops_faint_regions_and_their_number_is_logged_without_it(x64):
    pred, label, valid, mask = batch(7)
    label = jnp.where(mask, 0.02 * label, label)
    (value, off), _ = run()(pred, label, valid, mask)
    (guarded, on), _ = run(min_region_scale=0.1)(pred, label, valid, mask)
    assert off.logs["small_regions"] == on.logs["small_regions"] == (5, 10)
    assert off.logs["dropped_regions"] == (0, 10) and on.logs["dropped_regions"] == (5, 10)
    assert on.count == 5 and guarded < value


@pytest.mark.parametrize("kwargs", [{}, dict(min_region_scale=0.1, min_valid=1)])
def test_counts_are_known_from_the_labels_alone(x64, kwargs):
    pred, *rest = (jnp.asarray(np.stack(a)) for a in zip(*hostile.cases().values(), strict=True))

    @jax.jit
    def count(*labels):
        return relative.contributing_maps(relative.label_statistics(*labels, **kwargs))

    mixed = count(*rest)
    for p in (pred, -pred, jnp.zeros_like(pred)):
        assert run(**kwargs)(p, *rest)[0][1].count == mixed
    plain = run(relative.affine_invariant, min_valid=kwargs.get("min_valid", 10))
    assert plain(pred, *rest[:2])[0][1].count == count(*rest[:2])
    assert 0 < mixed < len(pred)


def test_sums_and_counts_add_over_microbatches(x64):
    arrays = batch(6)
    features = [jax.random.normal(jax.random.key(i), (6, 5, 8)) for i in (0, 1)]
    features[0] = features[0].at[:3].set(features[1][:3])  # three images all above the margin
    cut = run(gradient_weight=2.0)
    align = run(relative.feature_alignment, denominator="global")
    for loss, whole in (cut, arrays), (align, features):
        parts = [loss(*(x[i : i + 2] for x in whole)) for i in (0, 2, 4)]
        (_, want), want_gradient = loss(*whole)
        added = jax.tree.map(lambda *x: sum(x), *(result for (_, result), _ in parts))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=EXACT), added, want)
        gradient = jnp.concatenate([g for _, g in parts])
        np.testing.assert_allclose(gradient, want_gradient, rtol=0, atol=EXACT)


def test_tokens_above_the_margin_have_no_gradient(x64):
    frozen = jax.random.normal(jax.random.key(0), (6, 5, 8))
    noise = jax.random.normal(jax.random.key(1), frozen.shape)
    student = frozen + noise * jnp.linspace(0.05, 2, 5)[:, None]
    unit = [np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (student, frozen)]
    above = (unit[0] * unit[1]).sum(-1) > 0.85
    assert 6 < above.sum() < 24
    loss = run(relative.feature_alignment)
    (_, result), gradient = loss(student, frozen)
    assert (gradient[above] == 0).all() and (jnp.abs(gradient[~above]).max(-1) > 0).all()
    np.testing.assert_allclose(result.logs["active_fraction"][0] / 6, (~above).mean(), rtol=EXACT)
    (value, same), gradient = loss(frozen, frozen)
    assert value == 0 and same.count == 6 and same.logs["active_fraction"] == (0, 6)
    assert (gradient == 0).all()
    to_frozen = jax.grad(lambda f: relative.feature_alignment(student, f).sum)(frozen)
    assert (to_frozen == 0).all()


def test_narrow_input_is_computed_in_float32_and_wide_input_stays_wide(x64):
    pred, label, valid, mask = batch(7)
    narrow = pred.astype(jnp.bfloat16)
    label_32 = label.astype(jnp.float32)
    (got, _), gradient = run()(narrow, label_32, valid, mask)
    (want, _), want_gradient = run()(narrow.astype(jnp.float32), label_32, valid, mask)
    assert got == want and got.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient, want_gradient.astype(jnp.bfloat16))
    everything = run(gradient_weight=2.0)(pred, label, valid, mask)
    assert {x.dtype for x in jax.tree.leaves(everything)} == {jnp.dtype("float64")}
    tokens = jnp.ones((6, 5, 8), jnp.bfloat16)
    assert relative.feature_alignment(tokens, tokens).sum.dtype == jnp.float32


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_prediction_shows_in_the_value(x64, broken):
    """NaN where the loss looks must reach the loss: the trainer stops on it."""
    pred, label, valid, mask = batch(8)
    valid = valid.at[0, 4, 4].set(True)
    (value, _), _ = run()(pred.at[0, 4, 4].set(broken), label, valid, mask)
    assert jnp.isnan(value)
    tokens = jnp.ones((6, 5, 8))
    (value, _), _ = run(relative.feature_alignment)(tokens.at[0, 0, 0].set(broken), tokens)
    assert jnp.isnan(value)


def test_eight_devices_give_what_one_gives_and_only_reduce():
    arrays = batch(9, b=16, dtype=np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    step = run(gradient_weight=2.0)
    (_, want), want_gradient = step(*arrays)
    spread = [jax.device_put(a, sharding) for a in arrays]
    program = step.lower(*spread).compile()
    (_, got), gradient = program(*spread)
    # float32 sums of 16 maps in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)
    np.testing.assert_allclose(gradient, want_gradient, rtol=0, atol=1e-6)
    assert gradient.sharding.is_equivalent_to(sharding, 3)
    assert "all-reduce" in program.as_text()
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert other not in program.as_text()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(trim=1.0), "trim=1.0"),
        (dict(trim_per="batch"), "trim_per='batch'.*'sample' or 'region'"),
        (dict(min_valid=0), "min_valid=0"),
    ],
)
def test_bad_settings_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        relative.affine_invariant_by_region(*batch(0, dtype=np.float32), **kwargs)


def test_bad_denominator_is_named():
    with pytest.raises(ValueError, match="denominator='batch'"):
        relative.feature_alignment(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)), denominator="batch")


def test_the_gradient_term_counts_the_valid_pixels_of_regions_that_contribute_nothing(x64):
    """As the other term does: a map that is half degenerate has half the weight, in both terms."""
    rng = np.random.default_rng(0)
    pred, label = rng.uniform(size=(2, 1, 8, 16))
    mask = np.zeros((1, 8, 16), bool)
    mask[:, :, 8:] = True
    label = np.where(mask, 0.5, label)  # flat inside the mask
    terms = {}
    for name, valid in (("whole", np.ones_like(mask)), ("half", ~mask)):
        one = relative.affine_invariant_by_region(
            *map(jnp.asarray, (pred, label, valid, mask)), trim=0.0, gradient_weight=1.0
        )
        terms[name] = {k: float(one.logs[k][0]) for k in ("affine", "gradient")}
    for term in ("affine", "gradient"):
        assert terms["whole"][term] == pytest.approx(terms["half"][term] / 2), term
