"""Updates that are skipped: on the device, deterministic, counted, named, and limited."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import logger, metrics_buffer, optim
from depth_anything_jax.training.step import Networks, jit_train_step, make_train_step, new_state
from tests.helpers.small_networks import Small
from tests.helpers.tiny_runs import shipped

SIDE = 28


def batch(seed, rows, bad=False):
    rng = np.random.default_rng(seed)
    image = rng.uniform(size=(rows, SIDE, SIDE, 3)).astype(np.float32)
    if bad:
        image[0, 0, 0] = np.nan
    return {
        "labelled": {
            "image": image,
            "disparity": rng.uniform(size=(rows, SIDE, SIDE)).astype(np.float32),
            "valid": np.ones((rows, SIDE, SIDE), bool),
            "sky": np.zeros((rows, SIDE, SIDE), bool),
            "shift_known": np.zeros(rows, bool),
        }
    }


def training(devices=1, **fields):
    """A state, its step and mesh, of a student that compiles at once."""
    c = shipped("teacher", "demo", batch_size=8, total_steps=400, ema_decay=0.9, **fields)
    student = Small()
    params = student.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))["params"]
    tx = optim.make(c.optim, params, c.total_steps)
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    state = new_state(params, tx, ema=True)
    layout = sharding.tree_shardings(state, mesh)
    step = jit_train_step(make_train_step(Networks(student), tx, c), mesh, layout)
    state = jax.device_put(state, layout)

    def update(state, data):
        new, metrics = step(jax.tree.map(jnp.copy, state), {}, sharding.put_batch(data, mesh))
        return new, {k: float(v) for k, v in metrics.items()}

    return state, update


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(("devices", "accumulation"), [(1, 1), (8, 1), (2, 2)])
def test_a_gradient_that_is_not_finite_changes_the_step_number_alone(devices, accumulation):
    state, update = training(devices, accumulation=accumulation)
    good, metrics = update(state, batch(0, 8))
    assert metrics["skip/not_finite"] == metrics["skip/spike"] == 0
    skipped, metrics = update(good, batch(1, 8, bad=True))
    assert metrics["skip/not_finite"] == 1 and np.isnan(metrics["loss/total"])
    same(skipped.replace(step=good.step), good)
    assert int(skipped.step) == 2
    after, metrics = update(skipped, batch(2, 8))
    assert metrics["skip/not_finite"] == 0
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, skipped.params)
    assert all(jax.tree.leaves(moved["decoder"]))
    # As if the bad batch had never come: Adam's and the schedule's counts too.
    same(
        after.replace(step=0),
        update(good.replace(step=skipped.step), batch(2, 8))[0].replace(step=0),
    )


def test_a_spike_is_judged_by_what_adam_remembers(monkeypatch):
    monkeypatch.setattr(optim, "REMEMBERED", 2)
    plain = {"optim.clip": 0.0, "optim.b2": 0.5}
    state, update = training(**{"guard.spike": 30.0, **plain})
    squares = []
    for seed in range(3):
        state, metrics = update(state, batch(seed, 8))
        assert not metrics["skip/spike"]
        squares.append(metrics["grad_norm/encoder"] ** 2 + metrics["grad_norm/decoder"] ** 2)
    usual = float(optim.usual_norm(state.opt_state, 0.5))
    weights = 0.5 ** np.arange(3)[::-1]
    assert usual == pytest.approx(np.sqrt(weights @ squares / weights.sum()), rel=1e-5)
    moved, metrics = update(state, batch(3, 8))
    assert metrics["skip/spike"] == 0 and int(moved.step) == 4
    norm = np.hypot(metrics["grad_norm/encoder"], metrics["grad_norm/decoder"])
    for factor, spike in ((1.01, 0), (0.99, 1)):  # just above it, just below
        _, strict = training(**{"guard.spike": factor * norm / usual, **plain})
        kept, metrics = strict(state, batch(3, 8))
        assert metrics["skip/spike"] == spike and metrics["skip/not_finite"] == 0
        same(kept, state.replace(step=kept.step) if spike else moved)


def test_nothing_is_usual_before_there_is_something_to_compare():
    params = {"encoder": {"kernel": jnp.ones(3)}, "decoder": {"kernel": jnp.ones(3)}}
    tx = optim.make(shipped("teacher", "demo").optim, params, 400)
    state = tx.init(params)
    for count in range(optim.REMEMBERED):
        assert count > 2 or np.isinf(optim.usual_norm(state, 0.999))
        _, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert float(optim.usual_norm(state, 0.999)) == pytest.approx(1, rel=1e-4)  # clipped to 1
    one_cycle = shipped("teacher", "demo", **{"optim.schedule": "onecycle"}).optim
    assert np.isinf(optim.usual_norm(optim.make(one_cycle, params, 400).init(params), 0.999))


@pytest.mark.nightly
def test_a_guard_that_never_acts_changes_no_bit():
    """Against the update without it, from the same gradients."""
    state, update = training()
    for seed in range(3):
        state, _ = update(state, batch(seed, 8))
    loose, update = training(**{"guard.spike": np.inf})
    for seed in range(3):
        loose, _ = update(loose, batch(seed, 8))
    same(state, loose)


def buffer(tmp_path, **fields):
    c = shipped("teacher", "demo", total_steps=400, **fields)
    report = logger.Report(tmp_path, total_steps=400, tensorboard=False, printer=lambda text: None)
    return metrics_buffer.MetricsBuffer(c, report.skipped)


def add(found, step, why=None):
    metrics = {"loss/total": jnp.float32(np.nan if why == "not_finite" else 1)}
    metrics |= {f"skip/{w}": jnp.float32(w == why) for w in ("not_finite", "spike")}
    found.add(step, metrics, 0, {"labelled": [f"{step}a.png", f"{step}b.png"]})
    return found.fetch(step)


def test_skipped_updates_are_written_down_with_their_records(tmp_path):
    found = buffer(tmp_path)
    assert add(found, 1)["loss/total"] == 1 and found.in_a_row == 0
    assert np.isnan(add(found, 2, "not_finite")["loss/total"]) and found.in_a_row == 1
    add(found, 3, "spike")
    assert (found.skipped, found.in_a_row) == (2, 2)
    add(found, 4)
    assert (found.skipped, found.in_a_row) == (2, 0)
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(r["step"], r["why"]) for r in rows] == [(2, "not_finite"), (3, "spike")]
    assert rows[1]["keys"] == {"labelled": ["3a.png", "3b.png"]}


def test_too_many_skipped_updates_stop_the_run_by_step_and_record(tmp_path):
    found = buffer(tmp_path, **{"guard.in_a_row": 3, "guard.in_all": 5})
    for step in (1, 2):
        add(found, step, "spike")
    with pytest.raises(FloatingPointError, match=r"step 3: the last of 3 updates in a row.*3a.png"):
        add(found, 3, "spike")
    found = buffer(tmp_path / "other", **{"guard.in_a_row": 3, "guard.in_all": 5})
    for step in range(1, 9):
        add(found, step, "not_finite" if step % 2 else None)
    with pytest.raises(
        FloatingPointError, match=r"step 9: the last of 5 updates that were skipped"
    ):
        add(found, 9, "not_finite")


def test_an_update_that_was_made_of_numbers_that_are_not_finite_is_an_error(tmp_path):
    found = buffer(tmp_path)
    found.add(1, {"loss/total": jnp.float32(1), "update_norm/decoder": jnp.float32(np.inf)}, 0)
    with pytest.raises(FloatingPointError, match="step 1: update_norm/decoder is inf"):
        found.fetch(1)
