"""Rules of the repository: who imports whom, what is pinned, what is described."""

import ast
import functools
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import architecture

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "depth_anything_jax"
# What a person starts. Nobody imports one of these: absl refuses flags that are defined twice.
PROGRAMS = (
    "train",
    "pseudo_label",
    "evaluate",
    "predict",
    "demo.__main__",
    "demo.metric",
    "app",
    "check_data",
    "adapt",
)
# import name -> distribution, where they differ
DISTRIBUTIONS = {
    "absl": "absl-py",
    "OpenEXR": "openexr",
    "cv2": "opencv-python-headless",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
    "yaml": "pyyaml",
}
TYPES = {"jaxtyping"}  # annotations, welcome everywhere


@functools.cache
def tree_of(file: pathlib.Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def sources(*folders: str) -> list[pathlib.Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def imports(file: pathlib.Path, *, at_import: bool = False) -> set[str]:
    """Dotted names of everything a file imports, `from a import b` as a.b.

    at_import: only what runs when the file is imported, not what functions import later.
    """

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if not (at_import and (later or is_typing_only(child))):
                yield child
                yield from walk(child)

    found = set()
    for node in walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


FOLDERS = {"tools", "configs", "benchmarks"}  # beside the package, for programs


def third_party(file: pathlib.Path, **options) -> set[str]:
    tops = {name.partition(".")[0] for name in imports(file, **options)}
    return tops - set(sys.stdlib_module_names) - {PACKAGE, "tests", *FOLDERS}


def own(file: pathlib.Path, **options) -> set[str]:
    """Modules of the package that a file imports, below its name: "models.dpt", "losses"."""
    found = set()
    for name in imports(file, **options):
        if name.startswith(PACKAGE + "."):
            parts = name.split(".")[1:]
            while parts and not module_exists(parts):
                parts.pop()  # a name inside the module
            if parts:
                found.add(".".join(parts))
    return found


def module_exists(parts: list[str]) -> bool:
    path = ROOT.joinpath(PACKAGE, *parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


def module_of(file: pathlib.Path) -> str:
    """A file's name below the package, with dots; of a folder's `__init__` the folder's."""
    parts = file.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def below(name: str, *folders: str) -> bool:
    return any(name == f or name.startswith(f + ".") for f in folders)


def test_the_scan_sees_lazy_and_nested_imports(tmp_path):
    """The other tests stand on this one: an import hidden in a function must be found."""
    file = tmp_path / "module.py"
    file.write_text(
        "import os\nfrom depth_anything_jax.losses import relative as r\n"
        "class A:\n  import cv2\n  def f(self):\n    import jax.numpy as jnp\n"
    )
    assert imports(file) == {"os", "cv2", "jax.numpy", "depth_anything_jax.losses.relative"}
    assert third_party(file) == {"cv2", "jax"}
    assert third_party(file, at_import=True) == {"cv2"}
    assert own(file) == {"losses.relative"}


# What any module may import: numpy at most.
PLAIN = (
    "utils.choices",
    "utils.encoders",
    "utils.interpolation",
    "utils.map_kinds",
    "utils.nested_dicts",
)
FILES = (
    "utils.folder_lock",
    "utils.json_files",
    "utils.literal_paths",
    "utils.paths",
)  # what opens files, local or not


@pytest.mark.parametrize("file", sources("configs"), ids=lambda p: p.name)
def test_configs_import_nothing(file):
    assert third_party(file) <= {"ml_collections"} and not own(file)


@pytest.mark.parametrize("file", sources(f"{PACKAGE}/data"), ids=lambda p: p.name)
def test_data_knows_no_jax(file):
    allowed = {"numpy", "cv2", "PIL", "grain", "tensorflow_datasets", "array_record", "absl"}
    # the extras [beam], [eval], [heic] and [sets], imported where they are needed
    optional = {"apache_beam", "h5py", "scipy", "pillow_heif", "lmdb", "OpenEXR", "av"}
    assert third_party(file) <= allowed | optional | {"tqdm", "etils"} | TYPES
    assert not third_party(file, at_import=True) & optional
    assert all(below(name, "data", *PLAIN, *FILES) for name in own(file)), own(file)


ENCODERS = f"{PACKAGE}/utils/encoders.py"
# Lengths, counts and JPEG's steps that happen to be 14.
METRES = {f"{PACKAGE}/data/scenes/outdoors.py", f"{PACKAGE}/training/camera_perturb.py"}
# An audit that shares no code with the package, its ImageNet statistics included.
INDEPENDENT = {"tools/audit.py"}


def encoder_constants(tree: ast.Module) -> list[str]:
    """Patch size, its old name and ImageNet's statistics in code, the patch size in texts too."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=int() | float()) if node.value in (14, 0.485, 0.229):
                found.append(str(node.value))
            case ast.Constant(value=str()):
                text = r"multiples? of 14|\bpatch\w*\W+14\b|\b14[ -]pixel"
                found += re.findall(text, node.value)
            case ast.Name(id="PATCH") | ast.Attribute(attr="PATCH") | ast.alias(name="PATCH"):
                found.append("PATCH")
    return found


def test_the_scan_sees_constants_of_an_encoder():
    lines = {
        "PATCH = 2": ["PATCH"],
        "from a import PATCH": ["PATCH"],
        "b.PATCH": ["PATCH"],
        "f(14.0, [0.485, 0.456, 0.406])": ["14.0", "0.485"],
        'f"{x} is no multiple of 14"': ["multiple of 14"],
        "f(140, '14', f'{x:14}', 0.14)": [],
    }
    assert {line: encoder_constants(ast.parse(line)) for line in lines} == lines


@pytest.mark.parametrize("file", sources(PACKAGE, "tools", "configs"), ids=lambda p: p.stem)
def test_constants_of_an_encoder_stand_in_its_description(file):
    """Another encoder has another patch size and other statistics: ask its record."""
    if file.relative_to(ROOT).as_posix() not in {ENCODERS, *METRES, *INDEPENDENT}:
        assert encoder_constants(tree_of(file)) == []


# What only computes: in the evaluation numpy alone.
NUMPY = (
    "evaluation.protocols", "evaluation.scores", "evaluation.report.tables",
    "utils.scale_shift", *PLAIN,
)  # fmt: skip
PURE = (
    "losses", "models", "training.perturb", "training.camera_perturb", "parallel.placement", *NUMPY,
)  # fmt: skip
CORE = [p for p in sources(PACKAGE) if below(module_of(p), *PURE)]


@pytest.mark.parametrize("file", CORE, ids=lambda p: p.name)
def test_models_losses_and_metrics_are_pure(file):
    numpy = below(module_of(file), *NUMPY)
    assert third_party(file) <= ({"numpy"} if numpy else {"jax", "flax", "numpy"}) | TYPES
    assert all(below(n, *(NUMPY if numpy else PURE)) for n in own(file)), own(file)


def test_one_class_is_called_depth_anything():
    """The one that people call; the network beneath it is `DepthAnythingNet`."""
    found = [
        module_of(file)
        for file in sources(PACKAGE)
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ClassDef) and node.name == "DepthAnything"
    ]
    assert found == ["inference.model"]


PATHS_ONLY = (
    "training.optim", "training.step", "parallel.sharding", "checkpoints.orbax_io",
    "utils.param_paths",
)  # fmt: skip


@pytest.mark.parametrize("name", PATHS_ONLY)
def test_training_parts_know_parameters_by_path_only(name):
    """No model class and no data below the programs."""
    used = own(ROOT.joinpath(PACKAGE, *name.split(".")).with_suffix(".py")) - {"models.outputs"}
    assert not [n for n in used if below(n, "models", "data", *PROGRAMS)], used


@pytest.mark.parametrize("file", sources(PACKAGE, "tools"), ids=lambda p: p.stem)
def test_no_program_is_imported(file):
    programs = [n for n in own(file) if n in PROGRAMS]
    tools = [n for n in imports(file) if n.startswith("tools.")]
    assert not programs and not tools


@pytest.mark.parametrize("file", sources(PACKAGE, "tools"), ids=lambda p: p.stem)
def test_no_flag_is_defined_by_an_import(file):
    for node in tree_of(file).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        calls = [ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)]
        assert not [c for c in calls if re.search(r"\bDEFINE_\w+$", c)], file


@pytest.mark.parametrize("name", ["train", "demo/__main__"])
def test_programs_start_light(name):
    """Spawned workers import the main module again, where jax would take a second each."""
    heavy = {"jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets"}
    file = ROOT / PACKAGE / f"{name}.py"
    seen, queue = set(), [file]
    while queue:
        current = queue.pop()
        seen.add(current)
        loaded = third_party(current, at_import=True) & heavy
        assert not loaded, f"{name} loads {loaded} through {current.name}"
        for module in own(current, at_import=True):
            path = ROOT.joinpath(PACKAGE, *module.split("."))
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if path not in seen:
                queue.append(path)


def run_without(blocked: set[str], package: str) -> None:
    """Import every module of a package in a process where `blocked` cannot be imported."""
    code = (
        f"import sys\nfor name in {sorted(blocked)!r}: sys.modules[name] = None\n"
        f"import importlib, pkgutil\npackage = importlib.import_module({package!r})\n"
        "for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "from absl import flags\n"
        "assert 'config' not in flags.FLAGS and 'workdir' not in flags.FLAGS\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_package_needs_neither_torch_nor_tensorflow():
    heavy = {"torch", "tensorflow", "transformers", "torchvision"}
    run_without(heavy | {"h5py", "av", "pillow_heif", "gradio", "starlette"}, PACKAGE)


def test_data_works_without_jax():
    run_without(
        {"jax", "jaxlib", "flax", "optax", "orbax", "h5py", "scipy", "pillow_heif"},
        f"{PACKAGE}.data",
    )


# Layers


def test_the_graph_sees_every_import(tmp_path, monkeypatch):
    package = tmp_path / PACKAGE
    (package / "utils").mkdir(parents=True)
    (package / "losses").mkdir()
    (package / "utils" / "a.py").write_text(
        "from typing import TYPE_CHECKING\n"
        f"if TYPE_CHECKING:\n    from {PACKAGE}.losses.b import Loss\n"
    )
    (package / "losses" / "b.py").write_text(f"def f():\n    import {PACKAGE}.utils.a\n")
    monkeypatch.setattr(architecture, "ROOT", tmp_path)
    arrows = architecture.graph()
    assert arrows == {"utils.a": {"losses.b"}, "losses.b": {"utils.a"}}
    assert architecture.circles(arrows) == [["losses.b", "utils.a"]]


def test_imports_go_one_way():
    """Those inside functions and for types included."""
    arrows = architecture.graph()
    assert architecture.circles(arrows) == []
    wrong = [
        f"{name} imports {other}"
        for name, others in arrows.items()
        for other in others
        if name and name.split(".")[0] != other.split(".")[0]
        and architecture.layer(other) >= architecture.layer(name)
    ]  # fmt: skip
    assert wrong == []


def test_the_root_holds_programs_only():
    files = {p.stem for p in (ROOT / PACKAGE).glob("*.py")} - {"__init__"}
    assert files == {
        "train", "pseudo_label", "evaluate", "predict", "app", "check_data", "configs", "adapt",
    }  # fmt: skip


def test_the_document_of_the_architecture_is_up_to_date():
    assert architecture.OUT.read_text(encoding="utf-8") == architecture.document(), (
        "run python tools/architecture.py"
    )


# Tests


def test_no_test_imports_another():
    """What two share lies in tests/helpers; twin/, a small project of its own, is left alone."""
    shared = {}
    for file in sources("tests"):
        names = {n for n in imports(file) if n.startswith("tests.") and "twin" not in n}
        found = [n for n in names if any(part.startswith("test_") for part in n.split("."))]
        shared |= {file.name: found} if found else {}
    assert shared == {}


def test_folders_of_tests_are_those_of_the_package():
    package = {p.parent.relative_to(ROOT / PACKAGE) for p in sources(PACKAGE)}
    others = {"benchmarks", "fixtures", "helpers", "notebooks", "tools", "torch_reference", "twin"}
    mine = {p.parent.relative_to(ROOT / "tests") for p in sources("tests")}
    assert {m for m in mine - package if m.parts[0] not in others} == set()


# Packaging


@functools.cache
def setup_arguments() -> dict:
    """What setup.py gives to setuptools."""
    spec = importlib.util.spec_from_file_location("_setup_of_this_project", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    with mock.patch("setuptools.setup") as setup, mock.patch("os.getcwd", return_value=str(ROOT)):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return setup.call_args.kwargs


def pins(python: str) -> dict[str, str]:
    environment = {**default_environment(), "python_version": python}
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} is pinned twice for Python {python}"
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            found[name] = specifier.version
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_inside_its_range(python):
    pinned = pins(python)
    extras = setup_arguments()["extras_require"]
    for line in sum(extras.values(), setup_arguments()["install_requires"]):
        requirement = Requirement(line)
        assert not any(s.operator in ("==", "<", "<=", "~=") for s in requirement.specifier), line
        name = canonicalize_name(requirement.name)
        if name == "apache-beam":  # does not install beside the other pins: CONTRIBUTING.md
            continue
        assert requirement.specifier.contains(pinned[name]), f"{line}, pinned {pinned[name]}"


def test_python_311_keeps_the_last_jax_that_supports_it():
    assert pins("3.11")["jax"] == pins("3.11")["jaxlib"] == "0.10.2"
    assert pins("3.12")["jax"] == pins("3.13")["jax"] != "0.10.2"


def declared(*extras: str) -> set[str]:
    setup = setup_arguments()
    lines = sum((setup["extras_require"][e] for e in extras), list(setup["install_requires"]))
    return {canonicalize_name(Requirement(line).name) for line in lines}


def distributions(names: set[str]) -> set[str]:
    return {canonicalize_name(DISTRIBUTIONS.get(n, n)) for n in names}


def test_imports_and_requirements_agree():
    used = set().union(*(third_party(f) for f in sources(PACKAGE, "configs", "tools")))
    extras = declared("train", "torch", "eval", "sets", "corrupt", "heic", "video", "onnx", "app")
    extras |= declared("beam", "docs", "openvino", "wandb")
    # libtpu comes with jax's extra tpu, in the version that jax asks for
    assert distributions(used) - {"libtpu"} <= extras, "imported, not in setup.py"
    tests = set().union(*(third_party(f) for f in sources("tests")))
    # packaging comes with pytest, jaxlib with jax, pyyaml with huggingface-hub; torchvision is
    # asked for by importorskip only
    extra = {"packaging", "jaxlib", "libtpu", "pyyaml", "torchvision"}
    assert distributions(tests) - extra <= declared("torch", "test", "notebook")
    # jax.export imports it for us
    assert declared() - distributions(used) == {"flatbuffers"}, "in setup.py, never imported"


def test_core_has_no_torch_and_no_tensorflow():
    assert not declared() & {"torch", "tensorflow", "transformers", "clu"}


def test_a_wheel_carries_the_configs_and_lists_them(tmp_path):
    """Build, unpack and use it from a folder that has no configs."""
    clean = tmp_path / "source"
    shutil.copytree(ROOT / PACKAGE, clean / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", clean / "configs")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, clean / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    target = tmp_path / "installed"
    done = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", f"--target={target}", str(clean)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {p.name for p in (target / PACKAGE / "_configs").glob("*.py")} == {
        p.name for p in (ROOT / "configs").glob("*.py")
    }
    shutil.rmtree(clean)
    code = "from depth_anything_jax import configs; print(configs.resolve('configs/student.py:v2'))"
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {code}"],
        capture_output=True,
        text=True,
        cwd=tmp_path / "elsewhere",
    )
    assert done.stdout.strip() == f"{target / PACKAGE / '_configs' / 'student.py'}:v2", done.stderr
    assets = {p.name for p in (ROOT / PACKAGE / "assets").glob("*") if p.is_file()}
    assert assets == {p.name for p in (target / PACKAGE / "assets").glob("*") if p.is_file()}


# Texts


UNLISTED = {"README.md", "LICENSE", ".gitignore", "Dockerfile", ".dockerignore", ".github/"}


@functools.cache
def tracked() -> list[str]:
    """Paths that git tracks, or a skip where this is no checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [p for p in listed.stdout.split("\0") if p and (ROOT / p).exists()]


def file_tree() -> dict[str, str]:
    """{path: description} of CONTRIBUTING.md's file tree; two spaces indent a folder's contents."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"## Files\n.*?```text\n(.*?)```", text, re.DOTALL)
    assert block is not None, "CONTRIBUTING.md: no ```text block under '## Files'"
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in block[1].splitlines():
        if not line.strip():
            continue
        indent, name, description = re.fullmatch(r"( *)(\S+)\s*(.*)", line).groups()
        folders = folders[: len(indent) // 2]
        path = "".join(folders) + name
        if name.endswith("/"):
            folders.append(name)
        assert path not in found, f"{path} stands twice in CONTRIBUTING.md"
        found[path] = description
    return found


def test_contributing_names_each_folder_and_program():
    listed = file_tree()
    assert [p for p, text in listed.items() if not text and p != f"{PACKAGE}/"] == []
    paths = [p.split("/") for p in tracked()]
    top = {p[0] + "/" * (len(p) > 1) for p in paths}
    inside = {"/".join(p[:2]) + "/" * (len(p) > 2) for p in paths if p[0] == PACKAGE}
    inside -= {f"{PACKAGE}/__init__.py", f"{PACKAGE}/py.typed"}
    assert top | inside <= listed.keys() | UNLISTED
    assert listed.keys() <= top | inside


def repository() -> str:
    """OWNER/NAME, as mkdocs.yml has them."""
    found = re.search(
        r"^  repository: https://github\.com/(\S+)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE
    )
    assert found is not None, "mkdocs.yml: no extra.repository"
    return found[1]


def test_every_link_to_the_repository_is_to_the_one_of_mkdocs():
    """Badges, notebooks, install lines: CONTRIBUTING.md has the line that sets the owner."""
    found = {}
    for path in tracked():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for name in re.findall(r"github(?:\.com)?/([\w.-]+/depth_anything_jax)\b", text):
            found.setdefault(name, set()).add(path)
    assert found.keys() == {repository()}, found
    assert {"README.md", "CITATION.cff", "docs/colab.md", "mkdocs.yml"} <= found[repository()]


def test_the_owner_is_set_with_the_line_of_contributing(tmp_path):
    if not all(shutil.which(program) for program in ("bash", "git", "perl")):
        pytest.skip("no bash, git or perl")
    if not repository().startswith("OWNER/"):
        pytest.skip("the owner is set")
    for name in ("README.md", "mkdocs.yml", "CITATION.cff", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^git grep -lz .*$", text, re.MULTILINE)
    line = line.replace("NAME/", "jane/")
    script = f"set -e; git init -q; git add .; {line}"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True)
    for file in tmp_path.glob("[!.]*"):
        changed = file.read_text(encoding="utf-8")
        assert "OWNER/" not in changed and "jane/depth_anything_jax" in changed, file.name


def test_no_file_names_a_machine():
    """No absolute paths of a home or work folder, and no package index, in what is shared."""
    private = re.compile(r"(?<![\w.$}/~])/(?:root|work|home/\w+|Users/\w+)/\w|\bpypi\.org\b")
    bad = []
    for path in tracked():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures, weights
        bad += [f"{path}: {m[0]}" for m in private.finditer(text)]
    assert [b for b in bad if not b.startswith("tests/test_repository_rules.py")] == []


@pytest.mark.parametrize("file", sources(PACKAGE, "tools", "configs"), ids=lambda p: p.stem)
def test_what_is_public_is_described(file):
    """The module, its public functions and classes, and these classes' public methods."""

    def silent(node) -> list[str]:
        found = []
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
                found += [] if ast.get_docstring(child) else [f"{child.lineno}: {child.name}"]
                found += silent(child) if isinstance(child, ast.ClassDef) else []
        return found

    tree = tree_of(file)
    assert ast.get_docstring(tree)
    assert silent(tree) == []


@pytest.mark.parametrize("file", sources(PACKAGE, "tools", "configs"), ids=lambda p: p.stem)
def test_files_stay_readable(file):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{file.name} has {lines} lines: split it"
