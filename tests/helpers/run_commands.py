"""Runs command lines one after another in one process, so that jax starts once.

As a program: `python -m tests.helpers.run_commands FILE`, where FILE holds a JSON list of commands,
each a list of words that begins with "python" or the name of our console script. It prints a line
"=== exit STATUS: WORDS" after each, and ends at the first that fails.
"""

import json
import pathlib
import runpy
import sys

from absl import flags


def run(words: list[str]) -> int:
    """One command; the flags that it defines are removed again."""
    before = set(flags.FLAGS)
    if words[0] == "depth-anything":
        words = ["python", "-m", "depth_anything_jax.predict", *words[1:]]
    _, *rest = words
    module = rest[0] == "-m"
    name = rest[1] if module else rest[0]
    sys.argv = [name, *rest[1 + module :]]
    status: object = 0
    try:
        if module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as error:
        status = error.code or 0
    for flag in set(flags.FLAGS) - before:
        module = flags.FLAGS.find_module_defining_flag(flag) or ""
        ours = module.startswith("depth_anything_jax") or module.endswith(".py")
        if ours or flag.startswith("config."):  # not what a library defined on its import
            delattr(flags.FLAGS, flag)
    flags.FLAGS.unparse_flags()
    if isinstance(status, str):
        print(status, file=sys.stderr)
        return 1
    assert isinstance(status, int)
    return status


if __name__ == "__main__":
    for command in json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")):
        code = run(command)
        print(f"=== exit {code}: {' '.join(command)}", flush=True)
        if code:
            sys.exit(code)
