"""Describes weights as a line of JSON: `python -m depth_anything_jax.adaptation.describe SOURCE`.

A process of its own, on the CPU: a TPU belongs to one process at a time, and the programs that
`adapt` starts need it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_ANSWER = "described: "


def describe(source: str, load: Mapping[str, Any]) -> dict[str, Any]:
    """Loads weights; returns variant, version, head, parts, parameters, patch size, input, licence.

    Raises:
      ValueError: they cannot be loaded; the message is the loader's.
    """
    command = [sys.executable, "-m", __name__, source, json.dumps(dict(load))]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(_ANSWER):
            found = json.loads(line.removeprefix(_ANSWER))
            if "error" in found:
                raise ValueError(found["error"])
            return found
    raise ValueError(f"{source}: its description ended with status {done.returncode}")


def facts(source: str, load: Mapping[str, Any]) -> dict[str, Any]:
    """Loads weights in this process and returns what `describe` does."""
    from depth_anything_jax.checkpoints import pretrained
    from depth_anything_jax.utils.param_paths import leaves_by_path

    found = pretrained.load(source, **load)
    return {
        "source": source,
        "variant": found.variant,
        "version": found.version,
        "head": found.head,
        "parts": found.parts,
        "parameters": sum(int(x.size) for x in leaves_by_path(found.params).values()),
        "patch_size": found.input.encoder.patch_size,
        "crops": found.input.is_official,
        "licence": found.licence,
    }


if __name__ == "__main__":
    try:
        answer = facts(sys.argv[1], json.loads(sys.argv[2]))
    except (ValueError, OSError, ImportError) as problem:
        answer = {"error": f"{problem}"}
    print(_ANSWER + json.dumps(answer), flush=True)
