"""Resumes a run of predict: finds existing outputs and checks that the same options made them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from depth_anything_jax.cli import outputs
from depth_anything_jax.cli.batch import Options
from depth_anything_jax.cli.inputs import Item
from depth_anything_jax.cli.outputs import Style
from depth_anything_jax.inference import depth_files

FACTS = "predict.json"  # in the output folder: the options that its files were made with


def missing(
    out: pathlib.Path,
    items: Sequence[Item],
    style: Style,
    facts: dict[str, Any],
    *,
    resume: bool,
    overwrite: bool,
) -> list[Item]:
    """Lists the items that still have to be processed; writes nothing.

    Raises:
      ValueError: output files exist and neither `resume` nor `overwrite` is set, or `resume` is set
        and they were made with other options.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out} is a file; name a folder")
    wanted = {i: outputs.paths(out, i.stem, style, video=i.video) for i in items}
    there = [path for paths in wanted.values() for path in paths if os.path.exists(path)]
    if there and not (resume or overwrite):
        raise ValueError(
            f"{len(there)} of the files already exist, {there[0]} first: --resume makes the "
            "missing ones, --overwrite makes all of them again"
        )
    record = out / FACTS
    if resume and record.exists():
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
            if not isinstance(before, dict):
                raise ValueError("no JSON object")
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"--resume: {record} is damaged ({error}), and nothing else records the options "
                "that its files were made with; use another --out, or --overwrite"
            ) from error
        # A folder of before an option was added was made with its default.
        defaults = dataclasses.asdict(Options()) | dataclasses.asdict(Style())
        defaults = json.loads(json.dumps(defaults))
        before = {k: defaults[k] for k in facts if k in defaults} | before
        changed = [k for k in {**before, **facts} if before.get(k) != facts.get(k)]
        if changed:
            name = changed[0]
            raise ValueError(
                f"--resume: the files in {out} were made with {name}={before.get(name)!r}, and now "
                f"it is {facts.get(name)!r}; use the same, another --out, or --overwrite"
            )
    if not resume:
        return list(items)
    return [i for i, paths in wanted.items() if not all(map(os.path.exists, paths))]


def make_folder(out: pathlib.Path) -> None:
    """Creates the output folder.

    Raises:
      OSError: it cannot be created, or is not writable.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"--out={out}: cannot be written ({error.strerror})") from error


def begin(out: pathlib.Path, items: Sequence[Item], style: Style, facts: dict[str, Any]) -> None:
    """Records the options that the files of the output folder are made with.

    Older files of the items are removed first; otherwise, if this run is stopped, `missing` would
    mistake them for results of this run.
    """
    for item in items:
        for path in outputs.paths(out, item.stem, style, video=item.video):
            if os.path.lexists(path):  # False of a name that is too long
                path.unlink()
    with depth_files.replaced(out / FACTS) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
