"""Labels a source of pictures."""

from depth_anything_jax.inference import label_dataset

SIZE = 28


TEACHER = {"fingerprint": "abc", "variant": "demo"}


def run(predict, source, out, **options):
    options = {"size": SIZE, "batch_size": 2, "shard_size": 4, "tell": lambda s: None} | options
    return label_dataset.label_source(predict, source, out, teacher=TEACHER, **options)
