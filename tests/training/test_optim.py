"""The optimiser: rates, warm-up, decay, freezing, clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import optim
from depth_anything_jax.utils import param_paths

CONFIG = dict(
    encoder_lr=1e-3, decoder_lr=1e-2, warmup=3, schedule="linear", b1=0.9, b2=0.999, eps=1e-8,
    weight_decay=0.1, clip=1.0, freeze=(),
)  # fmt: skip


def tree(seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    return {
        "encoder": {"qkv": {"kernel": normal(4, 6), "bias": normal(6)}, "mask_token": normal(1, 4)},
        "decoder": {
            "output_conv1": {"kernel": normal(3, 3, 2, 2), "bias": normal(2)},
            "refinenet4": {"resConfUnit1": {"conv1": {"kernel": normal(2, 2)}}},
        },
    }


def test_schedule_rises_then_falls_to_zero_at_the_last_update():
    factor = optim.schedule("linear", total_steps=11, warmup=4)
    got = [float(factor(i)) for i in range(11)]
    want = [0.25, 0.5, 0.75, 1] + [(10 - i) / 7 for i in range(4, 11)]
    np.testing.assert_allclose(got, want, rtol=1e-6)  # float32 arithmetic
    assert got[-1] == 0
    with pytest.raises(ValueError, match="optim.warmup=11"):
        optim.schedule("linear", 11, 11)
    with pytest.raises(ValueError, match="linaer.*linear, poly, constant, onecycle"):
        optim.schedule("linaer", 11, 2)


def test_equals_torch_adamw_with_two_groups_clip_and_decay(x64):
    torch = pytest.importorskip("torch")
    params, steps = tree(), 8
    tx = optim.make(ConfigDict(CONFIG), params, steps)
    state = tx.init(params)
    leaves = param_paths.leaves_by_path(params)
    live = [p for p in leaves if "mask_token" not in p and "refinenet4" not in p]
    twin = {p: torch.tensor(np.asarray(leaves[p]), requires_grad=True) for p in live}
    groups = [
        dict(params=[twin[p]], lr=1e-3 if p.startswith("encoder") else 1e-2,
             weight_decay=0.1 if p.endswith("kernel") else 0.0)
        for p in live
    ]  # fmt: skip
    peaks = [g["lr"] for g in groups]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    clipped = []
    for i in range(steps):
        grads = jax.tree.map(lambda x: x * (0.02 if i % 2 else 3.0), tree(i + 1))  # noqa: B023
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        by_path = param_paths.leaves_by_path(grads)
        norm = np.sqrt(sum(float((by_path[p] ** 2).sum()) for p in live))
        clipped.append(norm > 1)
        for group, peak, p in zip(adamw.param_groups, peaks, live, strict=True):
            group["lr"] = peak * min((i + 1) / 3, (steps - 1 - i) / (steps - 3), 1)
            twin[p].grad = torch.tensor(np.asarray(by_path[p] * min(1.0, 1 / norm)))
        adamw.step()
    assert set(clipped) == {True, False}  # the clip was active in some steps only
    ours = param_paths.leaves_by_path(params)
    for p in live:
        np.testing.assert_allclose(ours[p], twin[p].detach().numpy(), rtol=0, atol=1e-12)
    for p in set(leaves) - set(live):  # what no forward reads stays bit-exact
        np.testing.assert_array_equal(ours[p], leaves[p])


def test_one_cycle_equals_torchs_rates_and_momenta(x64):
    """AdamW under OneCycleLR with ZoeDepth's numbers, the head's rate 50 times the others'."""
    torch = pytest.importorskip("torch")
    steps, peaks = 23, {"encoder": 2e-3, "decoder": 2e-3, "bins": 1e-1}
    params = {**tree(), "bins": {"conv": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}}
    rates = {f"{g}_lr": lr for g, lr in peaks.items()}
    config = ConfigDict({**CONFIG, **rates, "schedule": "onecycle", "warmup": 1, "clip": 0.0})
    tx = optim.make(config, params, steps)
    state, leaves = tx.init(params), param_paths.leaves_by_path(params)
    live = [p for p in leaves if "mask_token" not in p and "refinenet4" not in p]
    twin = {p: torch.tensor(np.asarray(leaves[p]), requires_grad=True) for p in live}
    top = [peaks[p.partition("/")[0]] for p in live]
    adamw = torch.optim.AdamW(
        [dict(params=[twin[p]], weight_decay=0.1 * p.endswith("kernel")) for p in live],
        betas=(0.95, 0.999),
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        adamw, top, total_steps=steps, pct_start=0.7, div_factor=1, final_div_factor=10000,
        cycle_momentum=True, base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    factor, b1 = optim.schedule("onecycle", steps, 1), optim.b1_schedule(steps)
    moved = set()
    for i in range(steps):
        group = adamw.param_groups[0]
        assert float(factor(i)) == pytest.approx(group["lr"] / top[0], rel=1e-9)
        assert float(b1(i)) == pytest.approx(group["betas"][0], rel=1e-12)
        moved.add(round(group["betas"][0], 3))
        grads = jax.tree.map(lambda x: x.at[...].set(x + 0.1), tree(i + 1))
        grads["bins"] = jax.tree.map(lambda x: jnp.cos(x * i), params["bins"])  # noqa: B023
        by_path = param_paths.leaves_by_path(grads)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for p in live:
            twin[p].grad = torch.tensor(np.array(by_path[p]))
        adamw.step()
        if i < steps - 1:
            cycle.step()
    assert {0.95, 0.85} <= moved
    ours = param_paths.leaves_by_path(params)
    for p in live:
        np.testing.assert_allclose(ours[p], twin[p].detach().numpy(), rtol=0, atol=1e-12)


def test_freezing_leaves_no_optimiser_state_and_refuses_misspelt_paths():
    params = tree()
    config = {**CONFIG, "freeze": (r"(?!decoder/output_conv1/kernel).*",)}
    moments = param_paths.leaves_by_path(optim.make(ConfigDict(config), params, 9).init(params))
    assert [p for p in moments if "/mu/" in p] == [
        "inner_states/train/inner_state/1/mu/decoder/output_conv1/kernel"
    ]
    with pytest.raises(ValueError, match=r"optim.freeze.*encodr"):
        optim.make(ConfigDict({**CONFIG, "freeze": ("encodr/.*",)}), params, 9)
    with pytest.raises(ValueError, match="no pattern matches 'head/x'"):
        optim.groups({"head": {"x": jnp.ones(1)}})


def test_mesh_and_batch_errors_name_the_cure():
    assert dict(sharding.make_mesh(fsdp=2).shape) == {"data": 4, "fsdp": 2}
    with pytest.raises(ValueError, match="mesh.fsdp=3 does not divide 8"):
        sharding.make_mesh(fsdp=3)
    with pytest.raises(ValueError, match="mesh.data=3 x mesh.fsdp=2 = 6, but there are 8"):
        sharding.make_mesh(3, 2)


@pytest.mark.parametrize(
    ("sizes", "accumulation", "wrong", "step", "fit"),
    [
        ({"labelled": 20, "unlabelled": 0}, 2, "labelled", 16, 16),
        ({"labelled": 4, "unlabelled": 8}, 1, "labelled", 24, 24),
        ({"labelled": 24, "unlabelled": 16}, 2, "labelled", 80, 80),
        ({"labelled": 0, "unlabelled": 30}, 1, "unlabelled", 8, 32),
    ],
)
def test_a_batch_that_does_not_divide_names_a_batch_size_that_works(
    sizes, accumulation, wrong, step, fit
):
    mesh, total = sharding.make_mesh(), sum(sizes.values())
    message = (
        f"batch_size={total} has .* the {wrong} ones do not divide over 8 devices x "
        f"accumulation={accumulation} = {8 * accumulation}; use a multiple of {step}, such as "
        f"batch_size={fit}"
    )
    with pytest.raises(ValueError, match=message):
        sharding.check_batch(mesh, sizes, accumulation)
    for multiple in (step, fit, 3 * step):
        scaled = {name: size * multiple // total for name, size in sizes.items()}
        assert sum(scaled.values()) == multiple
        sharding.check_batch(mesh, scaled, accumulation)


def test_stacked_blocks_are_split_along_width_not_depth():
    mesh = sharding.make_mesh(2, 4)
    shapes = {
        "opt_state": {"mu": {"encoder": {"blocks": {"fc1": {"kernel": jnp.zeros((12, 8, 32))}}}}},
        "encoder": {
            "pos_embed": jnp.zeros((1, 64, 8)),
            "blocks": {"fc2": {"kernel": jnp.zeros((48, 8, 16))}},  # more layers than width
        },
        "decoder": {"output_conv2_2": {"kernel": jnp.zeros((1, 1, 3, 1))}},
    }
    tree_of_shardings = sharding.tree_shardings(shapes, mesh)
    specs = {p: s.spec for p, s in param_paths.leaves_by_path(tree_of_shardings).items()}
    assert specs["opt_state/mu/encoder/blocks/fc1/kernel"] == jax.P(None, None, "fsdp")
    assert specs["encoder/blocks/fc2/kernel"] == jax.P(None, None, "fsdp")
    assert specs["encoder/pos_embed"] == jax.P()
    assert specs["decoder/output_conv2_2/kernel"] == jax.P()


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (4, 2), (1, 8)])
def test_a_batch_is_split_over_all_devices_whatever_the_mesh(data, fsdp):
    """Over the data axis alone, devices that share parameters would compute the same rows."""
    mesh = sharding.make_mesh(data, fsdp)
    placed = sharding.put_batch({"x": np.arange(16)}, mesh)["x"]
    rows = [tuple(np.asarray(s.data)) for s in placed.addressable_shards]
    assert len(set(rows)) == 8 and {len(r) for r in rows} == {2}
    order = {s.device: i for i, s in enumerate(placed.addressable_shards)}
    in_order = [rows[order[d]][0] for d in mesh.devices.flat]
    assert in_order == sorted(in_order), "a process's rows lie on its own devices"
