"""The notebooks run on CPU as they stand, with small weights and sizes from the environment."""

import ast
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from depth_anything_jax.data import sources

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# This checkout, and no cache of compiled programs in the home folder.
FIXED = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "DEPTH_ANYTHING_CACHE": ""}
SIZE = 112  # the demo model's own size, at which no position embedding is interpolated


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_output_is_committed(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert code and not any(c["outputs"] or c["execution_count"] for c in code)


def code_of(path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def imported(code: str) -> set[str]:
    """Packages that a cell imports, top level and inside functions."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


def test_the_first_cell_is_the_same_and_imports_nothing_that_is_replaced():
    first, *others = [code_of(path)[0] for path in NOTEBOOKS]
    assert others == [first, first]
    assert imported(first) <= set(sys.stdlib_module_names)
    assert not any("pip" in code for path in NOTEBOOKS for code in code_of(path)[1:])


def test_the_trainings_notebook_leaves_the_tpu_to_its_programs():
    used = set().union(*map(imported, code_of(ROOT / "notebooks" / "train_student_tpu.ipynb")))
    assert not used & {"jax", "flax"}
    code = "import depth_anything_jax.data.scenes, depth_anything_jax.report, sys\n"
    code += "assert 'jaxlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


class Runtime:
    """Where the first cell runs: what is installed and loaded there, and what it starts.

    Args:
      installed: versions by name; an upgrade by pip brings jax 0.12.0.1 and this package.
      package: the cell's PACKAGE.
      run: stands for pip, called with its command; returns (status, output).
    """

    def __init__(self, installed, package="", run=lambda command: (0, "")):
        self.installed, self.package, self.pip = dict(installed), package, run
        self.commands: list[list[str]] = []
        self.stay = ""

    def version(self, name):
        if name not in self.installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return self.installed[name]

    def run(self, command, **how):
        self.commands.append([*command])
        if "pip" not in command:
            return subprocess.CompletedProcess(command, 0, "a line of XLA's\n[TpuDevice(id=0)]\n")
        self.stay = pathlib.Path(command[command.index("--constraint") + 1]).read_text()
        status, output = self.pip(command)
        self.installed |= {"jax": "0.12.0.1", "libtpu": "0.0.52", "depth_anything_jax": "0.1.0"}
        return subprocess.CompletedProcess(command, status, output)

    def cell(self, monkeypatch, loaded=None):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "version", self.version)
            patch.setattr(subprocess, "run", self.run)
            patch.setenv("PACKAGE", self.package)
            patch.delitem(sys.modules, "jax", raising=False)
            if loaded:
                patch.setitem(sys.modules, "jax", types.SimpleNamespace(__version__=loaded))
            exec(compile(code_of(NOTEBOOKS[0])[0], "first cell", "exec"), {})


COLAB = {
    "jax": "0.7.2", "jaxlib": "0.7.2", "flax": "0.11.2", "libtpu": "0.0.21", "numpy": "2.1.3",
    "torch": "2.9.0+cpu",
}  # fmt: skip


def test_where_all_is_there_nothing_is_installed(monkeypatch, capsys):
    runtime = Runtime({"jax": "0.10.2", "depth_anything_jax": "0.1.0"})
    runtime.cell(monkeypatch, loaded="0.10.2")
    ((program, *_),) = runtime.commands  # one process asks for the devices, and ends
    assert program == sys.executable
    python = sys.version.split()[0]
    assert capsys.readouterr().out == (
        f"Python {python}, jax 0.10.2, libtpu not installed\n[TpuDevice(id=0)]\n"
    )


def test_colabs_jax_is_replaced_and_its_numpy_and_torch_stay(monkeypatch, capsys):
    runtime = Runtime(COLAB, "folder[tpu]")
    runtime.cell(monkeypatch)
    pip, devices = runtime.commands
    assert pip[:4] == [sys.executable, "-m", "pip", "install"] and pip[-1] == "folder[tpu]"
    assert "--upgrade" in pip and not any("constraints.txt" in word for word in pip)
    assert runtime.stay == "numpy==2.1.3\ntorch==2.9.0+cpu\n"
    assert "jax 0.12.0.1, libtpu 0.0.52" in capsys.readouterr().out


def test_an_old_jax_that_is_loaded_asks_for_one_restart(monkeypatch):
    runtime = Runtime(COLAB, "folder[tpu]")
    with pytest.raises(RuntimeError, match="jax 0.7.2 is loaded and jax 0.12.0.1 installed: rest"):
        runtime.cell(monkeypatch, loaded="0.7.2")
    assert len(runtime.commands) == 1  # it is installed already, and no process takes the TPU
    runtime.cell(monkeypatch)
    assert len(runtime.commands) == 2 and "pip" not in runtime.commands[1]


def test_what_cannot_be_installed_is_told(monkeypatch):
    with pytest.raises(RuntimeError, match="set PACKAGE in this cell"):
        Runtime(COLAB).cell(monkeypatch)
    runtime = Runtime(COLAB, "nowhere[tpu]", run=lambda command: (1, "ERROR: no nowhere\n"))
    with pytest.raises(RuntimeError, match="(?s)nowhere.tpu. failed:.ERROR: no nowhere"):
        runtime.cell(monkeypatch)


def python313() -> str:
    """A Python 3.13: this one, one on the path or one installed beside this one."""
    beside = pathlib.Path(sys.base_prefix).parent.glob("3.13*/bin/python3.13")
    for python in filter(None, (sys.executable, shutil.which("python3.13"), *beside)):
        code = "import sys; sys.exit(sys.version_info[:2] != (3, 13))"
        if not subprocess.run([str(python), "-c", code], capture_output=True).returncode:
            return str(python)
    pytest.skip("no Python 3.13, which is Colab's")


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_the_install_resolves_beside_what_colab_brings(tmp_path, monkeypatch):
    """pip itself, in an environment that claims to hold Colab's versions; nothing is installed."""
    subprocess.run([python313(), "-m", "venv", str(tmp_path / "colab")], check=True)
    python = str(tmp_path / "colab" / "bin" / "python")
    (site,) = (tmp_path / "colab" / "lib").glob("python3.13/site-packages")
    for name, version in COLAB.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")
    (tmp_path / "package").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tmp_path / "package" / name)
    for name in ("depth_anything_jax", "configs"):
        shutil.copytree(ROOT / name, tmp_path / "package" / name)
    real = subprocess.run
    probe = [python, "-m", "pip", "install", "--dry-run", "--no-deps", "absl-py"]
    if real(probe, capture_output=True).returncode:
        pytest.skip("no package index")

    def pip(command):
        more = ("--dry-run", "--report", str(tmp_path / "report.json"))
        done = real([python, *command[1:], *more], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    Runtime(COLAB, f"{tmp_path / 'package'}[tpu]", run=pip).cell(monkeypatch)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["environment"]["python_version"] == "3.13"
    new = {item["metadata"]["name"]: item["metadata"]["version"] for item in report["install"]}
    print(new)
    assert {"depth_anything_jax", "jax", "jaxlib", "libtpu", "flax"} <= new.keys()
    assert not [n for n in new if n in ("numpy", "torch") or n.startswith("nvidia")]
    assert tuple(int(n) for n in new["jax"].split(".")[:2]) >= (0, 10)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> pathlib.Path:
    """A model of the demo's size whose output spans a range."""
    import jax
    import jax.numpy as jnp

    from depth_anything_jax.checkpoint import save_params
    from depth_anything_jax.models import build

    model = build("demo")
    images = jnp.zeros((1, SIZE, SIZE, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    params["decoder"] = jax.tree.map(lambda x: 2 * x if x.ndim > 1 else x, params["decoder"])
    folder = tmp_path_factory.mktemp("weights") / "model"
    meta = {"variant": "demo", "version": "v2", "head": "relative", "max_depth": None}
    save_params(folder, params, {**meta, "licence": "apache-2.0", "licence_chain": []})
    return folder


def execute(name: str, folder: pathlib.Path, monkeypatch, **environment: object) -> str:
    """Run a notebook in `folder`; returns what it printed."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    for key, value in {**FIXED, "SIZE": SIZE, **environment}.items():
        monkeypatch.setenv(key, str(value))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    folder.mkdir(exist_ok=True)
    resources = {"metadata": {"path": str(folder)}}
    try:
        nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
    finally:
        outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
        text = "".join(o.text for o in outputs if o.output_type == "stream")
        print(text)  # what a program said is not in the error
    return text


def test_quickstart(checkpoint, tmp_path, monkeypatch):
    text = execute("quickstart", tmp_path, monkeypatch, SOURCE=checkpoint)
    assert "depth/street.png: Depth(280x280, relative inverse depth" in text
    assert "metric depth, near 2 m, far 30 m), median" in text
    assert sorted(p.name for p in (tmp_path / "depth").iterdir()) == ["first.ply", "street.png"]


@pytest.mark.nightly
def test_quickstart_with_photos(checkpoint, tmp_path, monkeypatch):
    from PIL import Image

    street = sources.make({"type": "scenes", "domain": "B", "count": 1, "seed": 1, "size": 140})
    image = Image.fromarray(street[0]["image"])
    for name, height in (("low", 112), ("square", 140)):
        image.crop((0, 0, 140, height)).save(tmp_path / f"{name}.jpg")
    text = execute("quickstart", tmp_path, monkeypatch, SOURCE=checkpoint)
    assert "depth/low.png: Depth(112x140" in text and "depth/square.png: Depth(140x140" in text


SMALL = {
    "VARIANT": "demo", "ENCODER": "demo-encoder", "SIZE": 28, "BATCH": 6, "SCENES": 12,
    "PHOTO_SIZE": SIZE, "PHOTO_BATCH": 2, "SAVE": 0.02,
}  # fmt: skip


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_train_students_then_export(checkpoint, tmp_path, monkeypatch):
    """As many steps as fit: twenty, the least. The photos' student is exported."""
    pytest.importorskip("torch")
    from PIL import Image

    streets = sources.make({"type": "scenes", "domain": "B", "count": 6, "seed": 1, "size": SIZE})
    (tmp_path / "photos").mkdir()
    for k in range(len(streets)):
        Image.fromarray(streets[k]["image"]).save(tmp_path / "photos" / f"{k}.png")
    settings = {**SMALL, "TEACHER": checkpoint, "PHOTOS": "photos", "MINUTES": 0.001}
    text = execute("train_student_tpu", tmp_path, monkeypatch, **settings)
    assert text.count("30/30 100%") == text.count("20/20 100%") == 3
    assert "12 images labelled" in text and "6 images labelled" in text
    assert "| runs/student_tpu/student | scenes:B" in text
    assert text.endswith("runs/student_tpu/photo_student\n")
    steps = sorted(p.name for p in (tmp_path / "runs" / "student_tpu").glob("*_steps.txt"))
    assert steps == ["photo_student_steps.txt", "student_steps.txt", "teacher_steps.txt"]
    source = tmp_path / "runs" / "student_tpu" / "photo_student"
    text = execute("export_to_pytorch", tmp_path, monkeypatch, SOURCE=source)
    assert "largest difference" in text and "demo v2, relative" in text


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_training_whose_machine_is_lost_goes_on_from_the_drive(tmp_path, monkeypatch):
    """Killed when the student's first checkpoint has arrived, its disk lost, run from the top."""
    steps = 60
    settings = {**SMALL, "STEPS": steps}
    text = execute("train_student_tpu", tmp_path / "straight", monkeypatch, **settings)
    assert text.count(f"{steps}/{steps} 100%") == 2
    work, drive = tmp_path / "lost" / "runs", tmp_path / "lost" / "drive"
    work.parent.mkdir()
    # Its cells in one process, whose group holds all that it starts.
    code = "\n".join(["display = print", *code_of(ROOT / "notebooks" / "train_student_tpu.ipynb")])
    environment = {**FIXED, "MPLBACKEND": "agg", "DRIVE": "drive", **settings}
    with open(tmp_path / "log.txt", "w") as log:
        run = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=work.parent,
            env={**os.environ, **{k: str(v) for k, v in environment.items()}},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + 900
    while not [*(drive / "student").glob("*.tar")]:
        assert run.poll() is None and time.monotonic() < end, (tmp_path / "log.txt").read_text()
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    shutil.rmtree(work)
    text = execute("train_student_tpu", work.parent, monkeypatch, DRIVE="drive", **settings)
    assert f"runs/student_tpu/teacher already holds all {steps} steps" in text
    (stopped,) = re.findall(rf"continues after step (?!{steps} )(\d+) of {steps}", text)
    assert 0 < int(stopped) < steps
    from depth_anything_jax import checkpoint, paths

    one, other = (
        checkpoint.load_params(folder / "runs" / "student_tpu" / "student")
        for folder in (tmp_path / "straight", tmp_path / "lost")
    )
    assert one[1]["step"] == other[1]["step"] == steps
    ours = paths.leaves_by_path(other[0])
    for name, expected in paths.leaves_by_path(one[0]).items():
        np.testing.assert_array_equal(ours[name], expected, err_msg=name)
