"""Score checkpoints on labelled data: AbsRel, delta1 and normalised L1, per data set.

    python -m depth_anything_jax.evaluate --data 'rgbd:pairs/manifest.json?datasets=nyu' \\
        --checkpoint runs/student --checkpoint depth-anything/Depth-Anything-V2-Small-hf

Protocol: input with a short side of --size at its official shape, output resized to the label's
size (bilinear, align_corners), scale and shift by least squares in disparity over the valid pixels
nearer than the cap (10 m indoors, 80 m outdoors, by the record's domain), aligned disparity no
smaller than 1 / cap, AbsRel and delta1 in depth, means over images. Labels that are no depth give
normalised L1 alone.
"""

import json
import sys

from depth_anything_jax.data import sources, specs


def scores(checkpoint: str, data: list[str], *, size: int = 518, limit: int = 0, **load) -> dict:
    """{set: {"images", "abs_rel", "delta1", "norm_l1"}} of one checkpoint, with "all" first.

    Args:
      checkpoint: what `weights.load` takes; `load` goes to it.
      data: sources as `specs.parse` reads them.
      size: short side of the input in pixels.
      limit: images of each source; 0: all.
    """
    from depth_anything_jax import evaluation, inference, initial, weights

    found = weights.load(checkpoint, **load)
    model = weights.model_of(found, dtype=initial.compute_dtype("auto"))
    predict = inference.Predictor(model, found.params)
    images = []
    for text in data:
        done = evaluation.evaluate(
            predict,
            sources.make(specs.parse(text)),
            size=size,
            limit=limit,
            batch_size=len(predict.devices),
            progress=_progress,
        )
        images += done.per_image
    total = evaluation.summarise(images)
    everything = {m: getattr(total, m) for m in evaluation.METRICS}
    return {"all": {"images": len(images), **everything}, **total.sets}


def _progress(done: int, count: int) -> None:
    end = "\n" if done == count else ""
    print(f"\r{done}/{count} images", end=end, file=sys.stderr, flush=True)


def table(results: dict[str, dict]) -> str:
    """A Markdown table of {checkpoint: scores}."""
    rows = [
        "| checkpoint | set | images | AbsRel | delta1 | norm. L1 |",
        "|---|---|---|---|---|---|",
    ]
    for checkpoint, sets in results.items():
        for name, s in sets.items():
            rows.append(
                f"| {checkpoint} | {name or '-'} | {s['images']} | {s['abs_rel']:.4f} | "
                f"{s['delta1']:.4f} | {s['norm_l1']:.4f} |"
            )
    return "\n".join(rows)


def main() -> None:
    """The command line."""
    from absl import app, flags, logging

    from depth_anything_jax import weight_flags

    checkpoint = flags.DEFINE_multi_string("checkpoint", None, "weights; may be given again")
    data = flags.DEFINE_multi_string("data", None, "labelled source; may be given again")
    size = flags.DEFINE_integer("size", 518, "short side of the input, in pixels")
    limit = flags.DEFINE_integer("limit", 0, "images of each source; 0: all")
    load = weight_flags.define()
    flags.adopt_module_key_flags(weight_flags)  # so that --help shows them
    out = flags.DEFINE_string("out", None, "JSON file for the numbers")
    flags.mark_flags_as_required(["checkpoint", "data"])

    def run(argv):
        if argv[1:]:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        logging.set_verbosity(logging.WARNING)
        try:
            results = {
                c: scores(c, data.value or [], size=size.value, limit=limit.value, **load())
                for c in checkpoint.value or []
            }
        except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
            sys.exit(f"{type(error).__name__}: {error}")
        print(table(results))
        if out.value:
            with open(out.value, "w", encoding="utf-8") as file:
                json.dump(results, file, indent=1)

    app.run(run)


if __name__ == "__main__":
    main()
