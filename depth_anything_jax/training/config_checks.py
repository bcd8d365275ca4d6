"""Checks a config before anything is loaded: fields that fit; data, labels and weights that exist.

Every check raises an error that names the field, its value and how to fix it.
"""

import os
import pathlib
from typing import Any

from depth_anything_jax import models
from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.data import registry
from depth_anything_jax.training import log_writers
from depth_anything_jax.utils import map_kinds
from depth_anything_jax.utils.choices import one_of
from depth_anything_jax.utils.paths import is_remote

TEACHERS = ("none", "records", "files", "online")
INIT_PARTS = ("encoder", "decoder", "relative", "params", "all")


def batch_sizes(config) -> dict[str, int]:
    """Returns {"labelled": …, "unlabelled": …}, the images of each global batch.

    Raises:
      ValueError: batch_size does not split in the ratio.
    """
    ratio = config.labelled_ratio, config.unlabelled_ratio
    total = sum(ratio)
    if min(ratio) < 0 or total == 0 or config.batch_size % total or config.batch_size <= 0:
        raise ValueError(
            f"batch_size={config.batch_size} does not split labelled : unlabelled = "
            f"{ratio[0]} : {ratio[1]}; use a multiple of {max(total, 1)}"
        )
    part = config.batch_size // total
    return {"labelled": part * ratio[0], "unlabelled": part * ratio[1]}


def check(config, sizes: dict[str, int], workdir: str) -> None:
    """Refuses fields that contradict each other, and lists data and weights that do not exist.

    Raises:
      ValueError: names a field, its value and how to fix it.
      FileNotFoundError: lists what to prepare with which command.
      ImportError: log.wandb without wandb.
    """
    one_of("teacher", config.teacher, TEACHERS)
    one_of("init_parts", config.init_parts, INIT_PARTS)
    one_of("loss.feat_input", config.loss.feat_input, ("student", "clean", "shuffled"))
    for field in ("every", "minutes"):
        if config.checkpoint[field] < 0:
            raise ValueError(
                f"checkpoint.{field}={config.checkpoint[field]}: use 0 or more; 0 switches it off"
            )
    if config.log.wandb:
        log_writers.import_wandb()
    if config.total_steps < 1:
        raise ValueError(f"total_steps={config.total_steps}: use 1 or more")
    _check_size(config)
    if len(config.loss.weights) != 3:
        raise ValueError(
            f"loss.weights={config.loss.weights}: three numbers, for L_l, L_u and L_feat"
        )
    if config.model.head == "relative":
        _check_relative(config)
    else:
        _check_metric(config, sizes)
    if not workdir:
        raise ValueError("workdir is empty; give --workdir=runs/NAME")
    orbax_io.checked_folder(workdir)
    weight = dict(zip(("labelled", "unlabelled", "features"), config.loss.weights, strict=True))
    for part in ("labelled", "unlabelled"):
        if bool(sizes[part]) != bool(weight[part]) and sizes[part]:
            raise ValueError(
                f"the batch has {sizes[part]} {part} images whose loss weight is 0; "
                f"set loss.weights or {part}_ratio"
            )
    if sizes["unlabelled"] and config.teacher == "none":
        raise ValueError(
            f"teacher='none', but the batch has {sizes['unlabelled']} unlabelled images; choose "
            "records, files or online"
        )
    if sizes["unlabelled"] and weight["features"] and not config.frozen_encoder:
        raise ValueError(
            "loss.weights gives L_feat a weight, but frozen_encoder is empty; name a DINOv2 of "
            "the student's size (facebook/dinov2-small), or set the third weight to 0"
        )
    shuffled = config.loss.feat_input == "shuffled" and weight["features"]
    if shuffled and 0 < sizes["unlabelled"] < 4:
        raise ValueError(
            f"loss.feat_input='shuffled' with {sizes['unlabelled']} unlabelled images a batch: "
            "give 4 or more, so that no image is compared with itself or with its CutMix partner"
        )
    missing = _missing(config, sizes)
    if missing:
        raise FileNotFoundError(page(missing))


def _check_size(config) -> None:
    """Checks input_size: one side of square crops; of a bins head height and width."""
    size, head = config.input_size, config.model.head
    sides = size if isinstance(size, tuple) else (size,)
    encoder = models.variant_of(config.model.variant).encoder
    if len(sides) != (2 if head == "bins" else 1):
        raise ValueError(
            f"input_size={size} with model.head={head!r}: a bins head sees whole images, of one "
            "height and width, such as (392, 518); all others learn from square crops of one side"
        )
    if not encoder.fits(*sides):
        fits = tuple(encoder.nearest(s) for s in sides)
        fit = fits if isinstance(size, tuple) else fits[0]
        raise ValueError(f"input_size={size} is no multiple of {encoder.patch_size}; use {fit}")


def data_config(config) -> dict[str, Any]:
    """Returns the data of a run for `pipeline.train_batches`, with labels beside their sources.

    Raises:
      ValueError: the numbers of labels and of unlabelled sources differ.
    """
    data = config.data
    unlabelled = [registry.parse(s) for s in data.unlabelled]
    if config.unlabelled_ratio and config.teacher in ("records", "files"):
        if len(data.labels) != len(unlabelled):
            raise ValueError(
                f"data.labels names {len(data.labels)} sets of labels for {len(unlabelled)} "
                "unlabelled sources; give one for each, in the same order"
            )
        for spec, path in zip(unlabelled, data.labels, strict=True):
            spec["labels"] = {"type": config.teacher, "path": path}
    return {
        "labelled": [registry.parse(s) for s in data.labelled],
        "unlabelled": unlabelled,
        "mix": data.mix,
        "label_resize": data.label_resize,
        "workers": data.workers,
        "threads": data.threads,
        "metric": map_kinds.is_metric_head(config.model.head),
        "camera": bool(config.camera.focal),
        "augment": {k: tuple(v) if isinstance(v, list) else v for k, v in data.augment.items()},
    }


def _check_relative(config) -> None:
    """Refuses fields that only metric heads read."""
    if config.camera.focal:
        raise ValueError(
            f"camera.focal={config.camera.focal} with model.head='relative': disparity up to scale "
            "has no focal length; choose a metric head, or set it to 0"
        )
    if config.init_parts in ("decoder", "relative"):
        raise ValueError(
            f"init_parts={config.init_parts!r} is for a metric head on relative weights; with "
            "model.head='relative' use 'params' (encoder and decoder) or 'encoder'"
        )


def _check_metric(config, sizes: dict[str, int]) -> None:
    """Checks the fields of a metric head, which learns metres from labels by SiLog."""
    head, loss = config.model.head, config.loss
    one_of("loss.silog", loss.silog, ("v2", "v1"))
    one_of("loss.silog_pool", loss.silog_pool, ("image", "batch"))
    if sizes["unlabelled"]:
        raise ValueError(
            f"model.head={head!r} with {sizes['unlabelled']} unlabelled images a batch: metres "
            "come from labels alone; set unlabelled_ratio=0 and loss.weights=(1,0,0), and start "
            "from a relative model that has learned from unlabelled images (init_from)"
        )
    if not config.data.labelled:
        raise ValueError(
            "data.labelled is empty: name the images and their depth in metres, such as "
            "--config.data.labelled=\"('pairs:mine/rgb?depths=mine/depth&fmt=nyu',)\" "
            "(docs/metric.md)"
        )
    if loss.gradient_weight:
        raise ValueError(
            f"loss.gradient_weight={loss.gradient_weight} with model.head={head!r}: SiLog has no "
            "gradient term; set it to 0"
        )
    if not 0 < loss.min_depth < config.model.max_depth:
        raise ValueError(
            f"model.head={head!r} needs a range in metres: loss.min_depth={loss.min_depth} and "
            f"model.max_depth={config.model.max_depth}; 0.001 and 20 (indoors) or 80 (outdoors) "
            "are usual"
        )
    if loss.silog_pool == "batch" and config.accumulation > 1:
        raise ValueError(
            f"loss.silog_pool='batch' with accumulation={config.accumulation}: the root over all "
            "pixels of a batch is no sum over microbatches; use accumulation=1, or "
            "loss.silog_pool='image'"
        )
    if config.camera.focal < 0:
        raise ValueError(f"camera.focal={config.camera.focal}: pixels, or 0 for none")
    if config.init_parts == "relative" and head == "sigmoid":
        raise ValueError(
            "init_parts='relative' with model.head='sigmoid': the relative output is larger where "
            "it is nearer, metres are not, and its last layer would start in the sigmoid's flat "
            "end; use 'decoder' (all but the last layer) or 'encoder'"
        )
    if config.init_parts == "decoder" and head == "bins":
        raise ValueError(
            "init_parts='decoder' with model.head='bins': the bins head reads the relative output, "
            "whose last layer would stay random; use 'relative' (all of a relative model)"
        )


def _missing(config, sizes: dict[str, int]) -> list[tuple[str, list[str]]]:
    """Lists (what is missing, lines of commands that make it), in the order of making."""
    found: list[tuple[str, list[str]]] = []
    for part, kind in (("labelled", "rgbd"), ("unlabelled", "folder")):
        wanted = getattr(config.data, part) if sizes[part] else ()
        absent = [s for s in wanted if not _exists(registry.parse(s).get("path", ""))]
        described = [registry.parse(s) for s in absent]
        packed = [pathlib.PurePath(d["path"]) for d in described if d["type"] == "tfds"]
        if packed:
            commands = [
                (
                    p.name,
                    f"python tools/prepare_data.py --source {kind}:RAW/$name --out {p.parent} "
                    "--name $name",
                )
                for p in packed
            ]
            found.append((f"{part} data: {_named(packed)}", _loops(commands)))
        for source, d in zip(absent, described, strict=True):
            if d["type"] != "tfds":
                fix = f"put it there, or name another source in data.{part}"
                found.append((f"{part} data: {source}", [fix]))
    if sizes["unlabelled"] and config.teacher in ("records", "files"):
        paths = [labels.partition("?")[0] for labels in config.data.labels]
        pairs = [
            (pathlib.PurePath(path), source)
            for path, source in zip(paths, config.data.unlabelled, strict=False)
            if not _exists(path)
        ]
        if pairs and config.teacher == "files":
            found.append(
                (
                    f"labels of another tool: {_named([p for p, _ in pairs])}",
                    ["docs/data.md says how they lie beside the images"],
                )
            )
        elif pairs:
            found += _labelling(config, pairs)
    if config.teacher == "online" and not config.teacher_from:
        found.append(("a teacher", ["--config.teacher_from=SOURCE"]))
    return found


def _labelling(config, pairs) -> list[tuple[str, list[str]]]:
    """Lists how to make the pseudo labels of (path, source) pairs, and a missing teacher."""
    variant, teacher = "", "runs/teacher_vitl"  # as configs/teacher.py calls its workdir
    if config.model.variant == "demo":
        variant, teacher = ":demo", "runs/teacher_demo"
    found = []
    if orbax_io.find(teacher) is None:  # a run that failed leaves its folder, too
        released = "LiheYoung/depth-anything-large-hf"
        other = "" if variant else f" (or, below, --checkpoint {released})"
        train = f"python -m depth_anything_jax.train --config=configs/teacher.py{variant}"
        found.append((f"a teacher: {teacher}{other}", [train]))
    commands = []
    for path, source in pairs:
        data = source.replace(path.name, "$name")
        quoted = f'"{data}"' if set(data) & set("?&*[]; '") else data
        commands.append(
            (
                path.name,
                f"python -m depth_anything_jax.pseudo_label --size {config.input_size} "
                f"--checkpoint {teacher} \\\n    --data {quoted} --out {path.parent / '$name'}",
            )
        )
    return [*found, (f"pseudo labels: {_named([p for p, _ in pairs])}", _loops(commands))]


def _loops(commands: list[tuple[str, str]]) -> list[str]:
    """Formats commands as lines; those that differ only in $name share a shell loop."""
    names: dict[str, list[str]] = {}
    for name, command in commands:
        names.setdefault(command, []).append(name)
    lines = []
    for command, alike in names.items():
        if len(alike) == 1:
            lines += command.replace("$name", alike[0]).split("\n")
        else:
            body = [f"  {line}" for line in command.split("\n")]
            lines += [f"for name in {' '.join(alike)}; do", *body, "done"]
    return lines


def _named(paths: list[pathlib.PurePath]) -> str:
    if len(paths) == 1:
        return str(paths[0])
    return f"{len(paths)} sets in " + ", ".join(sorted({f"{p.parent}/" for p in paths}))


def _exists(path: str) -> bool:
    """Whether a path exists; True for a bucket, which is not asked, and for no path."""
    return not path or is_remote(path) or os.path.exists(os.path.expanduser(path))


def page(missing: list[tuple[str, list[str]]]) -> str:
    """Formats the message: what is missing, which command makes it, what runs without data."""
    lines = ["this run needs files that do not exist yet. Make them in this order:", ""]
    for what, commands in missing:
        lines += [f"  {what}", *(f"      {line}" for line in commands)]
    if any("RAW" in line for line in lines):
        lines += [
            "",
            "RAW holds what you downloaded; docs/data.md says how it is laid out. Other sources:",
            "--config.data.labelled=\"('rgbd:PATH/manifest.json',)\" and the like.",
        ]
    return "\n".join(
        [
            *lines,
            "",
            "Without any data or download: `make demo` runs the whole method on rendered scenes.",
            "By hand: --config=configs/teacher.py:demo, then pseudo_label (the page of",
            "configs/student.py:demo has the command), then --config=configs/student.py:demo.",
        ]
    )
