"""What is in an output folder already, and with what it was made."""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from depth_anything_jax.cli import outputs
from depth_anything_jax.cli.inputs import Item
from depth_anything_jax.cli.outputs import Style
from depth_anything_jax.inference import depth_files

FACTS = "predict.json"  # in the output folder: with what its files were made


def missing(
    out: pathlib.Path,
    items: Sequence[Item],
    style: Style,
    facts: dict[str, Any],
    *,
    resume: bool,
    overwrite: bool,
) -> list[Item]:
    """The items that are still to be done; nothing is written yet.

    Raises:
      ValueError: files of these names are there and neither `resume` nor `overwrite` says what to
        do; `resume` of files that were made otherwise.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out} is a file; name a folder")
    wanted = {i: outputs.paths(out, i.stem, style, video=i.video) for i in items}
    there = [path for paths in wanted.values() for path in paths if path.exists()]
    if there and not (resume or overwrite):
        raise ValueError(
            f"{len(there)} of the files are there already, {there[0]} first: --resume makes those "
            "that are missing, --overwrite makes all again"
        )
    record = out / FACTS
    if resume and record.exists():
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"--resume: {record} is damaged ({error}), and nothing else says how the files "
                "there were made; use another --out, or --overwrite"
            ) from error
        changed = [k for k in {**before, **facts} if before.get(k) != facts.get(k)]
        if changed:
            name = changed[0]
            raise ValueError(
                f"--resume: what is in {out} was made with {name}={before.get(name)!r}, and now it "
                f"is {facts.get(name)!r}; use the same, another --out, or --overwrite"
            )
    if not resume:
        return list(items)
    return [i for i, paths in wanted.items() if not all(path.exists() for path in paths)]


def make_folder(out: pathlib.Path) -> None:
    """Makes the output folder.

    Raises:
      OSError: it cannot be made, or nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"--out={out}: cannot be written ({error.strerror})") from error


def begin(out: pathlib.Path, items: Sequence[Item], style: Style, facts: dict[str, Any]) -> None:
    """Writes down with what the files of the output folder are made.

    Older files of the items are removed before: if this run is stopped, `missing` would take them
    for its own.
    """
    for item in items:
        for path in outputs.paths(out, item.stem, style, video=item.video):
            path.unlink(missing_ok=True)
    with depth_files.replaced(out / FACTS) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
