"""The network on its own: parameters, switches that must change nothing, precision, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.models import VARIANTS, Variant, build, build_encoder, dinov2, dpt, vit
from depth_anything_jax.models.dpt import DPT
from depth_anything_jax.models.vit import REMAT, groups, segments
from tests import parity
from tests.helpers.small_networks import FAST_TO_COMPILE, random_leaf

TINY = Variant(32, 5, 2, 64, 8, (8, 8, 16, 16), (1, 2, 3, 4), grid=3)


def images(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), (*shape, 3))


@pytest.fixture(scope="module")
def params():
    return jax.tree_util.tree_map_with_path(random_leaf, shapes(TINY))


def shapes(variant):
    start = jax.eval_shape(
        lambda: build(variant).init(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))
    )
    return start["params"]


@pytest.mark.parametrize(
    ("name", "count"),  # the released checkpoints' own counts
    [("vits", 24_785_089), ("vitb", 97_470_785), ("vitl", 335_315_649)],
)
def test_parameter_count(name, count):
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(shapes(name))) == count


def test_parameters_are_stacked_whatever_the_version():
    blocks = shapes("vitg")["encoder"]["blocks"]
    assert {x.shape[0] for x in jax.tree.leaves(blocks)} == {40}
    assert blocks["mlp"]["w12"]["kernel"].shape == (40, 1536, 8192)
    trees = [
        jax.eval_shape(build(TINY, version=v, scan=s).init, jax.random.key(0), images(1, 42, 42))
        for v in ("v1", "v2")
        for s in (True, False)
    ]
    assert all(tree == trees[0] for tree in trees)


def test_segments_end_at_taps_and_at_the_last_block():
    assert segments((8, 9, 10, 11), 12) == [(0, 9), (9, 10), (10, 11), (11, 12)]
    assert segments((4, 11, 17, 23), 24) == [(0, 5), (5, 12), (12, 18), (18, 24)]
    assert segments((0, 2), 6) == [(0, 1), (1, 3), (3, 6)]
    assert groups(segments((8, 9, 10, 11), 12)) == [(0, 9, 1), (9, 1, 3)]
    assert groups(segments((4, 11, 17, 23), 24)) == [(0, 5, 1), (5, 7, 1), (12, 6, 2)]
    assert groups(segments((2, 5, 8, 11), 12)) == [(0, 3, 4)]
    assert segments((), 12) == [(0, 12)]


@pytest.fixture(scope="module")
def depth_and_gradient(params):
    """options -> depth and the gradient of a quadratic form of it; each computed once.

    XLA may keep bfloat16 intermediates in float32 inside a fused loop, and scan and loop fuse
    differently; here every rounding happens where the program says so.
    """
    compiler_options = {"xla_allow_excess_precision": False, **FAST_TO_COMPILE}

    @functools.cache
    def run(**options):
        model = build(TINY, **options)

        def loss(params):
            depth = model.apply({"params": params}, images(2, 42, 56))
            return (depth**2).mean(), depth

        gradient = jax.grad(loss, has_aux=True)
        return jax.jit(gradient, compiler_options=compiler_options)(params)[::-1]

    return run


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (jnp.float32, {"scan": False, "remat": "full"}),
        (jnp.bfloat16, {"scan": False, "remat": "dots"}),
        (jnp.float32, {"remat": "full"}),  # one scan over all layers, the head image by image
        pytest.param(jnp.float32, {"remat": "dots"}, marks=pytest.mark.nightly),
        pytest.param(jnp.bfloat16, {"remat": "full"}, marks=pytest.mark.nightly),
    ],
)
def test_loop_is_scan_and_remat_changes_nothing(depth_and_gradient, dtype, options):
    depth, gradient = depth_and_gradient(dtype=dtype)
    assert depth.dtype == jnp.float32 and depth.shape == (2, 42, 56)
    other, other_gradient = depth_and_gradient(dtype=dtype, **options)
    assert parity.relative_error(other, depth) <= parity.OUTPUT_FLOAT32["vits"]
    # In bfloat16 one rounding that falls the other way in the backward pass is 2^-8 and spreads to
    # all that follow; the error is that of bfloat16 itself.
    bound = parity.OUTPUT_FLOAT32["vits"] if dtype == jnp.float32 else 2**-5
    theirs = dict(jax.tree_util.tree_leaves_with_path(gradient))
    for path, ours in jax.tree_util.tree_leaves_with_path(other_gradient):
        error = jnp.linalg.norm(ours - theirs[path]) / (jnp.linalg.norm(theirs[path]) + 1e-6)
        assert error <= bound, jax.tree_util.keystr(path)


def test_bfloat16_is_near_float32(depth_and_gradient):
    """The rounding of 8-bit mantissas through 5 blocks and the decoder, no more."""
    exact, rounded = (
        np.asarray(depth_and_gradient(dtype=dtype)[0]) for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert 0 < parity.relative_error(rounded, exact) < 16 * 2**-8
    # A head that returned bfloat16 would have no more than 128 values an octave.
    assert len(np.unique(rounded)) > 0.9 * len(np.unique(exact))


def test_parameters_are_float64_where_jax_has_it(x64):
    shapes = jax.eval_shape(build(TINY).init, jax.random.key(0), images(1, 42, 70))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float64")}


def test_no_cast_below_the_input_precision(x64, params):
    """No float64 run passes through float32 anywhere, backward pass included."""
    wide = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    model = build(TINY, dtype=jnp.float64, remat="full")
    program = jax.make_jaxpr(jax.grad(lambda p, x: model.apply({"params": p}, x).sum()))(
        wide, images(1, 42, 70).astype(jnp.float64)
    )
    assert "f64" in str(program)
    for narrow in ("f32[", "bf16[", "f16["):
        assert narrow not in str(program)


def test_unused_parameters_have_no_gradient_and_the_others_have(depth_and_gradient):
    _, gradient = depth_and_gradient(dtype=jnp.float32)
    dead = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not np.any(leaf):
            dead.add(name)
    unused = "decoder/refinenet4/resConfUnit1/"
    assert dead == {"encoder/mask_token"} | {
        f"{unused}{conv}/{leaf}" for conv in ("conv1", "conv2") for leaf in ("kernel", "bias")
    }


def test_encoder_alone_gives_the_same_tokens(params):
    x, model, encoder = images(2, 42, 42), build(TINY), build_encoder(TINY)

    @functools.partial(jax.jit, compiler_options=FAST_TO_COMPILE)
    def run(params):
        both = model.apply({"params": params}, x, return_features=True)[1]
        return both, encoder.apply({"params": params["encoder"]}, x)

    features, alone = run(params)
    assert len(alone.taps) == len(alone.cls) == 4
    assert alone.tokens.shape == (2, 9, 32) and alone.cls[0].shape == (2, 32)
    jax.tree.map(np.testing.assert_array_equal, alone, features)


def torch_default(key, params):
    """PyTorch's start of a convolution's kernel or bias: uniform in +- 1 / sqrt(fan in)."""
    bound = np.prod(params["kernel"].shape[:-1]) ** -0.5
    return {
        name: jax.random.uniform(jax.random.fold_in(key, i), x.shape, minval=-bound, maxval=bound)
        for i, (name, x) in enumerate(sorted(params.items()))
    }


def test_fifty_seeds_start_alive():
    """A head that ends in ReLU and starts at zero everywhere never gets a gradient.

    The control is the decoder with PyTorch's default start, where that happens to many seeds.
    """
    decoder = DPT(TINY.features, TINY.out_channels, 14)

    def zeros(params, taps):
        return (decoder.apply({"params": params}, taps, (3, 3)) == 0).mean()

    def one(key):
        taps = tuple(jax.random.normal(key, (4, 1, 9, TINY.dim)))  # as after a LayerNorm
        params = decoder.init(key, taps, (3, 3))["params"]
        layers = jax.tree.leaves(params, is_leaf=lambda x: "kernel" in x)
        keys = jax.random.split(key, len(layers))
        control = jax.tree.unflatten(
            jax.tree.structure(params, is_leaf=lambda x: "kernel" in x),
            [torch_default(k, layer) for k, layer in zip(keys, layers, strict=True)],
        )
        return zeros(params, taps), zeros(control, taps)

    run = jax.jit(lambda keys: jax.lax.map(one, keys), compiler_options=FAST_TO_COMPILE)
    ours, control = run(jax.random.split(jax.random.key(0), 50))
    assert ours.max() <= 0.01
    assert (control > 0.99).sum() >= 10


def test_the_position_embedding_starts_as_distinct_waves():
    table = dinov2.sincos_position(jax.random.key(0), 3, 32)
    assert table.shape == (1, 10, 32)
    assert not np.any(table[:, 0])
    patches = np.asarray(table[0, 1:])
    np.testing.assert_allclose((patches**2).sum(axis=1), 16, rtol=1e-5)
    distances = np.linalg.norm(patches[:, None] - patches[None], axis=-1)
    assert distances[~np.eye(9, dtype=bool)].min() > 0.5


def test_sigmoid_head_stays_within_its_range(params):
    model = build(TINY, head="sigmoid", max_depth=80.0)
    run = jax.jit(lambda p, x: model.apply({"params": p}, x), compiler_options=FAST_TO_COMPILE)
    depth = run(params, images(1, 42, 42))
    assert 0 < depth.min() and depth.max() < 80 and depth.max() > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "vitx"}, "vitx.*vits, vitb"),
        ({"version": "v3"}, "v3.*one of v1, v2"),
        ({"head": "disparity"}, "disparity.*relative, sigmoid, bins"),
        ({"head": "sigmoid"}, "needs max_depth"),
        ({"max_depth": 20.0}, "takes none"),
        ({"remat": "all"}, "all.*none, full, dots"),
        ({"attention": "flash"}, "flash.*auto, einsum"),
    ],
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**{"variant": "vits", **options})


def test_a_size_that_is_no_multiple_of_14_is_refused():
    with pytest.raises(ValueError, match="56 x 60 pixels.*multiples of 14.*56 x 56"):
        jax.eval_shape(build(TINY).init, jax.random.key(0), images(1, 56, 60))


def test_tables():
    assert VARIANTS["vitl"].taps("v1") == (20, 21, 22, 23)
    assert VARIANTS["vitl"].taps("v2") == (4, 11, 17, 23)
    assert all(v.taps("v2")[-1] == v.depth - 1 for v in VARIANTS.values())
    assert set(REMAT) == {"none", "full", "dots"}


def test_the_decoders_loop_for_tpus_changes_nothing(monkeypatch):
    """A fusion block's four convolutions one after another, and as a loop."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, skip = (jax.random.normal(k, (2, 7, 8, 8)) for k in keys[:2])
    block = dpt.FusionBlock(8, (14, 16), jnp.float32)
    params = block.init(keys[2], x, skip)

    def run(params, x, skip):
        return (block.apply(params, x, skip) ** 2).sum()

    plain = jax.value_and_grad(run, argnums=(0, 1, 2))(params, x, skip)
    monkeypatch.setattr(dpt, "platform", lambda: "tpu")
    assert "scan" in str(jax.make_jaxpr(run)(params, x, skip))
    looped = jax.value_and_grad(run, argnums=(0, 1, 2))(params, x, skip)
    for ours, theirs in zip(jax.tree.leaves(looped), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


def test_dots_keeps_the_products_with_kernels():
    """They are inside functions with derivatives of their own, where the policy must find them."""

    def count(remat):
        model = build(TINY, remat=remat, attention="einsum")
        images = jnp.zeros((1, 42, 42, 3))
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
        traced = jax.make_jaxpr(jax.grad(lambda p: model.apply(p, images).sum()))(params)
        return str(traced).count("dot_general[") + str(traced).count("conv_general_dilated[")

    # Of a block (they are a scan) qkv, proj, fc1, fc2; of the decoder four fusions and the head.
    assert count("full") - count("dots") > 20


def test_layer_norm_of_bfloat16_has_statistics_of_float32():
    """Mean and variance in bfloat16 would be off by a percent; the result is rounded once."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3.0, 1.0, (4, 384)), jnp.bfloat16)
    params = {"scale": jnp.ones(384), "bias": jnp.zeros(384)}
    wide = np.asarray(x, np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    got = vit.layer_norm(params, x, 1e-6)
    assert got.dtype == jnp.bfloat16
    # half a unit in the last place of bfloat16, and float32's rounding
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2**-8, atol=1e-5)
