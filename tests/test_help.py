"""The programs' help pages: every option once, examples, and what is missing in three lines."""

import json
import pathlib
import subprocess
import sys

import pytest

from depth_anything_jax.utils import command_line

# and how many examples their pages show
PROGRAMS = {
    "train": 5, "pseudo_label": 5, "evaluate": 5, "predict": 5, "app": 5, "demo.__main__": 5,
    "demo.metric": 4, "adapt": 5,
}  # fmt: skip
ROOT = pathlib.Path(__file__).resolve().parent.parent
# Runs a program's main as far as its command line; prints the options it has and those it shows.
PROBE = """
import importlib, json, sys
from absl import app, logging
from absl import flags
program = importlib.import_module("depth_anything_jax.{program}")
from depth_anything_jax.utils import command_line
before = set(flags.FLAGS)
def start(run, *, doc, groups, needs=(), positional=False):
    defined = [n for n in flags.FLAGS if n not in before and "-" not in n]
    print(json.dumps([sorted(defined), command_line.options(groups), doc,
                      command_line.usage(doc, needs), command_line.help_page(doc, groups)]))
command_line.start = start
sys.argv = ["program"]
program.main()
"""


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_every_option_once_and_five_examples(program):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(program=program)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    defined, shown, doc, usage, page = json.loads(done.stdout)
    assert sorted(shown) == defined
    examples = [x for x in doc.splitlines() if x.startswith(("    python", "    depth", "    cat"))]
    assert len(examples) >= PROGRAMS[program]
    assert len(usage.splitlines()) <= 3
    for group in page.split("\n\n"):
        assert max(map(len, group.splitlines())) <= 100
    assert page.count("\n  --") == len(shown)
    assert "given again" not in page, "absl says of the repeated ones that they may be repeated"
    assert command_line.WIDTH <= 100
