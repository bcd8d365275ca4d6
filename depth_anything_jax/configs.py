"""The shipped configs, reachable from a checkout and after `pip install` alike.

    python -m depth_anything_jax.configs               # list them
    python -m depth_anything_jax.configs --copy DIR    # copy them into DIR, to edit

A checkout holds them in configs/ at its top; a wheel carries the same files inside the package.
"""

import argparse
import ast
import pathlib
import re
import shutil

from depth_anything_jax.utils.choices import did_you_mean

_HERE = pathlib.Path(__file__).resolve().parent


def folder() -> pathlib.Path:
    """The folder of the shipped configs.

    Raises:
      FileNotFoundError: neither the wheel's copy nor the checkout's folder is there.
    """
    for candidate in (_HERE / "_configs", _HERE.parent / "configs"):
        if any(candidate.glob("*.py")):
            return candidate
    raise FileNotFoundError(
        f"no configs in {_HERE / '_configs'} nor in {_HERE.parent / 'configs'}: "
        "the installation is broken; install the package again"
    )


def names() -> list[str]:
    """Names of the shipped configs ("student", "teacher", ...), sorted."""
    return sorted(p.stem for p in folder().glob("*.py") if not p.stem.startswith("_"))


def summary(name: str) -> str:
    """First line of a shipped config's docstring; "" where it has none."""
    tree = ast.parse((folder() / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def resolve(config: str) -> str:
    """Turn what a person writes after --config= into "path:argument" that exists.

    An existing path stays as it is. "configs/student.py:vits", "student.py:vits" and "student:vits"
    fall back on the shipped file, so that the README's commands work in any folder after
    `pip install`. A path in any other folder is never replaced by a shipped file.

    Raises:
      FileNotFoundError: no such file, and no shipped config of that name; names the nearest one.
    """
    found = re.fullmatch(r"(?P<path>.*?\.py|[^:]*)(?::(?P<argument>.*))?", config, re.DOTALL)
    assert found is not None  # the pattern matches every string
    path, argument = found["path"], found["argument"]
    suffix = "" if argument is None else f":{argument}"
    if pathlib.Path(path).is_file():
        return f"{path}{suffix}"
    given = pathlib.PurePath(path)
    shipped = names()
    if given.parent.as_posix() in (".", "configs") and given.suffix in ("", ".py"):
        if given.stem in shipped:
            return f"{folder() / given.stem}.py{suffix}"
    raise FileNotFoundError(
        f"no config {path!r}: shipped are {', '.join(shipped)}; "
        "`python -m depth_anything_jax.configs --copy DIR` copies them for editing"
        + did_you_mean(given.stem, shipped)
    )


def copy(destination: str | pathlib.Path) -> list[pathlib.Path]:
    """Copy all shipped configs into a folder, which is made if missing; returns the new files.

    Raises:
      FileExistsError: files of that name with other contents lie there; nothing is copied then.
    """
    target = pathlib.Path(destination)
    sources = sorted(folder().glob("*.py"))
    in_the_way = [
        target / s.name
        for s in sources
        if (target / s.name).exists() and (target / s.name).read_bytes() != s.read_bytes()
    ]
    if in_the_way:
        raise FileExistsError(
            f"not overwritten: {', '.join(map(str, in_the_way))}; move them or take another folder"
        )
    target.mkdir(parents=True, exist_ok=True)
    return [pathlib.Path(shutil.copyfile(s, target / s.name)) for s in sources]


def main(argv: list[str] | None = None) -> None:
    """List the shipped configs, or copy them."""
    parser = argparse.ArgumentParser(
        prog="python -m depth_anything_jax.configs", description="List or copy the shipped configs."
    )
    parser.add_argument("--copy", metavar="DIR", help="copy all of them into DIR")
    arguments = parser.parse_args(argv)
    if arguments.copy is None:
        print(f"shipped configs, in {folder()}:")
        for name in names():
            print(f"  {name:<12} {summary(name)}")
        return
    for path in copy(arguments.copy):
        print(path)


if __name__ == "__main__":
    main()
