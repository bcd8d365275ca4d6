"""Prepares a data set shard by shard: the plan, one shard, notes of what is done, the card.

`tools/prepare_data.py` runs `write_shard` in processes of one machine, `beam_shards` on many.
Shards appear complete or not at all, each with a note beside it, so that either goes on where the
other stopped; `finish` makes TFDS' metadata and the card of the notes.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pathlib
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from depth_anything_jax.data.pseudo_labels.label_store import keys_digest
from depth_anything_jax.data.shards import ShardWriter, changes, write_text
from depth_anything_jax.data.sources import tfds_source
from depth_anything_jax.data.sources.base import LeftOut, Source, is_labelled, unwrapped
from depth_anything_jax.data.sources.tfds_writer import (
    encode,
    features,
    label_encoding,
    mask_fields,
    record_files,
    serialize,
)

VERSION = "1.0.0"
PROGRESS, PLAN = ".progress", "plan.json"  # folder of an unfinished preparation, a file in it


class PreparationError(ValueError):
    """A folder holds something else, or there is nothing to write."""


def make_plan(source: Source, name: str, spec: str, shard_size: int) -> dict[str, Any]:
    """Describes the output as JSON; a run continues another one's work if their plans are equal."""
    labelled = is_labelled(source)
    return {
        "name": name,
        "source": spec,
        "records": len(source),
        "keys": keys_digest(source),
        "shard_size": shard_size,
        "shards": -(-len(source) // shard_size),
        "labelled": labelled,
        "encoding": label_encoding(source) if labelled else None,
        "masks": mask_fields(source) if labelled else [],
    }


def shard_writer(plan: dict[str, Any], folder: str | os.PathLike[str]) -> ShardWriter:
    """Returns the writer of a plan's shards, which are named as TFDS expects it."""
    name = plan["name"] + "-train.array_record-{shard:05d}-of-{shards:05d}"
    # One record per group, for random reads.
    size = plan["shard_size"]
    return ShardWriter(folder, name, plan["records"], size, "group_size:1", alone=False)


def start(plan: dict[str, Any], folder: pathlib.Path, source: Source) -> list[int]:
    """Creates or continues the folder; returns the shards still to be written.

    Raises:
      PreparationError: the folder holds another data set, complete or not.
    """
    progress = folder / PROGRESS
    if not progress.is_dir() and folder.is_dir() and any(folder.iterdir()):
        raise PreparationError(f"{folder} is not empty; choose another --name or remove it")
    progress.mkdir(parents=True, exist_ok=True)
    if (progress / PLAN).is_file():
        begun = json.loads((progress / PLAN).read_text())
        different = changes(begun, plan)
        if different:
            raise PreparationError(
                f"{folder} was begun with other settings: {'; '.join(different)}. Use the same "
                "options, another --name, or remove the folder."
            )
    else:
        write_json(progress / PLAN, plan)
    for left in (*folder.glob(".*-of-*.*"), *progress.glob(".*.json.*")):  # by killed writers
        left.unlink(missing_ok=True)
    return unfinished(plan, folder, source)


def unfinished(plan: dict[str, Any], folder: pathlib.Path, source: Source) -> list[int]:
    """Lists the shards that are missing or torn, or whose files have changed since."""
    writer, todo = shard_writer(plan, folder), []
    for shard in range(plan["shards"]):
        file = folder / PROGRESS / f"{shard:05d}.json"
        note = json.loads(file.read_text()) if file.is_file() else None
        if note is None:
            todo.append(shard)
        elif (size := _size(writer, shard)) is None or size != note.get("size", size):
            print(f"shard {shard} is not as it was written (a full disk?): writing it again")
            todo.append(shard)
        elif "files" in note and touched(source, writer.range(shard), note["begun"]):
            if files_digest(source, writer.range(shard)) != note["files"]:
                print(f"files of shard {shard} have changed since it was written: writing it again")
                todo.append(shard)
    return todo


def _size(writer: ShardWriter, shard: int) -> int | None:
    """The bytes of a shard's file; None where there is none."""
    try:
        return os.stat(writer.file(shard)).st_size
    except FileNotFoundError:
        return None


def check_seen(source: Source) -> None:
    """Checks that this machine sees the folder of a source, with something in it.

    Raises:
      PreparationError: it does not: all records would be skipped as broken.
    """
    root = getattr(unwrapped(source, [])[0], "root", None)
    if root is not None and not (os.path.isdir(root or ".") and any(os.scandir(root or "."))):
        raise PreparationError(
            f"{platform.node()} sees no folder {root}, or an empty one: mount it there (a relative "
            f"path starts at {os.getcwd()} here), then give the same command again"
        )


def files_digest(source: Source, indices: Iterable[int]) -> str:
    """Digests the contents of the files of some records."""
    digest = hashlib.sha256()
    for index in indices:
        for file in record_files(source, index):
            try:
                content = pathlib.Path(file).read_bytes()
            except OSError:
                content = b"missing"
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def touched(source: Source, indices: Iterable[int], since: int) -> bool:
    """Whether a file of some records was written or replaced after a time in nanoseconds."""
    for index in indices:
        for file in record_files(source, index):
            try:
                stat = os.stat(file)
            except OSError:
                return True
            if max(stat.st_mtime_ns, stat.st_ctime_ns) > since - 20_000_000:  # clocks are coarse
                return True
    return False


def write_shard(
    plan: dict[str, Any],
    folder: str | os.PathLike[str],
    source: Source,
    shard: int,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Writes one shard and then a note that it is complete; returns the note.

    It has the same bytes whoever writes it, and may be written twice at once: the last one stays.
    `done` is called after each record.

    Raises:
      PreparationError: the source's folder is not there, or is gone before the end.
    """
    check_seen(source)
    writer = shard_writer(plan, folder)
    made = features(plan["labelled"], plan["encoding"], plan["masks"])
    note: dict[str, Any] = {"begun": time.time_ns(), "records": 0, "bytes": 0, "skipped": []}
    note["left_out"] = collections.Counter()
    note["files"] = files_digest(source, writer.range(shard))

    def records() -> Iterator[bytes]:
        for index in writer.range(shard):
            try:
                example = encode(source, index, encoding=plan["encoding"], masks=plan["masks"])
                data = serialize(made, example)
            except LeftOut as error:
                note["left_out"][error.reason] += 1
            except Exception as error:  # a broken file must not prevent writing the others
                reason = f"{type(error).__name__}: {error}"
                note["skipped"].append({"key": source.key(index), "error": reason})
            else:
                note["records"] += 1
                note["bytes"] += len(data)
                yield data
            done()

    writer.write(shard, records())
    if note["skipped"]:
        check_seen(source)  # a disk that is gone is no shard of broken files
    note["size"] = _size(writer, shard)
    write_json(writer.folder / PROGRESS / f"{shard:05d}.json", note)
    return note


def finish(
    plan: dict[str, Any], folder: pathlib.Path, licence: str, source: Source
) -> dict[str, Any]:
    """Writes TFDS' metadata and the card; returns the card."""
    tfds = tfds_source.tensorflow_datasets("tools/prepare_data.py")
    notes = [
        json.loads((folder / PROGRESS / f"{s:05d}.json").read_text()) for s in range(plan["shards"])
    ]
    card = {
        "name": plan["name"],
        "licence": licence,
        "source": plan["source"],
        "keys": plan["keys"],
        "records": sum(n["records"] for n in notes),
        "skipped": sum(len(n["skipped"]) for n in notes),
        "bytes": sum(n["bytes"] for n in notes),
        "shards": plan["shards"],
        "shard_size": plan["shard_size"],
        "labelled": plan["labelled"],
        "label_encoding": plan["encoding"],
        "masks": plan["masks"],
        "skipped_files": [item for n in notes for item in n["skipped"]],
    }
    left_out = collections.Counter(getattr(unwrapped(source, [])[0], "left_out", {}))
    for note in notes:  # those of versions before this count were no training sets
        left_out.update(note.get("left_out", {}))
    if left_out:
        card["left_out"] = dict(sorted(left_out.items()))
    if all("files" in n for n in notes):  # else a version that did not digest files wrote some
        card["files"] = _joint(n["files"] for n in notes)
    if not card["records"]:
        first = [f"{item['key']}: {item['error']}" for item in card["skipped_files"][:1]]
        raise PreparationError(
            f"none of the {plan['records']} records could be read, so there is no data set; the "
            f"first: {(*first, f'left out: {dict(left_out)}')[0]}"
        )
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[n["records"] for n in notes],
        num_bytes=card["bytes"],
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=plan["name"],
            split="train",
            filetype_suffix="array_record",
        ),
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(plan["labelled"], plan["encoding"], plan["masks"]),
        split_infos=[split],
        version=VERSION,
        description=f"Prepared from {plan['source']}; see {tfds_source.CARD}.",
        license=licence,
        check_data=False,  # that check needs TensorFlow
    )
    write_json(folder / tfds_source.CARD, card)  # last: the data set is complete when it is there
    shutil.rmtree(folder / PROGRESS)
    return card


def check_complete(plan: dict[str, Any], folder: pathlib.Path, source: Source) -> dict[str, Any]:
    """Returns the card of a complete data set.

    Raises:
      PreparationError: it was made from another source, or the source's files have changed.
    """
    card = json.loads((folder / tfds_source.CARD).read_text())
    if card["source"] != plan["source"] or card["keys"] != plan["keys"]:
        raise PreparationError(f"{folder} holds another data set, made from {card['source']}")
    since = (folder / tfds_source.CARD).stat().st_mtime_ns
    if "files" in card and touched(source, range(plan["records"]), since):
        writer = shard_writer({**plan, "shard_size": card["shard_size"]}, folder)
        shards = range(card["shards"])
        if _joint(files_digest(source, writer.range(s)) for s in shards) != card["files"]:
            raise PreparationError(
                f"{folder} is complete, but files of {card['source']} have changed since it was "
                "made; choose another --name, or remove it and prepare it again"
            )
    return card


def _joint(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def write_json(path: os.PathLike[str], value: Any) -> None:
    """Writes JSON atomically, so that readers never see an incomplete file."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_text(epath.Path(path), text, alone=False)
