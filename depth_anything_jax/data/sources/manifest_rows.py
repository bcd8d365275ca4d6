"""Reads the rows of a manifest file (JSON, JSON lines, CSV, lists) and checks their fields.

A list has one pair on each line: "image label", "image label fx" (BTS' lists of NYU and KITTI) or
"time image time label" (TUM's associate.py); columns are separated by white space, tabs, commas or
semicolons. A table (CSV) has a header that names fields. Lines that begin with # are comments.
"""

from __future__ import annotations

import csv
import json
import os
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TextIO

from depth_anything_jax.utils.choices import did_you_mean

TEXT = (
    "rgb", "depth", "fmt", "kind", "field", "sky", "valid", "dataset", "domain", "scene", "split",
    "label_orientation",
)  # fmt: skip
NUMBERS = ("scale", "offset", "sky_above", "min_depth", "max_depth")
TRUTHS = ("abs", "shift_known", "label_stretched")
NOTES = ("note", "hw", "valid_frac", "p1_p50_p99")  # and whatever begins with "_": not read
_PIECE = 1 << 20  # characters of JSON that are read at a time
_SPACE, _AFTER = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
_FORMS = (
    "expected 'image label', 'image label fx' or TUM's 'time image time label', or a table with a "
    "header such as rgb,depth,scale; names with spaces need tabs, commas or quotes between them"
)


class ManifestError(ValueError):
    """A manifest is missing, is no manifest, or has nothing that fits the selection."""


def check_fields(fields: Mapping[str, Any], where: str, known: Collection[str]) -> None:
    """Refuses fields that do not exist and values of the wrong type.

    Args:
      fields: of an entry.
      where: the entry, for the message.
      known: fields that are read, beside those of this module.

    Raises:
      ManifestError: naming the field, its value and the nearest field.
    """
    for name, value in fields.items():
        if name in TEXT:
            right, what = isinstance(value, str), "text in quotes"
        elif name in NUMBERS:
            right = isinstance(value, int | float) and not isinstance(value, bool)
            what = "a number"
        elif name in TRUTHS:
            right, what = value in (True, False), "true or false"
        elif name in known or name in NOTES or name.startswith("_"):
            continue
        else:
            names = sorted({*TEXT, *NUMBERS, *TRUTHS, *known})
            hint = did_you_mean(name.lower(), names) or f"; fields are {', '.join(names)}"
            raise ManifestError(
                f"{where}: no field {name!r}{hint} (the names of notes of your own begin with '_')"
            )
        if not right:
            raise ManifestError(f"{where}: {name}={value!r}: must be {what}")


def read_rows(path: pathlib.Path) -> Iterator[Any]:
    """Yields the rows of a manifest file: JSON, JSON lines, or else a list or a table.

    JSON is read piece by piece, because all rows at once would take a gigabyte for a million.

    Raises:
      ManifestError: naming the file, and the line where one is wrong.
    """
    try:
        with open(path, encoding=_encoding(path)) as file:
            if path.suffix == ".json":
                yield from _json_rows(file, path)
            elif path.suffix == ".jsonl":
                numbered = enumerate(file, 1)
                yield from (_json_line(x, f"{path}, line {n}") for n, x in numbered if x.strip())
            else:
                yield from _read_list(file.read(), path)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        lines_hint = "; JSON lines need the suffix .jsonl" * error.msg.startswith("Extra data")
        raise ManifestError(f"{path}: not JSON ({error}){lines_hint}") from error
    except RecursionError as error:
        raise ManifestError(f"{path}: JSON that is nested too deeply for a manifest") from error


def _encoding(path: pathlib.Path) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one."""
    with open(path, "rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _json_rows(file: TextIO, path: pathlib.Path) -> Iterator[Any]:
    """Yields the items of a JSON list."""
    scan, empty = json.JSONDecoder().scan_once, True  # type: ignore[attr-defined]
    text = file.read(_PIECE)
    while text.isspace():
        text = file.read(_PIECE)
    text = text.lstrip()
    at, follows = 1, "," if text.startswith("[") else ""
    while follows == ",":
        try:
            row, end = scan(text, _SPACE.match(text, at).end())  # type: ignore[union-attr]
            after = _AFTER.match(text, end)
        except (StopIteration, json.JSONDecodeError):  # perhaps it goes on in the next piece
            after = None
        if after is not None:
            yield row
            empty, follows, at = False, after[1], after.end()
        elif piece := file.read(max(_PIECE, len(text) - at)):
            text, at = text[at:] + piece, 0
        else:
            follows = ""
    if empty or follows != "]" or text[at:].strip() or file.read().strip():
        file.seek(0)
        whole = json.loads(file.read())  # raises where it is no JSON, and says where
        raise ManifestError(f"{path}: a manifest is a non-empty list, this is {whole!r:.80}")


def _json_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not JSON ({error})") from error


def _read_list(text: str, path: pathlib.Path) -> list[dict[str, Any]]:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        raise ManifestError(f"{path}: no line that is not empty or a comment; {_FORMS}")
    separator = _separator(lines[0][1])
    header = _cells(lines[0][1], separator)
    table = "rgb" in header
    rows = []
    for number, line in lines[table:]:
        where = f"{path}, line {number}"
        cells = _cells(line, separator)
        if table:
            if len(cells) != len(header):
                raise ManifestError(
                    f"{where}: {len(cells)} columns, the header has {len(header)}: {line:.120}"
                )
            named = zip(header, cells, strict=True)
            row = {name: _value(name, cell, where) for name, cell in named if cell}
        else:
            row = _columns(cells, line, where)
        if row.get("depth") != "None":  # KITTI: no label for this image
            rows.append(row)
    if not rows:
        raise ManifestError(f"{path}: none of its lines names a label")
    return rows


def _separator(line: str) -> str | None:
    """The character between columns, by the first line; None: white space."""
    for separator in "\t,;":
        first, found, _ = line.partition(separator)
        first = first.strip().strip('"')
        if found and (_is_file(first) or first.isidentifier()):
            return separator
    return None


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None and '"' not in line:
        return line.split()
    found = next(csv.reader([line], delimiter=separator or " ", skipinitialspace=True))
    return [cell.strip() for cell in found if separator or cell]


def _columns(cells: list[str], line: str, where: str) -> dict[str, Any]:
    """A line of a list without a header."""
    numbers = [_number(cell) for cell in cells]
    if len(cells) == 4 and numbers[0] is not None and numbers[2] is not None:
        cells, numbers = [cells[1], cells[3]], [None, None]
    if len(cells) == 2 and numbers[0] is not None:
        raise ManifestError(
            f"{where}: {line!r:.120} is a time and a file: pair the lists of images and labels "
            "first, for example by TUM's associate.py"
        )
    right = len(cells) in (1, 2) or (len(cells) == 3 and numbers[2] is not None)
    if not right or not _is_file(cells[0]) or any(x is not None for x in numbers[:2]):
        raise ManifestError(f"{where}: {line!r:.120}: {_FORMS}")
    row: dict[str, Any] = dict(zip(("rgb", "depth"), cells, strict=False))
    return row | ({"fx": numbers[2]} if len(cells) == 3 else {})


def _is_file(cell: str) -> bool:
    return bool(os.path.splitext(cell)[1]) and _number(cell) is None


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _value(name: str, cell: str, where: str) -> Any:
    """A cell of a table as the field's type."""
    if name in TRUTHS:
        if cell.lower() not in ("true", "false", "1", "0"):
            raise ManifestError(f"{where}: {name}={cell!r}: must be true or false")
        return cell.lower() in ("true", "1")
    if name in TEXT or name.startswith("_"):
        return cell
    try:
        return json.loads(cell)  # numbers, and lists in quotes
    except ValueError:
        return cell
