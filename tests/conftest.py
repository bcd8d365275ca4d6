"""Every test runs on eight fake CPU devices, with Grain's flags parsed and array shapes checked.

`shared` and `shared_file` lead to the reference material kept beside the checkout (real weights,
real photos, outputs of the official PyTorch code). Tests that ask for it skip where it is absent.
"""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("DEPTH_ANYTHING_CACHE", "")  # no compiled programs in a person's folder

import jax  # noqa: E402  (the environment is set first)
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

import tests.helpers.shapes  # noqa: E402, F401  (the import hook below finds it by name)

jax.config.update("jax_num_cpu_devices", 8)
jaxtyping.install_import_hook("depth_anything_jax", "tests.helpers.shapes.checker")
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's worker pool reads absl flags, which pytest never parses

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of reference material beside the checkout, or a skip that says it is missing."""
    folder = pathlib.Path(os.environ.get("DEPTH_ANYTHING_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference material at {folder} (set DEPTH_ANYTHING_SHARED)")
    return folder


@pytest.fixture
def x64():
    """Float64 inside the test; restored afterwards."""
    with jax.enable_x64(True):
        yield
