"""Labels images with a teacher, as pseudo labels for a student.

    python -m depth_anything_jax.pseudo_label \\
        --checkpoint runs/teacher --data photos --out labels/photos
    python -m depth_anything_jax.pseudo_label --buckets 8 \\
        --checkpoint depth-anything/Depth-Anything-V2-Small-hf \\
        --data tfds:data/sa1b --out gs://bucket/labels/sa1b
    python -m depth_anything_jax.pseudo_label --flip --size 364 \\
        --checkpoint weights.safetensors --data 'folder:photos' --out labels/photos
    python -m depth_anything_jax.pseudo_label --limit 20 --out labels/trial \\
        --checkpoint runs/teacher --data photos
    python -m depth_anything_jax.pseudo_label --distributed --checkpoint gs://bucket/runs/teacher \\
        --data tfds:gs://bucket/data/sa1b --out gs://bucket/labels/sa1b

Every image is labelled whole at its official input size: short side --size, the longer one in
proportion, both multiples of the patch size; a teacher with a bins head has inputs of one shape.
A program is compiled for each shape. For data with hundreds of shapes, --buckets K resizes the
longer side to the nearest of K lengths, which are chosen from the data; nothing is padded.

The same command continues a killed run, which loses the shard it was at. With several processes
(the same command on each host, with --distributed) each labels its own shards. Exit status: 0 done;
3 done, but more than .1 % of the images have no label (card.json lists them); 1 error.
"""

# Slow imports are inside the functions, so that flags are checked before jax starts.
from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from depth_anything_jax.data.sources.base import Source, Subset
from depth_anything_jax.inference.label_dataset import Summary, label_source, residual
from depth_anything_jax.parallel import processes
from depth_anything_jax.utils.param_paths import fingerprint

FAILURE_LIMIT = 1e-3  # share of images without a label that ends with exit status 0


def label(
    checkpoint: str,
    source: Source,
    out: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    batch_size: int = 0,
    load: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    attention: str = "auto",
    **options: Any,
) -> Summary:
    """Loads a teacher and labels a source with it on this process's devices.

    Args:
      checkpoint: any source that `pretrained.load` takes.
      source: the images.
      out: folder of the labels.
      dtype: compute dtype; "auto" is bfloat16 where the devices have it.
      batch_size: images per batch in this process; 0: 8 per accelerator, 1 per CPU device.
      load: further arguments of `pretrained.load`.
      notes: further notes for the card.
      **options: of `label_source`.

    Raises:
      ValueError: the weights are a bare encoder; batch_size does not divide over the devices; also
        the errors of `label_source` and `pretrained.load`.
    """
    import jax

    from depth_anything_jax.checkpoints import licences, pretrained
    from depth_anything_jax.checkpoints.bundle import bundle_of
    from depth_anything_jax.inference.predictor import Predictor, usual_batch
    from depth_anything_jax.models.dtypes import compute_dtype
    from depth_anything_jax.parallel import compile_times

    teacher = pretrained.load(checkpoint, **(load or {}))
    teacher.input.refuse_size(options.get("size"))
    compute = compute_dtype(dtype)

    def predictor(precision: Any) -> Predictor:
        return Predictor(*bundle_of(teacher, dtype=precision, attention=attention))

    predict = predictor(compute)
    batch_size = batch_size or usual_batch(predict.devices)
    if batch_size % len(predict.devices):
        raise ValueError(
            f"batch_size={batch_size} does not divide over {len(predict.devices)} devices; use a "
            f"multiple of {len(predict.devices)}"
        )
    if soon := compile_times.line("predict"):
        options.get("tell", print)(soon)
    chain = licences.used(
        teacher.metadata["licence_chain"], "teacher", teacher.source, teacher.licence
    )
    notes = dict(notes or {})
    if compute != np.float32:
        notes["residual"] = found = residual(
            predict, predictor(np.float32), source,
            size=options.get("size"), batch_size=batch_size, transform=teacher.input,
        )  # fmt: skip
        options.get("tell", print)(
            f"{np.dtype(compute)} against float32, in shares of the label's range: median "
            f"{found['median']:.1e}, worst pixel {found['worst']:.1e} ({found['images']} images)"
        )
    return label_source(
        predict,
        source,
        out,
        teacher={
            "fingerprint": fingerprint(teacher.params),
            "variant": teacher.variant,
            "version": teacher.version,
            "head": teacher.head,
            "max_depth": teacher.max_depth,
        },
        transform=teacher.input,
        dtype=str(np.dtype(compute)),
        batch_size=batch_size,
        shift_known=teacher.is_metric,
        notes={
            "teacher_source": teacher.source,
            "licence": licences.combined(chain),
            "licence_chain": chain,
            "filled": teacher.metadata.get("filled"),
            **notes,
        },
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        # Hosts finish hours apart, and a collective of devices would give up after minutes.
        barrier=lambda name: processes.meet(f"pseudo_label/{name}"),
        **options,
    )


def main() -> None:
    """The command line; see the module's docstring and --helpshort."""
    from absl import flags, logging

    from depth_anything_jax.checkpoints import weight_flags
    from depth_anything_jax.utils import command_line

    text, number = flags.DEFINE_string, flags.DEFINE_integer
    checkpoint = text(
        "checkpoint", None, "teacher: Orbax folder, file, hub id or local HF folder", required=True
    )
    data = text(
        "data", None, "folder of images, or a source as 'type:path?field=value'", required=True
    )
    out = text("out", None, "folder for the labels, local or gs://", required=True)
    size = number(
        "size",
        None,
        "short side of the network's input, multiple of its patch size; else its own",
    )
    dtype = flags.DEFINE_enum("dtype", "auto", ["auto", "float32", "bfloat16"], "of the teacher")
    buckets = number("buckets", 0, "lengths the longer side may have; 0: exact shapes")
    flip = flags.DEFINE_boolean("flip", False, "averages with the mirrored image's label")
    batch_size = number("batch_size", 0, "images per batch and process; 0: 8 per device, 1 on CPUs")
    shard_size = number("shard_size", 1024, "labels per shard; a kill loses at most one shard")
    limit = number("limit", 0, "labels only this many images; 0: all")
    threads = number("threads", os.cpu_count() or 2, "number that read images and encode labels")
    load, of_weights = weight_flags.define()
    distributed = flags.DEFINE_boolean(
        "distributed", False, "this is one of several processes; see processes.join_processes"
    )

    def run(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax logs thirty lines per checkpoint
        with processes.together(distributed.value):
            work()

    def work() -> None:
        import cv2

        from depth_anything_jax.data import registry

        cv2.setNumThreads(1)  # the threads that read are the parallelism
        try:
            source = registry.make(registry.parse(data.value))
            if limit.value:
                source = Subset(source, range(min(limit.value, len(source))))
            print(f"{len(source)} images of {data.value} → {out.value}", flush=True)
            summary = label(
                checkpoint.value, source, out.value,
                size=size.value, dtype=dtype.value, buckets=buckets.value, flip=flip.value,
                batch_size=batch_size.value, shard_size=shard_size.value, threads=threads.value,
                notes={"data": data.value},
                load=load(),
            )  # fmt: skip
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            sys.exit(command_line.told(error))
        print(summary)
        if summary.invalid > FAILURE_LIMIT * len(source):
            print(f"{summary.invalid} of {len(source)} have no label: see {out.value}/card.json")
            sys.exit(3)

    groups = {
        "Data": [data, limit, threads],
        "Labels": [out, shard_size, flip],
        "Teacher": [checkpoint, dtype, *of_weights],
        "Network's input": [size, buckets, batch_size],
        "Several machines": [distributed],
    }
    command_line.start(run, doc=__doc__ or "", groups=groups, needs=[checkpoint, data, out])


if __name__ == "__main__":
    main()
