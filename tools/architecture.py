"""Writes docs/architecture.md: which folder imports which, and what each module does.

    python tools/architecture.py            # writes
    python tools/architecture.py --check    # exit status 1 where the document is out of date

The order of folders is LAYERS; a test holds the imports to it. Descriptions are the first sentences
of the modules' docstrings.
"""

import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "depth_anything_jax"
OUT = ROOT / "docs" / "architecture.md"
# A module imports its own folder and folders of earlier layers. The last layer is the programs.
LAYERS = (
    ("utils",),
    ("parallel", "configs"),
    ("models", "losses"),
    ("data",),
    ("checkpoints", "visualization"),
    ("inference", "video"),
    ("evaluation",),
    ("cli",),
    ("training",),
    ("aot",),
    ("web",),
    ("train", "pseudo_label", "evaluate", "predict", "app"),
    ("demo",),
)
INTRODUCTION = """\
# Architecture

Written by `python tools/architecture.py` from the modules' docstrings; a test holds both together.

## Layers

A folder imports itself and what stands above it in this table, nothing below and nothing beside it;
functions that import later count, too (`tests/test_repository_rules.py`). The last rows are the
programs.

| folder | what lives there | imports |
| --- | --- | --- |
"""


def modules() -> dict[str, pathlib.Path]:
    """{dotted name below the package: file}; a folder's name is that of its `__init__`."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph() -> dict[str, set[str]]:
    """{module: modules of the package that it imports anywhere in the file}."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                dotted = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                dotted = [alias.name for alias in node.names]
            else:
                continue
            for other in dotted:
                if other.split(".")[0] == PACKAGE:
                    parts = other.split(".")[1:]
                    while parts and ".".join(parts) not in known:
                        parts.pop()  # a name inside the module
                    found[name].add(".".join(parts))
        found[name].discard(name)
    return found


def layer(module: str) -> int:
    """The number of a module's layer.

    Raises:
      ValueError: its folder is in none.
    """
    top = module.split(".")[0]
    for number, folders in enumerate(LAYERS):
        if top in folders:
            return number
    raise ValueError(f"{module}: {top} is in no layer; add it to LAYERS in tools/architecture.py")


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or not (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in arrows[name]:
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            start = stack.index(name)
            group = stack[start:]
            del stack[start:]
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in number:
            visit(name)
    return found


def first_sentence(path: pathlib.Path) -> str:
    """Of a file's docstring, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


def document() -> str:
    """The text of docs/architecture.md."""
    known, arrows = modules(), graph()
    lines = []
    for folders in LAYERS:
        for top in folders:
            used = {o.split(".")[0] for m in arrows for o in arrows[m] if m.split(".")[0] == top}
            order = sorted(used - {top, ""}, key=lambda name: (layer(name), name))
            imported = ", ".join(f"`{name}`" for name in order)
            lines.append(f"| `{top}` | {first_sentence(known[top])} | {imported} |")
    text = INTRODUCTION + "\n".join(lines) + "\n\n## Modules\n\n```text\n"
    for top in (PACKAGE, "configs", "tools", "benchmarks", "tests"):
        text += f"{top}/\n"
        for path in sorted((ROOT / top).rglob("*.py"), key=lambda p: (p.parent, p.name)):
            inside = path.relative_to(ROOT / top)
            if path.name != "__init__.py" and "fixtures" not in inside.parts:
                text += f"  {inside.as_posix():<42} {first_sentence(path)}\n"
    return text + "```\n"


def main() -> None:
    """The command line."""
    text = document()
    if sys.argv[1:] == ["--check"]:
        sys.exit(int(OUT.read_text(encoding="utf-8") != text))
    OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
