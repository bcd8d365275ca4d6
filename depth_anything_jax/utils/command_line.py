"""Starts a program: its help page in groups, its version, and one line for a mistyped option."""

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from depth_anything_jax.utils.version import __version__

HELP = ("-h", "-help", "--help", "-helpshort", "--helpshort", "-helpfull", "--helpfull")
WIDTH = 88
INDENT = 26  # column where the explanations of options begin

Groups = Mapping[str, Sequence[Any]]


def start(
    run: Callable[[list[str]], None],
    *,
    doc: str,
    groups: Groups,
    needs: Sequence[Any] = (),
    positional: bool = False,
) -> None:
    """Parses sys.argv, runs the program and ends with its exit status.

    `--help` prints `doc` and the options, `--version` the version of this package. Without any
    argument, or with one that is not understood, the program ends with status 1 and a short text.

    Args:
      run: is called with the program's name and the arguments that are no options.
      doc: the module's docstring: what the program does, and examples, indented by four.
      groups: absl's FlagHolders by headline; each option of the program stands in one group.
      needs: those without which the program cannot run.
      positional: whether the program takes arguments that are no options.
    """
    from absl import app, flags

    def parse(args: list[str]) -> list[str]:
        if any(a in HELP for a in args[1:]):
            print(help_page(doc, groups))
            sys.exit(0)
        if args[1:] == ["--version"]:
            print(__version__)
            sys.exit(0)
        for a in args[1:] if "model_version" in flags.FLAGS else ():
            if a == "--version" or a.startswith("--version="):
                sys.exit(f"{a}: the version of a model is given as --model-version=v1 or v2")
        if not args[1:] and needs:
            sys.exit(usage(doc, needs))
        try:
            rest = flags.FLAGS(args)
        except flags.Error as error:
            lines = str(error).removeprefix("flag ").splitlines()
            if any(line.startswith("Traceback") for line in lines):  # of a config file
                lines = [line for line in lines if line.strip()][-1:]
            sys.exit("\n".join([*lines, "--help lists the options"]))
        except AttributeError as error:  # of config_flags: a field that the config lacks
            sys.exit(_unknown_field(args, error))
        if rest[1:] and not positional:
            sys.exit(f"unexpected arguments: {' '.join(rest[1:])}\n--help lists the options")
        return rest

    def run_to_the_end(argv: list[str]) -> None:
        try:
            run(argv)
        except app.UsageError as error:
            sys.exit(f"{error}\n--help lists the options")

    app.run(run_to_the_end, flags_parser=parse)


def told(error: Exception) -> str:
    """One line for an error, and the commands to choose from where it names options that decide.

    Such an error has `choices`, {option: when to take it}, as `weight_metadata.Undetermined`.
    """
    from absl import flags

    lines = [f"{type(error).__name__}: {error}"]
    choices = getattr(error, "choices", {})
    if choices:
        mine = all(option.lstrip("-").partition("=")[0] in flags.FLAGS for option in choices)
        command = f"{_program()} {shlex.join(sys.argv[1:])}"
        if not mine:  # the training program, whose configs name weights only
            command = "python tools/import_torch.py WEIGHTS NEW_FOLDER"
        lines.append("Run one of" if mine else "Name the new folder that one of these writes")
        for option, meaning in choices.items():
            lines.append(f"  {command} {option}\n      {meaning}")
    return "\n".join(lines)


def _program() -> str:
    """The way this program was started: its name, or python -m MODULE."""
    main = sys.modules["__main__"]
    module = main.__spec__.name if main.__spec__ else ""
    return f"python -m {module}" if module else os.path.basename(sys.argv[0])


def usage(doc: str, needs: Sequence[Any]) -> str:
    """Three lines: what the program does, its first example, and which options it needs."""
    example = re.search(r"^    (\S.*)$", doc, re.MULTILINE)
    needed = ", ".join(f"--{f.name} ({_text(f)})" for f in needs)
    return "\n".join(
        [doc.strip().splitlines()[0], f"  {example[1] if example else ''}",
         f"needs {needed}; --help lists all options"]
    )  # fmt: skip


def help_page(doc: str, groups: Groups) -> str:
    """The docstring, then each option once, under the headline of its group."""
    lines = [doc.strip()]
    for title, members in groups.items():
        lines += ["", f"{title}:"]
        for holder in members:
            lines += _entry(holder)
    return "\n".join(lines)


def options(groups: Groups) -> list[str]:
    """The names of all options in the groups."""
    return [holder.name for members in groups.values() for holder in members]


def _flag(holder: Any) -> Any:
    from absl import flags

    return flags.FLAGS[holder.name]


def _text(holder: Any) -> str:
    words = re.sub(r"^<[^>]*>: ", "", str(_flag(holder).help))  # choices, which the head shows
    words = words.replace("repeat this option to specify a list of values", "may be repeated")
    return " ".join(words.split())


def _entry(holder: Any) -> list[str]:
    flag = _flag(holder)
    name = flag.name.replace("_", "-") if _has_dashes(flag.name) else flag.name
    if flag.boolean:
        head = f"  --[no]{name}"
    else:
        choices = getattr(flag.parser, "enum_values", None)
        head = f"  --{name}={'|'.join(choices) if choices else _kind(flag)}"
    default = "" if flag.default in (None, "", [], False) else f" (default: {_value(flag)})"
    words = textwrap.wrap(_text(holder) + default, WIDTH - INDENT) or [""]
    if len(head) + 2 > INDENT:
        return [head, *(" " * INDENT + w for w in words)]
    return [head.ljust(INDENT) + words[0], *(" " * INDENT + w for w in words[1:])]


def _has_dashes(name: str) -> bool:
    from absl import flags

    return "_" in name and name.replace("_", "-") in flags.FLAGS


def _kind(flag: Any) -> str:
    names = {"int": "N", "float": "X", "comma separated list of strings": "A,B", "config": "FILE"}
    return names.get(flag.flag_type().removeprefix("multi "), "TEXT")


def _value(flag: Any) -> str:
    if flag.boolean:
        return "yes"
    return ",".join(flag.default) if isinstance(flag.default, list) else f"{flag.default}"


def _unknown_field(args: Sequence[str], error: AttributeError) -> str:
    """The argument whose field a config lacks; any other error is raised again."""
    found = re.match(r"['\"\\]*(\w+)['\"\\]*", str(error))
    near = re.search(r'Did you mean \\?"(\w+)\\?"', str(error))
    for a in args:
        fields = a.lstrip("-").partition("=")[0].split(".")
        if a.startswith("-") and found and found[1] in fields[1:]:
            hint = f"; did you mean {near[1]!r}?" if near else "."
            return f"{a}: no field {found[1]!r}{hint} configs/common.py explains all of them"
    raise error
