"""The notebooks run on CPU as they stand, with small weights and sizes from the environment."""

import json
import pathlib

import pytest

from depth_anything_jax.data import sources

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SIZE = 112  # the demo model's own size, at which no position embedding is interpolated


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_output_is_committed(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert code and not any(c["outputs"] or c["execution_count"] for c in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_jax_is_upgraded_before_anything_imports_it(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first, *rest = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    assert "pip" in first and "import jax" not in first and "depth_anything_jax import" not in first
    assert not any("pip" in source for source in rest)


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
    for key, value in {"JAX_PLATFORMS": "cpu", "SIZE": SIZE, **environment}.items():
        monkeypatch.setenv(key, str(value))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    folder.mkdir(exist_ok=True)
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream")


@pytest.mark.nightly
def test_quickstart(checkpoint, tmp_path, monkeypatch):
    text = execute("quickstart", tmp_path, monkeypatch, SOURCE=checkpoint)
    assert "(280, 280, 3) → (112, 112, 3)" in text and "median depth" in text


@pytest.mark.nightly
def test_quickstart_with_a_photo(checkpoint, tmp_path, monkeypatch):
    from PIL import Image

    street = sources.make({"type": "scenes", "domain": "B", "count": 1, "seed": 1, "size": 140})
    Image.fromarray(street[0]["image"][:112]).save(tmp_path / "photo.png")
    text = execute(
        "quickstart", tmp_path, monkeypatch, SOURCE=checkpoint, PHOTO=tmp_path / "photo.png"
    )
    assert "(112, 140, 3) → (112, 140, 3)" in text


@pytest.mark.nightly
def test_train_student_then_export(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from PIL import Image

    streets = sources.make({"type": "scenes", "domain": "B", "count": 6, "seed": 1, "size": SIZE})
    (tmp_path / "photos").mkdir()
    for k in range(len(streets)):
        Image.fromarray(streets[k]["image"]).save(tmp_path / "photos" / f"{k}.png")
    text = execute(
        "train_student_tpu",
        tmp_path,
        monkeypatch,
        TEACHER=checkpoint,
        ENCODER=checkpoint,
        VARIANT="demo",
        BATCH=2,
        STEPS=8,
    )
    assert "8/8 100%" in text
    text = execute("export_to_pytorch", tmp_path, monkeypatch)
    assert "largest difference" in text and "demo v2, relative" in text
