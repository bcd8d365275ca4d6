"""What must come out whatever the code: a step whose answer is known, and laws of every map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from depth_anything_jax.losses import relative
from depth_anything_jax.training.step import Networks, make_train_step, new_state
from depth_anything_jax.utils import param_paths
from tests.helpers import hostile
from tests.helpers.demo_configs import careful_student
from tests.twin import data, jax_networks

SIZE = 28
ROUNDING = 1e-12  # float64; sums of some hundred terms


@functools.cache
def weights(seed):
    """Of the network that maps every pixel by itself."""
    init = jax_networks.Pixels().init(jax.random.key(seed), jnp.zeros((1, SIZE, SIZE, 3)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape), init["params"])


@functools.cache
def one_step(**fields):
    """(gradients, metrics) of a step whose teacher is the student itself, by batch."""
    c = careful_student(batch_size=6, teacher="online", **fields)
    keep = optax.GradientTransformation(
        lambda params: params, lambda grads, _, params=None: (grads, grads)
    )
    network = jax_networks.Pixels()
    networks = Networks(network, jax_networks.Encoder(), network)
    step = make_train_step(networks, keep, c)
    frozen = {"encoder": weights(1)["encoder"], "teacher": weights(0)}

    @jax.jit
    def run(batch):
        after, metrics = step(new_state(weights(0), keep, ema=False), frozen, batch)
        return after.opt_state, metrics

    return run


def batch():
    found = data.batch(0, SIZE, 2, 4)
    found["labelled"]["shift_known"][:] = False
    return found


@pytest.fixture
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(x64, quick_compilation):
    """Undistorted L_u is 0, even across boxes: pixels and labels come from the same two images."""
    gradients, metrics = one_step(**{"perturb.distort": False, "perturb.cutmix.p": 1.0})(batch())
    assert metrics["loss/unlabelled"] < ROUNDING
    assert metrics["unlabelled/dropped_regions"] == 0  # every box was asked
    distorted, other = one_step()(batch())
    assert other["loss/unlabelled"] > 0.1
    assert optax.tree.norm(distorted) != optax.tree.norm(gradients)


def test_labels_of_unknown_shift_may_be_scaled_and_shifted(x64, quick_compilation):
    run, first, second = one_step(), batch(), batch()
    second["labelled"]["disparity"] = 3.7 * second["labelled"]["disparity"] + 2
    (want, _), (got, _) = run(first), run(second)
    for path, gradient in param_paths.leaves_by_path(want).items():
        assert jnp.abs(gradient).max() > 1e-6
        np.testing.assert_allclose(
            param_paths.leaves_by_path(got)[path], gradient, rtol=0, atol=ROUNDING, err_msg=path
        )


@pytest.mark.parametrize("gradient_weight", [0.0, 2.0])
def test_no_map_pulls_at_the_shift_or_scale_of_a_prediction(x64, gradient_weight):
    """Region by region: the gradient sums to 0, and <gradient, p> is 0 above the clamp."""
    names, cases = zip(*hostile.cases(2).items(), strict=True)
    pred, label, valid, mask = (jnp.asarray(np.stack(x)) for x in zip(*cases, strict=True))
    gradient = jax.jit(
        jax.grad(
            lambda p: (
                relative.affine_invariant_by_region(
                    p, label, valid, mask, gradient_weight=gradient_weight
                ).sum
            )
        )
    )(pred)
    gradient = np.asarray(gradient)
    assert np.isfinite(gradient).all() and not gradient[~np.asarray(valid)].any()
    pulled = 0
    for i, name in enumerate(names):
        for region in (valid[i] & ~mask[i], valid[i] & mask[i]):
            region = np.asarray(region)
            g, p = gradient[i][region], np.asarray(pred[i])[region]
            size = np.abs(g).sum()
            assert abs(g.sum()) <= ROUNDING * size, name
            if not len(p):
                continue
            median = np.sort(p)[(len(p) - 1) // 2]
            if np.abs(p - median).mean() > relative.MIN_DEVIATION:
                assert abs(g @ (p - median)) <= ROUNDING * np.abs(g * (p - median)).sum(), name
                pulled += size > 0
    assert pulled > 30


def test_which_side_of_the_mask_is_the_box_does_not_matter(x64):
    """The two regions of a map are peers: only the mixing of labels knows whose the box is."""
    arrays = [jnp.asarray(np.stack(x)) for x in zip(*hostile.cases(3).values(), strict=True)]
    loss = jax.jit(lambda *a: relative.affine_invariant_by_region(*a, gradient_weight=2.0).sum)
    pred, label, valid, mask = arrays
    np.testing.assert_allclose(
        loss(pred, label, valid, ~mask), loss(*arrays), rtol=ROUNDING, atol=0
    )
