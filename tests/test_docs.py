"""What the documents name exists: files, headings, functions, tests, fields of the config."""

import ast
import functools
import json
import pathlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from unittest import mock

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from depth_anything_jax import configs
from depth_anything_jax.checkpoints import released
from depth_anything_jax.training import optim
from depth_anything_jax.utils import version

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "depth_anything_jax"
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] + sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")
)
# Endings: `losses/relative.py` is no name in a module.
FILES = ("py", "md", "json", "jsonl", "html", "safetensors")
TABLES = ("docs/method.md",)  # the last cell of a row names fields
TRAIN = "```sh\npython -m depth_anything_jax.train --config=configs/student.py:vitl"


@functools.cache
def defined(file: pathlib.Path) -> set[str]:
    """Functions, classes and constants of a Python file, and what its classes define: "A.f"."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign):
            found.add(ast.unparse(node.target))
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
            body = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{m.name}" for m in body if isinstance(m, ast.FunctionDef)}
    return found


@functools.cache
def config() -> ConfigDict:
    return runpy.run_path(str(ROOT / "configs" / "common.py"))["get_config"]()


@functools.cache
def modules() -> dict[str, list[pathlib.Path]]:
    """Modules of the package by the end of their path: "pipeline", "data.pipeline"."""
    found: dict[str, list[pathlib.Path]] = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        for start in range(len(parts)):
            found.setdefault(".".join(parts[start:]), []).append(file)
    return found


def without_math(text: str) -> str:
    return re.sub(r"\$`.*?`\$|```math\n.*?```", "", text, flags=re.DOTALL)


def is_field(name: str) -> bool:
    """Whether "loss.trim", "optim.*" or "teacher" is a field of configs/common.py."""
    value = config()
    for part in name.split("."):
        if part == "*" or part.endswith("*") and any(k.startswith(part[:-1]) for k in value):
            return isinstance(value, ConfigDict)
        if not isinstance(value, ConfigDict) or part not in value:
            return False
        value = value[part]
    return True


def links(document: str, text: str) -> list[str]:
    """Relative links that lead to no file or heading, or to a file without the function named."""
    bad = []
    for words, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else None
        if file is not None and not file.exists():
            bad.append(f"{target}: no such file")
        elif anchor:
            headings = re.findall(r"^#+ (.*)", file.read_text() if file else text, re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            bad += [f"{target}: no such heading"] if anchor not in slugs else []
        named = re.fullmatch(r"`(\w+)\.([\w.]+)`", words)
        if named and path.endswith(".py") and file is not None and file.exists():
            if file.stem != named[1] or named[2] not in defined(file):
                bad.append(f"{words} is not in {path}")
    return bad


def named_tests(text: str) -> list[str]:
    """`file::test` that is not there."""
    return [
        f"{path}::{name}: no such test"
        for path, name in re.findall(r"`([\w/.]+)::(\w+)[^`]*`", text)
        if not (ROOT / path).is_file() or name not in defined(ROOT / path)
    ]


def names(text: str) -> list[str]:
    """`a.b` where a is a module of ours or a section of the config, and neither holds b."""
    bad = []
    for name in re.findall(r"`(?:--config\.)?([a-z_]+(?:\.[\w*]+)+)(?:=[^`]*)?`", text):
        section, _, rest = name.rpartition(".")
        top = name.split(".")[0]
        known = any(rest in defined(file) for file in modules().get(section, []))
        if rest in FILES or known or is_field(name):
            continue
        if section in modules() or isinstance(config().get(top), ConfigDict):
            bad.append(f"{name}: no such function or field")
    return bad


def fields(text: str) -> list[str]:
    """What stands in the last cell of a table's row and is no field."""
    cells = re.findall(r"\| ([^|\n]*) \|\n", text)
    named = [n for cell in cells for n in re.findall(r"`([a-z_.*]+)`", cell)]
    return [f"{n}: no such field" for n in named if not is_field(n)]


def formulas(text: str) -> list[str]:
    """Formulas that GitHub would not render: open braces, and bars that end a table's cell."""
    blocks = re.findall(r"^```math\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"\$`(.*?)`\$", text)
    bad = [f"{m}: a bar inside a line ends a cell, use \\lvert" for m in inline if "|" in m]
    for formula in blocks + inline:
        if formula.count("{") != formula.count("}"):
            bad.append(f"{formula}: braces")
        if len(re.findall(r"\\left\b", formula)) != len(re.findall(r"\\right\b", formula)):
            bad.append(f"{formula}: \\left and \\right")
    if text.count("```math") != len(blocks) or text.count("$`") != text.count("`$"):
        bad.append("a formula does not end")
    return bad


def blocks(text: str) -> Iterator[str]:
    """Lines of the fenced blocks, those that go on joined."""
    for block in re.findall(r"^```(?:sh|yaml)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield from re.sub(r"\\\n *", "", block).splitlines()


@functools.cache
def flags_of(file: pathlib.Path) -> set[str]:
    """What a program's file may define as flags: the first argument of any call."""
    calls = [
        n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)
    ]
    firsts = [a for call in calls for a in call.args[:2] if isinstance(a, ast.Constant)]
    return {a.value.lstrip("-").replace("-", "_") for a in firsts if isinstance(a.value, str)}


def commands(text: str) -> list[str]:
    """Commands of ours in the blocks that name a program, flag or field which does not exist."""
    bad = []
    for line in blocks(text):
        ours = re.search(r"(?:-m depth_anything_jax\.|\bpython (?=tools/))([\w./]+)(.*)", line)
        if not ours:
            continue
        program, rest = ours.groups()
        path = PACKAGE.joinpath(*program.split("."))
        path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        file = ROOT / program if "/" in program else path
        if not file.is_file():
            bad += [f"{program}: no such program"]
            continue
        try:
            words = shlex.split(rest, comments=True)
        except ValueError as error:
            bad.append(f"{line}: {error}")
            continue
        words = words[: next((i for i, w in enumerate(words) if w in ("&", "&&", "||")), None)]
        known = flags_of(file) | flags_of(PACKAGE / "checkpoints" / "weight_flags.py")
        given = {w[2:].partition("=")[0] for w in words if w.startswith("--")}
        given = {name.replace("-", "_") for name in given if not name.startswith("config")}
        off = {name for name in given if name.startswith("no") and name[2:] in known}
        bad += [f"{program} has no flag --{name}" for name in sorted(given - known - off)]
        bad += (
            settings([w for w in words if w.startswith("--config")]) if program == "train" else []
        )
    return bad


def settings(words: list[str]) -> list[str]:
    """What absl and the config say against --config=… and its fields."""
    words = [
        f"--config={configs.resolve(word.partition('=')[2])}"
        if word.startswith("--config=")
        else word
        for word in words
    ]
    found = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=found)
    try:
        with mock.patch.object(sys, "argv", ["train", *words]):  # where it finds the fields
            found(sys.argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        return [f"{' '.join(words)}: {type(error).__name__}: {error}"]
    return []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_names_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    plain = without_math(text)
    bad = links(document, plain) + named_tests(plain) + names(plain) + formulas(text)
    bad += commands(text)
    assert bad + (fields(plain) if document in TABLES else []) == []


# Capitals that need no entry in the glossary: licences, sciences, formats, names, and "I".
KNOWN = set(
    "AND API CC CITATION CLI CONTRIBUTING CPU CVPR GKE GPU JAX LICENSE LICENCE MB MIT NC NYU RGB "
    "README BY NAME DIR FIELD VALUE PDF XLA".split()
)
WORDS = (  # the field's, which a newcomer may not know, as README has them
    "affine-invariant", "bfloat16", "checkpoint", "config", "CutMix", "decoder", "disparity",
    "encoder", "feature alignment", "fine-tun", "frozen", "Hugging Face Hub", "intrinsics",
    "manifest", "metric", "normalised L1", "point cloud", "protocol", "pseudo label", "relative",
    "SiLog", "student", "teacher", "transformers", "wheel", "interval", "hash", "seed",
)  # fmt: skip


def prose(text: str) -> str:
    """A document without code, addresses and pictures."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`|\]\([^)\s]*\)|\[!\[[^\]]*\]", " ", text)


def test_the_readme_uses_no_word_that_the_glossary_lacks():
    text = prose((ROOT / "README.md").read_text(encoding="utf-8"))
    rows = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    terms = " ".join(row.split("|")[1] for row in rows if row.startswith("| "))
    capitals = set(re.findall(r"\b[A-Z][A-Z]+\b", text)) - KNOWN
    words = {w for w in WORDS if w.lower() in text.lower()}
    assert len(words) > 15
    assert {w for w in capitals | words if w.lower() not in terms.lower()} == set()


def test_the_readme_is_short_and_its_models_are_released_ones():
    """Names and licences of the table are those of the code."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    rows = re.findall(r"^\|.*huggingface\.co.*\|$", text, re.MULTILINE)
    assert len(rows) >= 5
    for row in rows:
        (name,) = set(re.findall(r"huggingface\.co/([\w./-]+)", row))
        found = released.by_repo(name)
        assert found is not None, f"{name}: no released model"
        assert found.licence in row and f"[{name}]" in row
        assert (found.max_depth is None) == ("relative" in row)
        assert found.max_depth is None or f"{found.max_depth:.0f} m" in row


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {version.__version__}\n" in text


def test_the_method_page_is_complete():
    """Every part of the method has its formula, code and tests, or the other test says little."""
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert len(re.findall("```math", text)) >= 10
    assert len(re.findall(r"^- Code:", text, re.MULTILINE)) >= 9
    assert len(set(re.findall(r"`(tests/\S+::\w+)`", text))) >= 40
    rows = "".join(re.findall(r"\| ([^|\n]*) \|\n", text))
    named = {n for n in re.findall(r"`([a-z_.]+)`", rows)}
    wanted = {f"loss.{k}" for k in config().loss} | {"perturb.colour", "perturb.cutmix", "teacher"}
    assert wanted - named == set(), "fields of the method that the page does not explain"


@pytest.mark.parametrize(
    ("check", "text", "found"),
    [
        (lambda t: links("docs/method.md", t), "[a](../nowhere.py)", "no such file"),
        (lambda t: links("docs/method.md", t), "[a](data.md#nothing)", "no such heading"),
        (
            lambda t: links("docs/method.md", t),
            "[`relative.cutmics`](../depth_anything_jax/losses/relative.py)",
            "`relative.cutmics` is not in",
        ),
        (
            lambda t: links("docs/method.md", t),
            "[`step.cutmix`](../depth_anything_jax/losses/relative.py)",
            "`step.cutmix` is not in",
        ),
        (named_tests, "`tests/losses/test_relative.py::test_nothing`", "no such test"),
        (named_tests, "`tests/nowhere.py::test_nothing`", "no such test"),
        (names, "`relative.cutmics`", "no such function or field"),
        (names, "`loss.trimm`", "no such function or field"),
        (names, "`--config.loss.trimm=1`", "no such function or field"),
        (names, "`perturb.cutmix.q`", "no such function or field"),
        (names, "`data.pipeline.batches`", "no such function or field"),
        (fields, "| a | b | `teachers` |\n", "no such field"),
        (fields, "| a | b | `loss.x*` |\n", "no such field"),
        (commands, "```sh\npython -m depth_anything_jax.trian\n```\n", "trian: no such program"),
        (commands, "```sh\npython tools/nothing.py --out x\n```\n", "nothing.py: no such program"),
        (commands, "```sh\npython tools/prepare_data.py --ouput x\n```\n", "no flag --ouput"),
        (
            commands,
            "```yaml\n- python -m depth_anything_jax.evaluate --aut=x\n```\n",
            "no flag --aut",
        ),
        (commands, "```sh\nexec python -m depth_anything_jax.predict --f 'x\n```\n", "quotation"),
        (commands, f"{TRAIN} --wordir=x\n```\n", "no flag --wordir"),
        (commands, f"{TRAIN} \\\n    --config.loss.trimm=1\n```\n", "trimm"),
        (commands, f"{TRAIN} --config.batch_size=many\n```\n", "many"),
        (commands, f"{TRAIN.replace('vitl', 'vitx')}\n```\n", "vitx"),
        (formulas, "$`|x|`$", "a bar"),
        (formulas, "```math\n\\frac{1}{2\n```\n", "braces"),
        (formulas, "```math\n\\left( x )\n```\n", "left and"),
        (formulas, "```math\nx\n", "does not end"),
    ],
)
def test_the_checks_find_what_is_wrong(check, text, found):
    """The test above stands on these."""
    (problem,) = check(text)
    assert found in problem


@pytest.mark.parametrize("run", ["student", "sigmoid"])
def test_the_keys_of_a_run_are_documented(run):
    text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    lines = ROOT / "tests" / "fixtures" / "old_data" / "runs" / run / "metrics.jsonl"
    keys = set(json.loads(lines.read_text(encoding="utf-8").splitlines()[0])) - {"step", "time"}
    documented = set(re.findall(r"`([\w/]+)`", text))
    for part in ("labelled", "unlabelled"):
        documented |= {k.replace("PART", part) for k in documented}
    for group in optim.GROUPS:
        documented |= {k.replace("GROUP", group) for k in documented}
    assert keys - documented == set()
