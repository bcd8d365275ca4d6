"""AdamW as the paper's: two learning rates, decay on kernels only, one clip, frozen leftovers.

The chain, in this order (as torch.optim.AdamW multiplies the decay by the rate; big_vision does
not): one global-norm clip over all trainable parameters -> Adam -> + weight_decay * parameter on
kernels -> * the group's peak rate * schedule -> minus.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from depth_anything_jax import paths

# Parameters that no forward pass reads: frozen, so that decay leaves them bit-exact for export.
UNUSED = ("encoder/mask_token", "decoder/refinenet4/resConfUnit1/.*")
GROUPS = ("encoder", "decoder")
SCHEDULES = ("linear", "poly", "constant")


def schedule(name: str, total_steps: int, warmup: int, power: float = 0.9):
    """The factor on the peak rate at update i (from 0): i -> scalar in [0, 1].

    All schedules rise as min(1, (i + 1) / warmup). "linear" (paper, 4.1) then falls to exactly 0
    at update total_steps - 1; "poly" is (1 - i / total_steps) ** power (V2's metric fine-tuning,
    power 0.9); "constant" stays at 1.

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
        return rise

    return factor


def trainable(params, freeze=UNUSED) -> Any:
    """A tree of bools: False where a pattern of `freeze` matches the parameter's path."""
    # The patterns of UNUSED may be absent from a part of the tree (an encoder alone).
    strict = tuple(p for p in freeze if p not in UNUSED)
    paths.match(params, [(p, 0) for p in strict] + [(".*", 1)], what="optim.freeze")
    table = [(p, False) for p in freeze] + [(".*", True)]
    return paths.match(params, table, what="optim.freeze", every_rule_used=False)


def groups(params) -> Any:
    """A tree of group names: each parameter's first path component, "encoder" or "decoder"."""
    return paths.match(params, [(f"{g}/.*", g) for g in GROUPS], what="learning-rate groups")


def make(config: Any, params, total_steps: int) -> optax.GradientTransformation:
    """The optimiser of `config.optim` for a tree of parameters (arrays or their shapes).

    Args:
      config: encoder_lr, decoder_lr, warmup, schedule, b1, b2, eps, weight_decay, clip (0 turns it
        off), freeze (patterns besides UNUSED).
      params: decides groups, decay and freezing by path.
      total_steps: number of updates.
    """
    peak = {"encoder": config.encoder_lr, "decoder": config.decoder_lr}
    rates = jax.tree.map(lambda g: peak[g], groups(params))
    decay = paths.map_with_path(lambda path, _: path.endswith("/kernel"), params)
    factor = schedule(config.schedule, total_steps, config.warmup)
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
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


def group_norms(tree, prefix: str) -> dict[str, jax.Array]:
    """L2 norm of a parameter-shaped tree per learning-rate group: {prefix/encoder: scalar, …}."""
    return {f"{prefix}/{g}": optax.tree.norm(tree[g]) for g in GROUPS if g in tree}
