"""Pre-trains the demo's tiny encoder on rendered scenes, without depth: `make demo-encoder`.

    python tools/pretrain_encoder.py                     # about half an hour
    python tools/pretrain_encoder.py --images 500 --steps 20 --out /tmp/tiny.safetensors   # a try

DINOv2 has no encoder of this size, so this one replaces it: a ViT of dim 128 and depth 4 is trained
on images of the "mixture" domain (layouts of A and B, and valleys, in every appearance; scenes that
are in no other set), with two losses:

- semantic segmentation: the semantic map of the *undistorted* scene at 32 x 32 points is predicted
  from the final tokens of a distorted view (a renderer provides these labels for free);
- contrastive: InfoNCE between the tokens of two distorted views of an image, against all other
  tokens of the batch. Without it the tokens are nearly parallel and the cosine between them is not
  informative, which the student's feature loss needs.

Neither depth nor anything derived from it is used. The tool writes float16 safetensors with
DINOv2's names and a card beside it.
"""

import argparse
import pathlib
import sys
import time

import numpy as np

from depth_anything_jax.data.scenes.source import SEMANTICS, SceneSource, fill_cache

SIZE, GRID, CELLS = 112, 8, 4  # pixels, patches, and points per patch, along each side
OUT = pathlib.Path(__file__).parent.parent / "depth_anything_jax/assets/demo_encoder.safetensors"


def load_pictures(count: int, seed: int, cache: str) -> tuple[np.ndarray, np.ndarray]:
    """Renders images uint8 (count, 112, 112, 3) and semantics uint8 (count, 32, 32)."""
    source = SceneSource("mixture", count, seed, SIZE, semantic=True, cache=cache)

    def show(done: int, total: int, seconds: float) -> None:
        left = seconds / done * (total - done)
        print(f"\rrendering {done}/{total}, {left:.0f} s to go  ", end="", flush=True)

    if fill_cache([source], progress=show):
        print()
    # the centres of the points: a patch's side holds four
    at = (np.arange(GRID * CELLS) * SIZE / (GRID * CELLS) + 1.75).astype(int)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    semantic = np.empty((count, len(at), len(at)), np.uint8)
    for i in range(count):
        record = source[i]
        images[i], semantic[i] = record["image"], record["semantic"][np.ix_(at, at)]
    return images, semantic


def make_step(encoder, tx, args):
    """Returns the jitted update: (params, opt_state, key, images, semantic) -> (…, metrics)."""
    import jax
    import jax.numpy as jnp
    import optax

    from depth_anything_jax.training import perturb

    def distort(key, images):
        """Changes colour, blur, exposure and noise, as between two photos of the same place."""
        keys = jax.random.split(key, 4)
        shape = (len(images), 1, 1, 1)
        images = perturb.colour(jax.random.split(keys[0], len(images)), images, jitter_p=0.9)
        images = jnp.clip(images, 1e-4, 1) ** jnp.exp(0.4 * jax.random.normal(keys[1], shape))
        sigma = 0.08 * jax.random.uniform(keys[2], shape) ** 2
        images += sigma * jax.random.normal(keys[3], images.shape)
        return jnp.clip(images, 0, 1)

    def loss_of(params, key, images, semantic):
        n = len(images)
        views = jnp.concatenate([distort(k, images) for k in jax.random.split(key)])
        out = encoder.apply({"params": params["encoder"]}, perturb.normalise(views, encoder.spec))
        logits = out.tokens @ params["head"]["kernel"] + params["head"]["bias"]
        logits = logits.reshape(2 * n, GRID, GRID, CELLS, CELLS, len(SEMANTICS))
        logits = logits.transpose(0, 1, 3, 2, 4, 5)
        target = jnp.tile(semantic, (2, 1, 1)).reshape(2 * n, GRID, CELLS, GRID, CELLS)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        right = (logits.argmax(-1) == target).mean()
        tokens = out.tokens / jnp.linalg.norm(out.tokens, axis=-1, keepdims=True)
        a, b = tokens[:n].reshape(-1, tokens.shape[-1]), tokens[n:].reshape(-1, tokens.shape[-1])
        scores = a @ b.T / args.temperature
        same = jnp.diagonal(scores)
        contrast = 0.5 * (
            (jax.nn.logsumexp(scores, 1) - same) + (jax.nn.logsumexp(scores, 0) - same)
        )
        total = entropy.mean() + args.contrast * contrast.mean()
        mean = a.mean(0)
        return total, {
            "loss": total,
            "semantic": entropy.mean(),
            "accuracy": right,
            "contrast": contrast.mean(),
            "pair_cosine": (mean * mean).sum(),
        }

    def step(params, opt_state, key, images, semantic):
        key, flip = jax.random.split(key)
        images = images.astype(jnp.float32) / 255
        turned = jax.random.bernoulli(flip, 0.5, (len(images),))
        images = jnp.where(turned[:, None, None, None], images[:, :, ::-1], images)
        semantic = jnp.where(turned[:, None, None], semantic[:, :, ::-1], semantic)
        grads, metrics = jax.grad(loss_of, has_aux=True)(params, key, images, semantic)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, metrics

    return jax.jit(step, donate_argnums=(0, 1))


def pretrain(args: argparse.Namespace) -> None:
    """Renders the images, trains the encoder, and writes it with its card."""
    import jax
    import jax.numpy as jnp
    import optax

    from depth_anything_jax import models
    from depth_anything_jax.checkpoints import export
    from depth_anything_jax.demo import stages

    begun = time.monotonic()
    images, semantic = load_pictures(args.images, args.seed, args.cache)
    rendered = time.monotonic() - begun
    encoder = models.build_encoder("demo", scan=False)
    blank = jnp.zeros((1, SIZE, SIZE, 3))
    params = {"encoder": encoder.init(jax.random.key(args.seed), blank)["params"]}
    width = CELLS * CELLS * len(SEMANTICS)
    params["head"] = {
        "kernel": 0.02 * jax.random.normal(jax.random.key(1), (128, width)),
        "bias": jnp.zeros(width),
    }
    rate = optax.warmup_cosine_decay_schedule(0.0, args.lr, min(100, args.steps // 10), args.steps)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, weight_decay=0.05, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    )
    opt_state = tx.init(params)
    step = make_step(encoder, tx, args)
    rng, order, at = np.random.default_rng(args.seed), np.empty(0, int), 0
    start = time.monotonic()
    for i in range(args.steps):
        if at + args.batch > len(order):
            order, at = rng.permutation(len(images)), 0
        pick = order[at : at + args.batch]
        at += args.batch
        key = jax.random.fold_in(jax.random.key(args.seed + 1), i)
        params, opt_state, metrics = step(
            params, opt_state, key, images[pick], semantic[pick].astype(np.int32)
        )
        if i % 50 == 0 or i == args.steps - 1:
            numbers = {k: float(v) for k, v in metrics.items()}
            seconds = time.monotonic() - start
            left = seconds / (i + 1) * (args.steps - i - 1)
            text = "  ".join(f"{k} {v:.3f}" for k, v in numbers.items())
            print(f"step {i + 1}/{args.steps}  {text}  {left:.0f} s to go", flush=True)
            if not np.isfinite(numbers["loss"]):
                sys.exit(f"the loss is {numbers['loss']} at step {i + 1}: lower --lr")
    trained = time.monotonic() - start
    args.out.parent.mkdir(parents=True, exist_ok=True)
    own = {"role": "encoder", "source": "demo-encoder", "licence": "Apache-2.0"}
    export.save_encoder(
        args.out,
        jax.device_get(params["encoder"]),
        {"variant": "demo", "licence": "Apache-2.0", "licence_chain": [own]},
    )
    card = args.out.with_suffix(".md")
    facts = {**numbers, "rendered": rendered, "trained": trained, "cores": len(stages.cores())}
    facts["patch"] = encoder.spec.patch_size
    card.write_text(CARD.format(args=args, **facts))
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.2f} MB) and {card}")


CARD = """# The demo's encoder

A ViT (dim 128, depth 4, patch {patch}, trained at 112 x 112) that takes DINOv2's place in
`make demo`: it starts teacher and student and is the frozen encoder of the feature loss. float16,
the tensor names of DINOv2's own releases. Licence: Apache-2.0, as the code.

- Data: {args.images} rendered pictures of the domain "mixture" (seed {args.seed}): rooms,
  courtyards, streets and valleys under every look that the demo's domains have: the kinds of places
  that domains A and B show, never the same scenes. Domain C has others: hamlets and storehouses.
- Task: semantic maps (20 classes, 32 x 32 points) from distorted views, and InfoNCE between the
  tokens of two distorted views (weight {args.contrast}, temperature {args.temperature}). No depth
  and nothing made from depth.
- Training: {args.steps} steps of {args.batch} pictures, AdamW, rate {args.lr}, cosine;
  {trained:.0f} s on {cores} CPU core(s), after {rendered:.0f} s of rendering.
- End: {accuracy:.1%} of the points right on distorted training views, cosine of random tokens
  {pair_cosine:.2f}.

Made by `python tools/pretrain_encoder.py` (`make demo-encoder`).
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=12000, help="pictures to render")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--contrast", type=float, default=0.3, help="weight of InfoNCE")
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="runs/scenes", help="folder of rendered pictures")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    pretrain(parser.parse_args())


if __name__ == "__main__":
    main()
