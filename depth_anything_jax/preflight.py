"""What a run needs before anything is loaded: sizes that fit, data, labels and weights that exist.

Every check raises an error that names the field, its value and the cure.
"""

import difflib
import json
import os
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

from depth_anything_jax import configs
from depth_anything_jax.data import specs

TEACHERS = ("none", "records", "files", "online")
INIT_PARTS = ("encoder", "params", "all")
# What a run may change when it is continued: everything else decides what is learned.
FREE = (
    "workdir",
    *("init_from", "init_parts", "allow_missing", "fill_missing"),  # read at step 0 only
    *(
        "accumulation",
        "mesh",
        "model.scan",
        "model.remat",
        "model.attention",
    ),  # the same up to rounding
    *("data.workers", "data.threads", "checkpoint", "log", "eval"),
)


def batch_sizes(config) -> dict[str, int]:
    """{"labelled": …, "unlabelled": …} images of each global batch.

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
    """Refuses fields that contradict each other, and lists everything that is not there yet.

    Raises:
      ValueError: a field, its value and the cure.
      FileNotFoundError: a page of what to prepare with which command.
    """
    _one_of("teacher", config.teacher, TEACHERS)
    _one_of("init_parts", config.init_parts, INIT_PARTS)
    _one_of("loss.feat_input", config.loss.feat_input, ("student", "clean"))
    if config.total_steps < 1:
        raise ValueError(f"total_steps={config.total_steps}: use 1 or more")
    if config.input_size % 14 or config.input_size <= 0:
        fit = max(14, round(config.input_size / 14) * 14)
        raise ValueError(f"input_size={config.input_size} is no multiple of 14; use {fit}")
    if len(config.loss.weights) != 3:
        raise ValueError(
            f"loss.weights={config.loss.weights}: three numbers, for L_l, L_u and L_feat"
        )
    if not workdir:
        raise ValueError("workdir is empty; give --workdir=runs/NAME")
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
    missing = _missing(config, sizes)
    if missing:
        raise FileNotFoundError(page(missing))


def data_config(config) -> dict[str, Any]:
    """The data of a run as `pipeline.train_batches` takes it: labels beside their sources.

    Raises:
      ValueError: another number of labels than of unlabelled sources.
    """
    data = config.data
    unlabelled = [specs.parse(s) for s in data.unlabelled]
    if config.unlabelled_ratio and config.teacher in ("records", "files"):
        if len(data.labels) != len(unlabelled):
            raise ValueError(
                f"data.labels names {len(data.labels)} sets of labels for {len(unlabelled)} "
                "unlabelled sources; give one for each, in the same order"
            )
        for spec, path in zip(unlabelled, data.labels, strict=True):
            spec["labels"] = {"type": config.teacher, "path": path}
    return {
        "labelled": [specs.parse(s) for s in data.labelled],
        "unlabelled": unlabelled,
        "mix": data.mix,
        "workers": data.workers,
        "threads": data.threads,
    }


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{field}={value!r}: one of {', '.join(known)}{hint}")


def _missing(config, sizes: dict[str, int]) -> list[tuple[str, str]]:
    """(what is missing, the command that makes it), in the order to make them."""
    found = []
    for part in ("labelled", "unlabelled"):
        if not sizes[part]:
            continue
        for text in getattr(config.data, part):
            path = specs.parse(text).get("path")
            if path and not _exists(path):
                name = pathlib.PurePath(path).name
                kind = "rgbd" if part == "labelled" else "folder"
                out = pathlib.PurePath(path).parent
                found.append(
                    (
                        f"{part} data {path}",
                        f"python tools/prepare_data.py --source {kind}:RAW/{name} --out {out} "
                        f"--name {name}",
                    )
                )
    if sizes["unlabelled"] and config.teacher in ("records", "files"):
        for path, source in zip(config.data.labels, config.data.unlabelled, strict=False):
            path = path.partition("?")[0]
            if not _exists(path.partition("?")[0]):
                found.append(
                    (
                        f"pseudo labels {path}",
                        "python -m depth_anything_jax.pseudo_label --checkpoint TEACHER "
                        f"--data '{source}' --out {path}",
                    )
                )
    if config.teacher == "online" and not config.teacher_from:
        found.append(("a teacher", "--config.teacher_from=SOURCE"))
    return found


def _exists(path: str) -> bool:
    return "://" in path or os.path.exists(os.path.expanduser(path))


def page(missing: list[tuple[str, str]]) -> str:
    """A short page: what is not there, which command makes it, and what needs nothing."""
    lines = ["this run needs what is not there yet:", ""]
    for what, command in missing:
        lines += [f"  {what}", f"      {command}"]
    return "\n".join(
        [
            *lines,
            "",
            "docs/data.md says how to lay out and prepare data; other sources go into",
            "--config.data.labelled=\"('rgbd:PATH/manifest.json',)\" and the like.",
            "The whole method without any data or download: `make demo`, or",
            "--config=configs/teacher.py:demo, then pseudo_label, then configs/student.py:demo.",
        ]
    )


def check_same_run(meta: dict[str, Any], config, workdir: str) -> None:
    """A workdir is continued only by the run that began it.

    Raises:
      ValueError: fields that decide what is learned (all but FREE) differ from the checkpoint's.
    """
    defaults, then, now = (
        _flat(c)
        for c in (_defaults(), meta.get("config", {}), json.loads(config.to_json_best_effort()))
    )
    changed = []
    for name in now:  # what only the checkpoint has, this version knows no more
        if name in FREE or name.partition(".")[0] in FREE:
            continue
        # A checkpoint from before a field existed was trained with its default.
        old, new = (values.get(name, defaults.get(name)) for values in (then, now))
        if _plain(old) != _plain(new):
            changed.append(f"  {name}: {old!r} in the checkpoint, {new!r} now")
    if changed:
        raise ValueError(
            f"{workdir} holds a run with other settings:\n" + "\n".join(changed) + "\n"
            "Restore them to continue it. For a new run choose another --workdir; it may start "
            f"from these weights: --config.init_from={workdir} --config.init_parts=params"
        )


def _defaults() -> dict[str, Any]:
    common = runpy.run_path(str(configs.folder() / "common.py"))["get_config"]()
    return json.loads(common.to_json_best_effort())


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"optim.clip": 1.0, …}"""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat


def _plain(value: Any) -> Any:
    """A value whose paths and sources are equal where they mean the same."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if not isinstance(value, str) or not value:
        return value
    head, _, query = value.partition("?")
    kind, _, path = head.rpartition(":")
    local = "://" not in head
    path = os.path.abspath(os.path.expanduser(path)) if local else path.rstrip("/")
    return kind or "folder", path, sorted(query.split("&"))
