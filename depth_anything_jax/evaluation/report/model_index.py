"""Reads the scores of `evaluate --out` as evaluation results of a model card on the Hub."""

import math
import pathlib
import re
from typing import Any

import huggingface_hub

from depth_anything_jax.evaluation.report import tables
from depth_anything_jax.utils import json_files

TASK = "depth-estimation"
SCORES = "scores.json"


def read(path: str | pathlib.Path, checkpoint: str = "") -> list[dict[str, Any]]:
    """Reads the rows of one candidate, with NaN for null, as `tables.table` takes them.

    Args:
      path: the folder of `evaluate --out`, or its scores.json.
      checkpoint: the candidate, as evaluate names it; not needed where there is one alone.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no scores, or no such candidate; names those that there are.
    """
    file = pathlib.Path(path)
    file = file / SCORES if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"no scores at {file}; `evaluate --out FOLDER` writes {SCORES}")
    rows = json_files.read(file).get("sets")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file}: no 'sets' in it; `evaluate --out FOLDER` writes {SCORES}")
    names = list(dict.fromkeys(row["checkpoint"] for row in rows))
    name = names[0] if len(names) == 1 else checkpoint
    if name not in names:
        raise ValueError(
            f"{file} has scores of {', '.join(names)}, and not of {checkpoint!r}; name one of them"
        )
    numbers = {*tables.COLUMNS}
    return [
        {k: math.nan if v is None and k in numbers else v for k, v in row.items()}
        for row in rows
        if row["checkpoint"] == name
    ]


def results(rows: list[dict[str, Any]]) -> list[huggingface_hub.EvalResult]:
    """Makes one result of each number; corrupted images and single kinds of scene are left out.

    The configuration of its data set names everything that a score depends on: numbers of one set
    under two protocols are two entries.
    """
    found = []
    sets = {row["set"] for row in rows}
    for row in rows:
        if "corruption" in row or (row["pairs"] and row["set"].rpartition("/")[0] in sets):
            continue
        where = f"protocol {row['protocol']} {row['hash']}, scored as {row['view']}"
        for name, title in tables.COLUMNS.items():
            if math.isnan(row[name]):
                continue
            found.append(
                huggingface_hub.EvalResult(
                    task_type=TASK,
                    task_name="Depth estimation",
                    dataset_type=re.sub(r"[^\w.-]+", "-", row["set"].partition("?")[0]),
                    dataset_name=row["set"],
                    dataset_config=where,
                    dataset_args={"images": row["images"]},
                    metric_type=name,
                    metric_name=title,
                    metric_value=round(row[name], 6),
                )
            )
    return found
