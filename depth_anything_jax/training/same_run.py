"""Checks that a run which goes on from a work folder or mirror is the one that wrote it."""

import json
import os
import runpy
from typing import Any

from absl import logging

from depth_anything_jax import configs
from depth_anything_jax.training import optim
from depth_anything_jax.utils.nested_dicts import flatten
from depth_anything_jax.utils.paths import is_remote

# Fields that a continued run may change; all others decide what is learned.
FREE = (
    "workdir",
    *("init_from", "init_parts", "allow_missing", "fill_missing"),  # read at step 0 only
    *(
        "accumulation",
        "compile_effort",
        "mesh",
        "model.scan",
        "model.remat",
        "model.attention",
    ),  # the same up to rounding
    *("data.workers", "data.threads", "data.allow_changed", "checkpoint", "log", "eval", "guard"),
)

# What was done before a field existed, where that is not the field's default.
BEFORE = {"data.label_resize": "nearest"}


def check(meta: dict[str, Any], config, *, workdir: str = "", mirror: str = "") -> None:
    """Checks that a workdir or mirror holds this very run and not another one.

    Args:
      meta: metadata of its checkpoint, with "config".
      config: of the run that starts.
      workdir, mirror: the folder; give one of the two.

    Raises:
      ValueError: fields that decide what is learned (all but FREE) differ from the checkpoint's.
    """
    defaults, then, now = (
        flatten(c, ".")
        for c in (_defaults(), meta.get("config", {}), json.loads(config.to_json_best_effort()))
    )
    changed = []
    for name in now:  # a field that only the checkpoint has no longer exists
        if name in FREE or name.partition(".")[0] in FREE:
            continue
        # A checkpoint from before a field existed was trained with its default, or as BEFORE says.
        old, new = (values.get(name, defaults.get(name)) for values in (then, now))
        if name in BEFORE and name not in then and new != defaults[name]:
            old = BEFORE[name]
        elif name in BEFORE and name not in then:  # the same command goes on
            logging.warning(
                "%s was begun with %s=%r, the only way then; it goes on with %r. To go on as it "
                "began give --config.%s=%s",
                workdir or mirror, name, BEFORE[name], new, name, BEFORE[name],
            )  # fmt: skip
        grown = name == "total_steps" and 0 < (old or 0) < (new or 0)
        if grown and config.optim.schedule in optim.EXTENDABLE:
            continue  # more steps of the same training; `optim.extension` says what that means
        if _plain(old) != _plain(new):
            changed.append(f"  {name}: {old!r} in the checkpoint, {new!r} now")
    if changed:
        fix = f"For a new run choose another --{'workdir' if workdir else 'mirror'}"
        if workdir:
            fix += (
                "; it may start from these weights: "
                f"--config.init_from={workdir} --config.init_parts=params"
            )
        if any(line.startswith("  total_steps:") for line in changed):
            fix = (
                "total_steps may only grow, and only under optim.schedule="
                f"{' or '.join(optim.EXTENDABLE)}. {fix}"
            )
        raise ValueError(
            f"{workdir or mirror} holds a run with other settings:\n" + "\n".join(changed) + "\n"
            f"Restore them to continue it. {fix}"
        )


def _defaults() -> dict[str, Any]:
    common = runpy.run_path(str(configs.folder() / "common.py"))["get_config"]()
    return json.loads(common.to_json_best_effort())


def _plain(value: Any) -> Any:
    """Normalises a value so that equivalent paths and sources compare equal."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if not isinstance(value, str) or not value:
        return value
    head, _, query = value.partition("?")
    kind, _, path = head.rpartition(":")
    local = os.path.abspath(os.path.expanduser(path))
    path = path.rstrip("/") if is_remote(head) else local
    return kind or "folder", path, sorted(query.split("&"))
