"""Runs tools/prepare_data.py."""

import importlib.util
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


TOOL = ROOT / "tools" / "prepare_data.py"


def command(*arguments):
    return [sys.executable, str(TOOL), *map(str, arguments)]


def environment():
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def prepare(*arguments):
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=120
    )


def load_tool():
    """Imports the program as a module."""
    spec = importlib.util.spec_from_file_location("prepare_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
