"""Writes and reads stores of pseudo labels: 16-bit labels of a whole image source, in shards.

A store is a folder:
  card.json                              what was labelled, by which teacher, how (`card` below)
  labels-00003-of-00012.array_record     labels 3·shard_size … of the source, in its order
  invalid-00003.json                     images of that shard without a label, where there are any
  contact.png                            a few images beside their labels

Decisions:
  - Record i belongs to record i of the image source; its key is stored and checked at every read.
    An image that cannot be labelled has a record with the reason.
  - A label is the teacher's output at the network's resolution of the whole image (see
    `label_codec`).
  - A store is continued and read only for the images and teacher that it was started with.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from depth_anything_jax.data.pseudo_labels.label_codec import Label, LabelError, decode
from depth_anything_jax.data.shards import ShardWriter, changes, write_text
from depth_anything_jax.data.sources.base import Source
from depth_anything_jax.data.sources.numbered_keys import joined_keys
from depth_anything_jax.utils import json_files
from depth_anything_jax.utils.literal_paths import literal
from depth_anything_jax.utils.nested_dicts import flatten
from depth_anything_jax.utils.paths import is_remote

CARD = "card.json"
SHARD = "labels-{shard:05d}-of-{shards:05d}.array_record"
FORMAT = 1  # of the folder; a reader refuses others
OPEN_SHARDS = 64  # readers kept open


def keys_digest(source: Source) -> str:
    """SHA-256 over the keys in order: tells whether a source is still the same list of images."""
    digest = hashlib.sha256()
    for keys in joined_keys(source):
        digest.update(keys)
    return digest.hexdigest()


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a store.

    Raises:
      LabelError: there is none, or another version wrote it.
    """
    file = literal(path) / CARD
    if not file.exists():
        raise LabelError(
            f"no pseudo labels at {path} (no {CARD}); make them with\n  python -m "
            f"depth_anything_jax.pseudo_label --checkpoint TEACHER --data IMAGES --out {path}"
        )
    try:
        card = json_files.read(file, 1 << 28)  # it lists every image without a label
    except ValueError as error:
        raise LabelError(f"{error}; label again") from error
    if card.get("format") != FORMAT:
        raise LabelError(
            f"{file}: format {card.get('format')!r}, this version reads {FORMAT}; label again"
        )
    if not _is_whole(card):
        raise LabelError(f"{file}: damaged, fields are missing or of a wrong type; label again")
    return card


def _is_whole(card: Mapping[str, Any]) -> bool:
    try:
        identity, shards = card["identity"], card.get("shards", [])
        numbers = identity["source"]["count"], identity["shard_size"]
        files = [shard["file"] for shard in shards]
        return (
            all(isinstance(n, int) for n in numbers)
            and isinstance(identity["source"]["keys_sha256"], str)
            and isinstance(card["complete"], bool)
            and all(file == pathlib.PurePath(file).name for file in files)
            and (not card["complete"] or (bool(files) and isinstance(card["invalid"], dict)))
        )
    except (KeyError, TypeError):
        return False


class LabelWriter(ShardWriter):
    """Fills a store shard by shard, and continues an earlier run's.

    Args:
      path: the folder, local or on gs://.
      identity: what must not change while a store is filled, as nested JSON values: "source" with
        "count" and "keys_sha256", "teacher", "input", "shard_size", ….
      notes: other fields of the card; replaced by each run.
      create: write the card. With several processes one does, and the others wait for it.

    Raises:
      LabelError: the folder holds labels of something else; the message lists what differs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: Mapping[str, Any],
        notes: Mapping[str, Any] | None = None,
        *,
        create: bool = True,
    ):
        self.identity = json.loads(json.dumps(dict(identity)))
        self.notes = dict(notes or {})
        count, size = self.identity["source"]["count"], self.identity["shard_size"]
        if size < 1:
            raise LabelError(f"shard_size={size}: a shard holds 1 label or more")
        super().__init__(path, SHARD, count, size, "group_size:1,uncompressed")  # PNG is compressed
        if (self.folder / CARD).exists():
            self._check(read_card(self.folder))
        elif create:
            self.folder.mkdir(parents=True, exist_ok=True)
            stray = sorted(p.name for p in self.folder.glob("*.array_record"))
            if stray:
                raise LabelError(
                    f"{self.folder} has no {CARD}, but holds {stray[0]}: choose another"
                )
            self._write_card(complete=False)
        else:
            raise LabelError(f"{self.folder}: another process should have written {CARD}")

    def _check(self, card: Mapping[str, Any]) -> None:
        changed = changes(flatten(card["identity"], "."), flatten(self.identity, "."))
        if changed:
            raise LabelError(
                f"{self.folder} holds labels of something else:\n"
                + "\n".join(f"  {line}" for line in changed)
                + "\nChoose another folder, restore these settings, or delete it to label again"
            )

    def _write_card(self, *, complete: bool, **more: Any) -> None:
        card = {"format": FORMAT, "complete": complete, "identity": self.identity, **self.notes}
        write_text(self.folder / CARD, json.dumps({**card, **more}, indent=1) + "\n")

    def write_shard(self, shard: int, records: Sequence[bytes], errors: Mapping[str, str]) -> None:
        """Writes a shard under a temporary name, then renames it.

        Args:
          shard: its number.
          records: one for each index of `range(shard)`, from `encode` or `encode_invalid`.
          errors: key → why there is no label.
        """
        expected = len(self.range(shard))
        if len(records) != expected:
            raise LabelError(f"shard {shard} has {expected} records, got {len(records)}")
        invalid = self.folder / f"invalid-{shard:05d}.json"
        if errors:  # before the shard: where that is, this is
            write_text(invalid, json.dumps(dict(errors), indent=1) + "\n")
        elif invalid.exists():
            invalid.unlink()
        self.write(shard, records)

    def finish(self, **notes: Any) -> dict[str, Any]:
        """Completes the card: the list of shards, the images without a label, `notes`.

        Raises:
          LabelError: a shard is missing.
        """
        missing = [s for s in range(self.shards) if not self.file(s).exists()]
        if missing:
            raise LabelError(
                f"{self.folder}: shards {missing[:10]} of {self.shards} are missing; run the same "
                "command again"
            )
        invalid: dict[str, str] = {}
        for file in sorted(self.folder.glob("invalid-*.json")):
            invalid |= json.loads(file.read_text())
        files = [
            {"file": self.file(s).name, "start": self.range(s).start, "count": len(self.range(s))}
            for s in range(self.shards)
        ]
        self._write_card(complete=True, shards=files, invalid=invalid, **notes)
        return read_card(self.folder)


class LabelStore:
    """Reads a complete store by position; can be pickled (shards are opened where they are used).

    Raises:
      LabelError: no store there, or one that is not complete.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.path.expanduser(os.fspath(path))
        self.card = read_card(self.path)
        identity = self.card["identity"]
        self.count, self.shard_size = identity["source"]["count"], identity["shard_size"]
        self.shift_known = bool(identity.get("shift_known", False))
        if not self.card["complete"]:
            raise LabelError(
                f"{self.path}: labelling was interrupted; run the same pseudo_label command again"
            )
        self._files = [s["file"] for s in self.card["shards"]]
        self._open()

    def _open(self) -> None:
        self._readers: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._scratch: tempfile.TemporaryDirectory | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_readers", "_lock", "_scratch")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __len__(self) -> int:
        return self.count

    @property
    def invalid(self) -> dict[str, str]:
        """Key → reason, of images without a label."""
        return self.card["invalid"]

    def read(self, index: int, key: str) -> Label:
        """Label `index`, which must be that of image `key`.

        Raises:
          LabelError: out of range, of another image, or an image without a label.
        """
        if not 0 <= index < self.count:
            raise LabelError(f"{self.path} holds {self.count} labels, asked for number {index}")
        shard, offset = divmod(index, self.shard_size)
        (data,) = self._reader(shard).read([offset])
        return decode(data, key)._replace(shift_known=self.shift_known)

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if shard in self._readers:
                self._readers.move_to_end(shard)
                return self._readers[shard]
            # Random access: no read-ahead, no pool of threads per file.
            reader = ArrayRecordReader(
                self._local(self._files[shard]), "readahead_buffer_size:0,max_parallelism:0"
            )
            self._readers[shard] = reader
            if len(self._readers) > OPEN_SHARDS:
                self._readers.popitem(last=False)  # closed with its last reference
            return reader

    def _local(self, name: str) -> str:
        file = epath.Path(self.path) / name
        if not file.exists():
            raise LabelError(f"{file}: the card names this shard, but it is not there")
        if not is_remote(file):
            return os.fspath(file)
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="labels-")
        local = pathlib.Path(self._scratch.name) / name
        if not local.exists():
            file.copy(local)
        return os.fspath(local)
