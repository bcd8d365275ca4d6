"""What the tests of the notebooks share: their code, a tiny model, and running one."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PINS = ROOT / "notebooks" / "pins"
SIZE = 112  # the demo model's own size, at which no position embedding is interpolated
# Nothing in the home folder is written to, such as a cache of compiled programs.
FIXED = {"JAX_PLATFORMS": "cpu", "DEPTH_ANYTHING_CACHE": ""}
SMALL = {
    "VARIANT": "demo", "ENCODER": "demo-encoder", "SIZE": 28, "BATCH": 6, "SCENES": 12,
    "PHOTO_SIZE": SIZE, "PHOTO_BATCH": 2, "SAVE": 0.02, "WITHOUT_TPU": 1,
}  # fmt: skip
# Names of the pins: their Python, and what the runtime holds that the pins leave out.
RUNTIMES = {
    "colab-py313": ("3.13", {"torch": "2.9.0+cpu"}),
    "kaggle-py312": ("3.12", {"torch": "2.8.0+cpu"}),
}


def code_of(path: pathlib.Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def save_model(folder: pathlib.Path) -> pathlib.Path:
    """A model of the demo's size whose output spans a range."""
    import jax
    import jax.numpy as jnp

    from depth_anything_jax.checkpoints.orbax_io import save_params
    from depth_anything_jax.models import build

    model = build("demo")
    images = jnp.zeros((1, SIZE, SIZE, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    params["decoder"] = jax.tree.map(lambda x: 2 * x if x.ndim > 1 else x, params["decoder"])
    meta = {"variant": "demo", "version": "v2", "head": "relative", "max_depth": None}
    save_params(folder, params, {**meta, "licence": "apache-2.0", "licence_chain": []})
    return folder


def execute(
    name: str, folder: pathlib.Path, monkeypatch, kernel="", before="", **environment: object
) -> str:
    """Run a notebook in `folder`; returns what it printed, until it restarted its kernel or ended.

    Args:
      kernel: name of a Jupyter kernel; "" is this Python with this checkout.
      before: code that somebody ran before the notebook, in the same kernel.
      environment: what the notebook reads, beside SIZE.
    """
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", "" if kernel else str(ROOT))
    for key, value in {**FIXED, "SIZE": SIZE, **environment}.items():
        monkeypatch.setenv(key, str(value))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    if before:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    folder.mkdir(exist_ok=True)
    more = {"kernel_name": kernel} if kernel else {}
    client = nbclient.NotebookClient(
        notebook, timeout=1800, resources={"metadata": {"path": str(folder)}}, **more
    )
    try:
        client.execute()
    except nbclient.exceptions.DeadKernelError:
        assert "restarts now" in printed(notebook), printed(notebook)
    finally:
        print(printed(notebook))  # what a program said is not in the error
    return printed(notebook)


def printed(notebook) -> str:
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream")


def interpreter(wanted: str) -> str:
    """A Python of that version: this one, one on the path or one installed beside this one."""
    beside = pathlib.Path(sys.base_prefix).parent.glob(f"{wanted}*/bin/python{wanted}")
    for python in filter(None, (sys.executable, shutil.which(f"python{wanted}"), *beside)):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
        if done.stdout.strip() == wanted:
            return str(python)
    pytest.skip(f"no Python {wanted} (on the path or beside {sys.base_prefix})")


def environment(folder: pathlib.Path, wanted: str) -> str:
    """A fresh virtual environment's Python, or a skip where nothing can be installed."""
    subprocess.run([interpreter(wanted), "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    probe = [python, "-m", "pip", "install", "--dry-run", "--no-deps", "absl-py"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no package index")
    return python


def pinned(name: str) -> dict[str, str]:
    lines = (PINS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def make_checkout(folder: pathlib.Path) -> pathlib.Path:
    """This project's files as far as they are installed."""
    folder.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    unused = shutil.ignore_patterns("__pycache__")
    for name in ("depth_anything_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=unused)
    return folder
