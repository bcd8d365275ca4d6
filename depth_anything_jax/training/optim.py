"""The paper's AdamW: a learning rate for each part, decay on kernels only, one gradient clip.

The chain, in this order (torch.optim.AdamW multiplies the decay by the rate, big_vision does not):
one global-norm clip over all trainable parameters -> Adam -> + weight_decay * parameter on
kernels -> * the group's peak rate * schedule -> minus.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from depth_anything_jax.utils import param_paths

# Parameters that no forward pass reads: frozen, so that decay leaves them bit-exact for export.
UNUSED = ("encoder/mask_token", "decoder/refinenet4/resConfUnit1/.*")
GROUPS = ("encoder", "decoder", "bins")
SCHEDULES = ("linear", "poly", "constant", "onecycle")
# A resumed run may get more total_steps under these; onecycle would move b1 back, too.
EXTENDABLE = ("linear", "poly", "constant")
# ZoeDepth's torch.optim.lr_scheduler.OneCycleLR: pct_start, 1 / final_div_factor (with div_factor 1
# the rate starts at its peak), and the momenta between which b1 goes down and up again.
CYCLE_TURN, CYCLE_END, CYCLE_B1 = 0.7, 1e-4, (0.95, 0.85)


REMEMBERED = 100  # updates before a gradient is compared with the usual one; our choice


def schedule(name: str, total_steps: int, warmup: int, power: float = 0.9):
    """Returns the schedule: update i (from 0) -> factor on the peak rate, in [0, 1].

    All schedules rise as min(1, (i + 1) / warmup). "linear" (paper, 4.1) then falls to exactly 0
    at update total_steps - 1; "poly" is (1 - i / total_steps) ** power (V2's metric fine-tuning,
    power 0.9); "constant" stays at 1; "onecycle" stays at 1 for the first 70 % and falls along a
    cosine to 1e-4 at the last update (ZoeDepth, which has no warm-up: warmup=1).

    Raises:
      ValueError: unknown name, or a warm-up that does not end before the last update.
    """
    if name not in SCHEDULES:
        raise ValueError(f"optim.schedule={name!r}: choose one of {', '.join(SCHEDULES)}")
    if warmup < 1 or (total_steps > 1 and warmup >= total_steps):
        raise ValueError(
            f"optim.warmup={warmup} must be at least 1 and smaller than total_steps={total_steps}"
        )

    def factor(i):
        i = jnp.asarray(i, jnp.result_type(float))
        rise = jnp.minimum(1.0, (i + 1) / warmup)
        if name == "linear":
            return jnp.clip(jnp.minimum(rise, (total_steps - 1 - i) / (total_steps - warmup)), 0)
        if name == "poly":
            return rise * jnp.clip(1 - i / total_steps, 0) ** power
        if name == "onecycle":
            return rise * _cycle(i, total_steps, 1.0, 1.0, CYCLE_END)
        return rise

    return factor


def extension(config: Any, old: int, new: int, step: int) -> str:
    """Describes what more total_steps do to the rate of a run that resumes after `step` steps."""
    before, after = (
        float(schedule(config.schedule, total, config.warmup)(step)) for total in (old, new)
    )
    text = f"total_steps: {old:,} before, {new:,} now. optim.schedule={config.schedule!r} "
    if config.schedule == "constant":
        return text + "is not changed by that"
    last = " (it had ended)" if step >= old else ""
    return text + (
        f"now falls until step {new:,}: step {step + 1:,} has {after:.1%} of the peak rate instead "
        f"of {before:.1%}{last}"
    )


def _cycle(i, total_steps: int, start: float, turn: float, end: float):
    """Computes OneCycleLR's two half cosines: start, turn, end at update total_steps - 1."""
    turns, last = CYCLE_TURN * total_steps - 1, total_steps - 1
    if turns <= 0:  # a run of one step or two
        start, turns = turn, 1.0
    first = jnp.clip(i / turns, 0, 1)
    second = jnp.clip((i - turns) / max(last - turns, 1e-9), 0, 1)
    up = turn + (start - turn) * (1 + jnp.cos(jnp.pi * first)) / 2
    down = end + (turn - end) * (1 + jnp.cos(jnp.pi * second)) / 2
    return jnp.where(i <= turns, up, down)


def b1_schedule(total_steps: int):
    """Returns Adam's b1 at update i under "onecycle": .95, then .85, then .95 again."""
    high, low = CYCLE_B1
    return lambda i: _cycle(jnp.asarray(i, jnp.result_type(float)), total_steps, high, low, high)


def trainable(params, freeze=UNUSED) -> Any:
    """Returns a tree of bools, False where a pattern of `freeze` matches the parameter's path."""
    # The patterns of UNUSED may be absent from a part of the tree (an encoder alone).
    strict = tuple(p for p in freeze if p not in UNUSED)
    param_paths.match(params, [(p, 0) for p in strict] + [(".*", 1)], what="optim.freeze")
    table = [(p, False) for p in freeze] + [(".*", True)]
    return param_paths.match(params, table, what="optim.freeze", every_rule_used=False)


def groups(params) -> Any:
    """Returns a tree of group names: encoder, decoder, or bins (the parts of the bins head)."""
    table = [(f"{g}/.*", g) for g in GROUPS if g != "bins" or "bins" in params]
    return param_paths.match(params, table, what="learning-rate groups")


def make(config: Any, params, total_steps: int) -> optax.GradientTransformation:
    """Makes the optimiser of `config.optim` for a tree of parameters (arrays or their shapes).

    Args:
      config: encoder_lr, decoder_lr, bins_lr, warmup, schedule, b1 (not with "onecycle"), b2, eps,
        weight_decay, clip (0 turns it off), freeze (patterns besides UNUSED).
      params: decides groups, decay and freezing by path.
      total_steps: number of updates.
    """
    rates = jax.tree.map(lambda g: config[f"{g}_lr"], groups(params))
    decay = param_paths.map_with_path(lambda path, _: path.endswith("/kernel"), params)
    factor = schedule(config.schedule, total_steps, config.warmup)
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    if config.schedule == "onecycle":  # its momentum is part of the state only where it moves
        static = ("b2", "eps", "eps_root", "mu_dtype", "nesterov")
        adam = optax.inject_hyperparams(optax.scale_by_adam, static)(
            b1=b1_schedule(total_steps), b2=config.b2, eps=config.eps
        )
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        adam,
        optax.masked(optax.add_decayed_weights(config.weight_decay), decay),
        _scale_by_tree(rates),
        optax.scale_by_schedule(lambda i: -factor(i)),
    )
    labels = jax.tree.map(
        lambda t: "train" if t else "frozen", trainable(params, (*UNUSED, *config.freeze))
    )
    return optax.partition({"train": chain, "frozen": optax.set_to_zero()}, labels)


def _scale_by_tree(factors) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        scaled = jax.tree.map(
            lambda u, f: u if isinstance(u, optax.MaskedNode) else u * f,
            updates,
            factors,
            is_leaf=lambda x: isinstance(x, optax.MaskedNode),
        )
        return scaled, state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def usual_norm(opt_state, b2: float) -> jax.Array:
    """Computes the gradient's norm that Adam remembers: the root of its mean square of late.

    Its mean reaches back some 1 / (1 - b2) updates, and of clipped gradients it is the clipped
    norm. Infinite in the first REMEMBERED updates, when there is nothing to compare with.
    """
    kinds = optax.ScaleByAdamState
    states = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kinds))
    adam = next((x for x in states if isinstance(x, kinds)), None)
    if adam is None:  # another optimiser remembers nothing
        return jnp.float32(jnp.inf)
    squares = optax.tree.sum(adam.nu) / (1 - b2 ** jnp.maximum(adam.count, 1))
    return jnp.where(adam.count < REMEMBERED, jnp.inf, jnp.sqrt(squares))


def guard(norms, total, opt_state, config) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Decides whether an update is made: bool (), and why not as metrics of 0 or 1.

    Not where the loss or the gradient is not finite, nor where the gradient's norm is more than
    config.guard.spike times the usual one. `metrics_buffer` counts them, and stops the run.
    """
    norm = jnp.sqrt(sum(n**2 for n in norms.values()))
    finite = jnp.isfinite(norm) & jnp.isfinite(total)
    usual = usual_norm(opt_state, config.optim.b2)
    spike = finite & (norm > config.guard.spike * usual)
    skips = {"skip/not_finite": ~finite, "skip/spike": spike}
    return finite & ~spike, {k: v.astype(jnp.float32) for k, v in skips.items()}


def group_norms(tree, prefix: str) -> dict[str, jax.Array]:
    """Computes the L2 norm of each learning-rate group: {prefix/encoder: scalar, …}."""
    return {f"{prefix}/{g}": optax.tree.norm(tree[g]) for g in GROUPS if g in tree}
