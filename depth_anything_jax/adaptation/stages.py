"""Runs an adaptation: photos, labels, training, choice of a step, forgetting, report.

Labels are made and the student is trained by the programs `pseudo_label` and `train`, each in a
process of its own. Everything is written as it is finished, so that the same command goes on after
any interruption.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from depth_anything_jax.adaptation import choice, photos, report, selection
from depth_anything_jax.adaptation.describe import describe
from depth_anything_jax.adaptation.identity import digest, state, write
from depth_anything_jax.adaptation.plan import CHECKPOINTS, Plan
from depth_anything_jax.adaptation.selection import Selection
from depth_anything_jax.data import registry
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.pseudo_labels import label_store
from depth_anything_jax.data.pseudo_labels.join import reduced
from depth_anything_jax.demo.stages import Marks, Stage, run_stages
from depth_anything_jax.utils import folder_lock, json_files
from depth_anything_jax.utils.formatting import duration

CHECKED_LABELS = 64  # labels that are looked at before the training
JUDGED = 500  # labels whose time tells more than that of compiling the network
BACKWARD = 3  # forward passes that a training step costs, of a network of the same size
Tell = Callable[[str], None]


def adapt(plan: Plan, tell: Tell = print) -> dict[str, Any]:
    """Runs what is unfinished of an adaptation; returns what the report is made of.

    Raises:
      ValueError: an option, photos, labels or weights that do not fit, and what to do.
      SystemExit: a program failed or was stopped; the message says how to go on.
    """
    plan.check()
    pathlib.Path(plan.out).mkdir(parents=True, exist_ok=True)
    if set(plan.out) & set("?&"):
        raise ValueError(f"--out={plan.out}: choose a path without '?' and '&'")
    with folder_lock.locked(plan.out):
        marks = Marks(plan.out)
        networks = _described(plan, marks)
        _check_size(plan, networks["start"])
        chosen, sources, held_out = choose_photos(plan, tell)
        tell(costs(plan, chosen, networks["start"]))
        _label(plan, sources, networks, marks, tell)
        check_labels(plan, sources)
        stage = training(plan, len(chosen.train), sources, networks["start"])
        tell(step_time(plan, len(chosen.train), sources))
        labels = state(plan.label_files) if plan.label_files else networks["teacher"]["state"]
        of = [*labels, *networks["start"]["state"], digest(plan.mask)]
        _run_training(stage, plan, marks, tell, of)
        found = choice.choose(plan, held_out, networks, [*stage.command, *of], tell)
        found["forgetting"] = choice.forgetting(plan, found, networks, tell)
        return report.write(plan, chosen, networks, found, marks.read(), tell)


def _described(plan: Plan, marks: Marks) -> dict[str, Any]:
    """Describes the teacher (None of label files) and the start, before anything takes long."""
    found: dict[str, Any] = {"teacher": None}
    wanted = {"start": plan.start} | ({} if plan.label_files else {"teacher": plan.teacher})
    known = marks.read().get("networks", {}).get("described", {})
    for role, source in wanted.items():
        same = next((x for x in found.values() if x and x["source"] == source), None)
        old = known.get(role, {})
        of = {"source": source, "load": [list(x) for x in plan.load], "state": state(source)}
        if any(old.get(k) != v for k, v in of.items()):
            old = same or describe(source, dict(plan.load))
        found[role] = {**old, **of}
    marks.add("networks", {"described": found})
    return found


def _check_size(plan: Plan, start: dict[str, Any]) -> None:
    patch = start["patch_size"]
    if plan.size < patch or plan.size % patch:
        near = max(1, round(plan.size / patch)) * patch
        raise ValueError(f"--size={plan.size} is no multiple of {patch}; use {near}")


def choose_photos(plan: Plan, tell: Tell) -> tuple[Selection, list[str], list[str]]:
    """Finds, drops and splits the photos; returns them, the sources to train on and held out.

    Raises:
      ValueError: too few; a mask that fits none or hides all; other photos than before.
    """
    mask = None
    if plan.mask:
        pixels = formats.read_mask(plan.mask)
        if not pixels.any():
            raise ValueError(
                f"--mask={plan.mask} is black everywhere: white pixels count, black ones do not"
            )
        tell(f"mask: {pixels.mean():.0%} of the pixels count (white), the rest does not (black)")
        mask = (pixels.shape[0], pixels.shape[1])
        enlarged = plan.size / min(mask)
        if not reduced(pixels, [round(side * enlarged) for side in mask]).any():
            raise ValueError(
                f"--mask={plan.mask}: its white parts are so thin that no pixel of a map of "
                f"--size={plan.size} lies in them; draw them larger, or raise --size"
            )
    listed, failed = photos.find(plan.photos, plan.out, fps=plan.fps, tell=tell)
    chosen = selection.select(
        listed, size=plan.size, share=plan.held_out, seed=plan.seed, mask=mask, failed=failed
    )
    names = [[p.path for p in part] for part in (chosen.train, chosen.held_out)]
    listing = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    file = pathlib.Path(plan.path("selection.json"))
    old = json_files.read(file) if file.exists() else {"digest": listing}
    if old["digest"] != listing:
        raise ValueError(
            f"{plan.out} was begun with {old['train']} photos to train on and {old['held_out']} "
            f"held out; now they are {len(chosen.train)} and {len(chosen.held_out)}, or others. "
            "Restore the photos and options, or give another --out"
        )
    sources = _write_lists(plan, "train", chosen.train)
    held_out = _write_lists(plan, "held_out", chosen.held_out)
    counts = {"train": len(chosen.train), "held_out": len(chosen.held_out), "digest": listing}
    write(file, json.dumps(counts | {"how": chosen.how, "dropped": chosen.dropped}, indent=1))
    return chosen, sources, held_out


def _write_lists(plan: Plan, name: str, members: Sequence[photos.Photo]) -> list[str]:
    """Writes a manifest for each root; returns their sources."""
    sources = []
    for number, root in enumerate(sorted({p.root for p in members})):
        file = plan.path("lists", f"{name}-{number}.jsonl")
        selection.write_list(pathlib.Path(file), [p for p in members if p.root == root])
        sources.append(f"rgbd:{file}?root={root}&labelled=False")
    return sources


def labels_of(plan: Plan, number: int) -> str:
    """Returns data.labels of the source with that number."""
    text = plan.label_files or plan.path("labels", f"train-{number}")
    if plan.mask:
        text += f"{'&' if '?' in text else '?'}mask={os.path.abspath(plan.mask)}"
    return text


def costs(plan: Plan, chosen: Selection, start: dict[str, Any]) -> str:
    """Tells photos, tokens, steps, memory and disk, before anything is trained."""
    count, steps = len(chosen.train), plan.total_steps(len(chosen.train))
    tokens = (plan.size // start["patch_size"]) ** 2
    batch = plan.unlabelled_batch * (2 if plan.labelled else 1)
    # float32 parameters and two moments of Adam; gradients beside them while computing
    state = 12 * start["parameters"] / 2**30
    dropped = "".join(f", {n:,} {reason}" for reason, n in chosen.reasons().most_common())
    return "\n".join(
        [
            f"photos: {count:,} to train on, {len(chosen.held_out):,} held out ({chosen.how})"
            f"{dropped}",
            f"training: {steps:,} steps of {batch} crops of {plan.size} pixels ({tokens:,} tokens "
            f"each): every photo {steps * plan.unlabelled_batch / count:.1f} times",
            f"memory: {state * 4 / 3:.2f} GiB for {start['parameters']:,} parameters, their "
            "gradients and moments; the activations are told before the first step",
            f"disk: {state * (CHECKPOINTS + 2):.1f} GiB of checkpoints in {plan.out}",
        ]
    )


def step_time(plan: Plan, count: int, sources: Sequence[str]) -> str:
    """Estimates the training's time from the teacher's, which has just labelled the photos."""
    if plan.label_files:
        return "time: told by the training after its first steps (label files tell none)"
    card = label_store.read_card(plan.path("labels", "train-0"))
    rate = card.get("images_per_second")
    if not rate or card["identity"]["source"]["count"] < JUDGED:
        return "time: told by the training after its first steps (too few photos to judge it now)"
    step = plan.unlabelled_batch * (2 if plan.labelled else 1) * (BACKWARD + 1) / rate
    total = duration(step * plan.total_steps(count))
    return (
        f"time: about {step:.2g} s a step and {total} for the training on this device, judged by "
        f"the teacher's {rate:.3g} photos a second"
    )


def _label(plan, sources, networks, marks: Marks, tell: Tell) -> None:
    if plan.label_files:
        for number, source in enumerate(sources):  # photos without a label are found here
            registry.make(_with_labels(plan, number, source))
        return
    for number, source in enumerate(sources):
        command = [
            "pseudo_label", "--checkpoint", plan.teacher, "--data", source,
            "--out", plan.path("labels", f"train-{number}"), "--shard_size", "256",
        ]  # fmt: skip
        if networks["teacher"]["crops"]:
            command += ["--size", str(plan.size)]
        command += [f"--{_FLAGS[k]}={v}" for k, v in plan.load if v is not None]
        of = networks["teacher"]["state"]
        _run(Stage("label", number, tuple(command), ""), plan, marks, tell, of)


_FLAGS = {"version": "model_version", "max_depth": "max_depth", "allow_missing": "allow_missing",
          "fill": "fill"}  # fmt: skip


def _with_labels(plan: Plan, number: int, source: str) -> dict[str, Any]:
    kind = "files" if plan.label_files else "records"
    return registry.parse(source) | {"labels": {"type": kind, "path": labels_of(plan, number)}}


def check_labels(plan: Plan, sources: Sequence[str]) -> None:
    """Refuses a teacher that answers one value everywhere.

    Raises:
      ValueError: more than half of the labels that are looked at are constant.
    """
    flat, seen, first = 0, 0, ""
    for number, text in enumerate(sources):
        source: Any = registry.make(_with_labels(plan, number, text))
        most = min(len(source), CHECKED_LABELS)
        for i in np.unique(np.linspace(0, len(source) - 1, most).astype(int)):
            at = source.label_of[int(i)]
            key = source.source.key(at)
            label = source.labels.read(at, key)
            values = label.values[label.valid]
            seen += 1
            if not values.size or np.ptp(values) <= 1e-6 * np.abs(values).max():
                flat, first = flat + 1, first or key
    if flat * 2 > seen:
        raise ValueError(
            f"the teacher answers one value everywhere for {flat} of {seen} photos that were "
            f"looked at (first: {first}): nothing can be learned from it. Look at "
            f"{plan.path('labels', 'train-0', 'contact.png')}; are these the right weights, and is "
            "none of their tensors missing?"
        )


def training(plan: Plan, count: int, sources: Sequence[str], start: dict[str, Any]) -> Stage:
    """Returns the training run's command."""
    steps, every = plan.total_steps(count), plan.every(count)
    whole = start["parts"] == "all" and start["head"] == "relative"
    fields: dict[str, Any] = {
        "model.variant": start["variant"],
        "model.version": (whole and start["version"]) or "v2",
        "init_from": plan.start,
        "init_parts": "params" if whole else "encoder",
        "frozen_encoder": plan.frozen_encoder or plan.start,
        "teacher": "files" if plan.label_files else "records",
        "data.unlabelled": tuple(sources),
        "data.labels": tuple(labels_of(plan, i) for i in range(len(sources))),
        "input_size": plan.size,
        "batch_size": plan.unlabelled_batch * (2 if plan.labelled else 1),
        "total_steps": steps,
        "optim.warmup": max(1, min(50, steps // 10)),
        "checkpoint.every": every,
        "checkpoint.keep_every": every,
        "log.images": every,
        "seed": plan.seed,
    }
    load = dict(plan.load)
    if load.get("allow_missing"):
        fields |= {"allow_missing": load["allow_missing"], "fill_missing": load.get("fill", "init")}
    if plan.labelled:
        fields["data.labelled"] = (plan.labelled,)
    fields |= dict(field.split("=", 1) for field in plan.fields)
    workdir = plan.path("run")
    config = f"--config=configs/adapt.py:{'labelled' if plan.labelled else 'photos'}"
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return Stage("train", plan.seed, ("train", config, f"--workdir={workdir}", *flags), workdir)


def _run_training(stage: Stage, plan: Plan, marks: Marks, tell: Tell, of: Sequence[Any]) -> None:
    """Runs the training; says which options have changed since it began, where any has."""
    name, now = f"{stage.title} begun", list(stage.command)
    old = marks.read().get(name, {}).get("command", now)
    changes = sorted({x.partition("=")[0].removeprefix("--config.") for x in {*old} ^ {*now}})
    if changes and pathlib.Path(stage.workdir).exists():
        tell(
            f"{stage.title}: {', '.join(changes)} changed since the training in {stage.workdir} "
            "began. More --steps go on from there; with anything else give another --out, which "
            "also keeps this result"
        )
    _run(stage, plan, marks, tell, of, begun=name)


def _run(
    stage: Stage, plan: Plan, marks: Marks, tell: Tell, of: Sequence[Any] = (), begun: str = ""
) -> None:
    """Runs a program unless it is done with this very command, `of` files in this state."""
    command = [*stage.command, *map(str, of)]
    if marks.done(stage.title, command):
        tell(f"{stage.title}: already done")
        return
    start = time.monotonic()
    if begun and not pathlib.Path(stage.workdir).exists():
        marks.add(begun, {"command": list(stage.command)})
    run_stages([stage], plan, lambda s, line: tell(f"{s.title}: {line}"), lambda s, seconds: None)
    marks.set(stage.title, command, time.monotonic() - start)
