"""The metric-bins head: against formulas in float64 and transformers' ZoeDepth; its promises."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.checkpoints import convert
from depth_anything_jax.models import VARIANTS, bins, build
from depth_anything_jax.models.dpt import DecoderMaps
from depth_anything_jax.models.outputs import is_metric
from depth_anything_jax.utils import nested_dicts
from tests import parity
from tests.helpers.bins_head import RANGE, TINY, head_weights, in_transformers
from tests.helpers.small_networks import FAST_TO_COMPILE

GRID = (2, 3)
FLOAT32 = 1e-4  # against transformers: at temperatures near .02 float32's rounding counts fiftyfold
CENTRES = pytest.mark.parametrize("centres", bins.CENTRES)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)


def decoder_maps(seed=0, batch=1):
    """Maps as a decoder of this width gives them for a grid of 2 x 3 patches."""
    rng = np.random.default_rng(seed)
    rows, columns = GRID
    sizes = [(1, 2), (rows, columns), (2 * rows, 2 * columns), (4 * rows, 4 * columns)]

    def draw(size, channels):
        return rng.normal(size=(batch, *size, channels))

    fused = tuple(draw(s, TINY.features) for s in (*sizes[1:], (8 * rows, 8 * columns)))
    full = (14 * rows, 14 * columns)
    return DecoderMaps(
        relative=np.abs(draw(full, 1))[..., 0],
        activation=np.abs(draw(full, 32)),
        layer4_rn=draw(sizes[0], TINY.features),
        fused=fused,
    )


def params_of(state):
    layout = convert.LAYOUTS["zoedepth"]
    return convert.from_torch(state, layout)["bins"]


def params32(state):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params_of(state))


def maps32():
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), decoder_maps())


def to_torch(maps):
    torch = pytest.importorskip("torch")

    def tensor(x):
        x = x if x.ndim == 3 else x.transpose(0, 3, 1, 2)
        return torch.tensor(x, requires_grad=True)

    return DecoderMaps(*map(tensor, maps[:3]), tuple(map(tensor, maps.fused)))


def back(x):
    x = x.detach().numpy()
    return x if x.ndim == 3 else x.transpose(0, 2, 3, 1)


@CENTRES
def test_values_and_gradients_are_those_of_the_formulas(x64, centres):
    torch = pytest.importorskip("torch")
    from tests.torch_reference import bins as reference

    state, maps = head_weights(centres), decoder_maps()
    tensors = {n: torch.tensor(x, requires_grad=True) for n, x in state.items()}
    theirs_in = to_torch(maps)
    theirs = reference.metres(
        tensors, *theirs_in[:3], theirs_in.fused, centres=centres, max_depth=RANGE
    )
    weight = np.random.default_rng(1).normal(size=theirs.shape)
    (theirs * torch.tensor(weight)).sum().backward()

    head = bins.MetricBins(RANGE, centres, jnp.float64)
    params = params_of(state)

    def loss(params, maps):
        depth = head.apply({"params": params}, maps)
        return jnp.sum(depth * weight), depth

    grads, ours = jax.jit(jax.grad(loss, (0, 1), has_aux=True), compiler_options=FAST_TO_COMPILE)(
        params, maps
    )
    theirs = theirs.detach().numpy()
    assert np.ptp(theirs) > 2 and theirs.std() > 0.3, "a reference that hardly varies shows little"
    assert ours.dtype == np.float64
    assert parity.relative_error(ours, theirs) <= parity.FLOAT64
    expected = params_of({n: x.grad.numpy() for n, x in tensors.items()})
    pairs = {
        f"params/{n}": (nested_dicts.flatten(grads[0])[n], x)
        for n, x in nested_dicts.flatten(expected).items()
    }
    for name in ("relative", "activation", "layer4_rn"):
        pairs[name] = getattr(grads[1], name), back(getattr(theirs_in, name).grad)
    for i, x in enumerate(theirs_in.fused):
        pairs[f"fused {i}"] = grads[1].fused[i], back(x.grad)
    for name, (have, want) in pairs.items():
        assert np.any(want), f"no gradient reaches {name}"
        assert np.abs(have - want).max() <= parity.FLOAT64 * np.abs(want).max(), name


@CENTRES
def test_transformers_head_says_the_same(centres):
    """Its effective attractor strength is 300, like ours: not the 1000 of its configuration."""
    torch = pytest.importorskip("torch")
    state, maps = head_weights(centres), decoder_maps()
    head = in_transformers(centres, state, torch.float32)
    assert head.attractors[0].alpha == 1000
    theirs_in = to_torch(jax.tree.map(lambda x: x.astype(np.float32), maps))
    with torch.no_grad():
        theirs, _ = head(
            outconv_activation=theirs_in.activation,
            bottleneck=theirs_in.layer4_rn,
            feature_blocks=theirs_in.fused,
            relative_depth=theirs_in.relative,
        )
    theirs = theirs[:, 0].numpy()
    assert theirs.std() > 0.3
    run = jax.jit(bins.MetricBins(RANGE, centres).apply, compiler_options=FAST_TO_COMPILE)
    ours = run({"params": params32(state)}, maps32())
    assert parity.relative_error(ours, theirs) <= FLOAT32


@pytest.mark.nightly
def test_another_attractor_strength_would_be_seen(monkeypatch):
    torch = pytest.importorskip("torch")
    from tests.torch_reference import bins as reference

    state, maps = head_weights("softplus"), decoder_maps()
    theirs = reference.metres(
        {n: torch.tensor(x) for n, x in state.items()},
        *to_torch(maps)[:3],
        to_torch(maps).fused,
        centres="softplus",
        max_depth=RANGE,
    )
    monkeypatch.setattr(bins, "ALPHA", 1000.0)
    run = jax.jit(bins.MetricBins(RANGE).apply, compiler_options=FAST_TO_COMPILE)
    ours = run({"params": params32(state)}, maps32())
    assert parity.relative_error(ours, theirs.detach()) > 5 * FLOAT32


@pytest.mark.parametrize(
    ("centres", "dtype"),
    [
        ("softplus", jnp.float32),
        ("softplus", jnp.bfloat16),
        pytest.param("normed", jnp.bfloat16, marks=pytest.mark.nightly),
    ],
)
def test_finite_whatever_comes_in(centres, dtype):
    """Forward and backward: probabilities at their clamp, temperatures at their least."""
    params = params32(head_weights(centres))
    head = bins.MetricBins(RANGE, centres, dtype)

    def loss(params, maps):
        depth = head.apply({"params": params}, maps)
        return jnp.mean(jnp.log(depth)), depth

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), compiler_options=FAST_TO_COMPILE)
    for size in (0.0, 1e-6, 1.0, 1e4):
        maps = jax.tree.map(lambda x, size=size: x * size, maps32())
        grads, depth = run(params, maps)
        assert depth.dtype == jnp.float32 and depth.shape == maps.relative.shape
        assert jnp.all(jnp.isfinite(depth)) and jnp.all(depth > 0), size
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(grads)), size


def test_bfloat16_has_no_steps():
    """Centres and probabilities stay float32: a smooth map keeps as many values as in float32."""
    params = params32(head_weights("softplus"))

    def metres(dtype):
        head = bins.MetricBins(RANGE, dtype=dtype)
        run = jax.jit(head.apply, compiler_options=FAST_TO_COMPILE)
        return np.asarray(run({"params": params}, maps32()))

    full, half = metres(jnp.float32), metres(jnp.bfloat16)
    assert len(np.unique(half)) > 0.99 * half.size
    # bfloat16 has 8 bits, and seven convolutions in a row round to them
    assert np.median(np.abs(half - full)) < 0.02 * np.ptp(full)
    assert np.corrcoef(half.ravel(), full.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("p", [1e-9, 0.01, 0.3, 0.5, 0.99, 1 - 1e-9])
@pytest.mark.parametrize("temperature", [bins.MIN_TEMPERATURE, 1.0, bins.MAX_TEMPERATURE])
def test_log_binomial_is_nearly_the_binomial(p, temperature):
    """At temperature 1 the mode is the binomial's; colder peaks, hotter spreads; all sum to one."""
    share = np.asarray(bins.log_binomial(jnp.float32([p, 1 - p]), jnp.float32(temperature), 64))
    assert share.dtype == np.float32 and np.isfinite(share).all()
    assert share.sum() == pytest.approx(1, abs=1e-6)
    assert abs(np.argmax(share) - p * 63) <= 1
    if temperature == 1 and 0.2 < p < 0.8:
        exact = np.array([math.comb(63, k) * p**k * (1 - p) ** (63 - k) for k in range(64)])
        # Stirling's missing square root makes the tails heavier and the mode up to 4 % lower
        assert share == pytest.approx(exact, abs=0.01)


def test_centres_move_towards_their_attractors():
    centres = jnp.array([[[[1.0, 2.0, 3.0]]]])
    moved = np.asarray(bins.attract(centres, jnp.array([[[[2.0]]]])))[0, 0, 0]
    assert moved == pytest.approx([1 + 1 / 301, 2, 3 - 1 / 301])
    both = np.asarray(bins.attract(centres, jnp.array([[[[1.5, 2.5]]]])))[0, 0, 0]
    pull = 0.5 / (1 + 300 * 0.25), 1.5 / (1 + 300 * 2.25)
    assert both[0] == pytest.approx(1 + sum(pull) / 2) and both[1] == pytest.approx(2)


@pytest.mark.parametrize(
    ("centres", "max_depth"),
    [("softplus", 80.0), pytest.param("normed", 10.0, marks=pytest.mark.nightly)],
)
def test_a_fresh_head_starts_inside_its_range(centres, max_depth):
    """Not at the .7 m that zero biases give, whatever the range."""
    run = jax.jit(
        bins.MetricBins(max_depth, centres).init_with_output, compiler_options=FAST_TO_COMPILE
    )
    depth, _ = run(jax.random.key(0), maps32())
    assert 0.2 * max_depth < depth.min() and depth.max() < 0.8 * max_depth


def test_parts_of_the_network_are_those_of_the_relative_one():
    """So that relative pre-training moves over: only "bins" is new."""
    images = np.zeros((1, 56, 56, 3))
    relative, metric = (
        jax.eval_shape(build(TINY, **how).init, jax.random.key(0), images)["params"]
        for how in ({}, {"head": "bins", "max_depth": 10.0})
    )
    assert metric.pop("bins") and metric == relative
    model = build(TINY, head="bins", max_depth=10.0)
    assert model.head == "bins" and is_metric(model)


@pytest.mark.nightly
def test_rematerialised_gradients_are_the_same():
    params, maps = params32(head_weights("softplus")), maps32()

    def gradients(remat):
        head = bins.MetricBins(RANGE, remat=remat)
        loss = jax.grad(lambda p: jnp.sum(head.apply({"params": p}, maps)))
        return jax.jit(loss, compiler_options=FAST_TO_COMPILE)(params)

    for have, want in zip(*map(jax.tree.leaves, map(gradients, ("full", "none"))), strict=True):
        # float32: the two programs sum in another order
        np.testing.assert_allclose(have, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_released_size():
    """V1's metric models are ViT-L's 335,315,649 parameters and this head's."""
    head = {
        "conv2": 256 * 256 + 256,
        "seeds": 256 * 256 + 256 + 256 * 64 + 64,
        "projectors": 5 * (256 * 128 + 128 + 128 * 128 + 128),
        "attractors": 4 * (128 * 128 + 128) + (16 + 8 + 4 + 1) * 129,
        "log-binomial": 161 * 80 + 80 + 80 * 4 + 4,
    }
    model = build("vitl", version="v1", head="bins", max_depth=10.0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 518, 518, 3)))
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert sum(head.values()) == 478_145
    assert count == 335_315_649 + 478_145


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "bins"}, "a metric head needs max_depth"),
        ({"head": "bins", "max_depth": 0.0}, "max_depth=0.0: give metres above 0.001"),
        ({"head": "bins", "max_depth": 10.0, "bin_centres": "hybrid1"}, "softplus, normed"),
        ({"head": "sigmoid", "max_depth": 10.0, "bin_centres": "normed"}, "for head='bins' only"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        build(TINY, **options)
