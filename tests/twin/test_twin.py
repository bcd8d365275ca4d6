"""Our student step against its twin: losses, the gradient of each alone, and every change.

Both compute in float64 from the same weights, batches and random draws, so that only the order of
sums differs. The rates are far above the method's: the optimiser is to show in a few updates.
"""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.twin import stories  # noqa: E402  (needs torch)
from tests.twin.stories import Case  # noqa: E402
from tests.twin.torch_side import Optimisation  # noqa: E402

# Warm-up 3 of 6 updates: four of them see it rise, stand and fall. The clip lies among the norms.
SHORT = Optimisation(total=6)
LONG = Optimisation(total=20)
# At the rates above a random ViT-S is dead (zero everywhere) after one update.
VITS = Optimisation(encoder=1e-5, decoder=1e-4, total=20, clip=5.0)

PIXELS = Case("pixels", pixels=28, optimisation=SHORT._replace(clip=0.25, average=0.75))
PIXELS_V2 = PIXELS._replace(arg="v2", optimisation=PIXELS.optimisation._replace(clip=0.7))
SMALL = Case("small", optimisation=SHORT._replace(clip=2.1))


@pytest.fixture
def quick_compilation():
    """These programs run a few times: compiling them well takes longer than running them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine PyTorch's threads wait for each other, a hundred times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compare(case, folder, monkeypatch, **fields):
    ours, drawn = stories.ours(case, folder, monkeypatch, **fields)
    twin = stories.twins(case, drawn)
    found = stories.deviations(ours, twin)
    norms, below = twin.facts["norms"], twin.facts["below"]
    print({k: np.round(v, 2) for k, v in twin.facts.items() if k != "sizes"})
    for quantity, (deviation, _, where) in found.items():
        print(f"{quantity}: {deviation:.1e} ({where})")
    assert {norm > case.optimisation.clip for norm in norms} == {True, False}
    assert 0.2 < below[0] < 0.8 and 0.2 < np.mean(below) < 0.8
    assert max(twin.facts["zeros"]) < 0.5, "the network died: nothing would be compared"
    boxes = np.concatenate(drawn["boxes"]).any(axis=1)
    assert {*boxes} == {True, False}
    assert np.concatenate([c["jitter"] for c in drawn["colours"]]).any()
    assert not stories.parted(found)


@pytest.mark.parametrize(
    ("case", "accumulation"),
    [
        pytest.param(PIXELS, 2, id="v1-2"),
        pytest.param(PIXELS_V2, 1, id="v2-1"),
        pytest.param(PIXELS, 1, id="v1-1", marks=pytest.mark.nightly),
        pytest.param(PIXELS_V2, 2, id="v2-2", marks=pytest.mark.nightly),
    ],
)
def test_step_around_a_tiny_network(
    x64, quick_compilation, tmp_path, monkeypatch, case, accumulation
):
    compare(case, tmp_path, monkeypatch, accumulation=accumulation)


def test_step_with_the_teacher_in_it(x64, quick_compilation, tmp_path, monkeypatch):
    compare(PIXELS._replace(online=True), tmp_path, monkeypatch)


def test_four_updates_of_a_small_model(x64, quick_compilation, tmp_path, monkeypatch):
    compare(SMALL, tmp_path, monkeypatch)


@pytest.mark.nightly
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("arg", ["vits", "vits,v2"], ids=["v1", "v2"])
def test_twenty_updates_of_a_small_model(x64, tmp_path, monkeypatch, arg, accumulation):
    case = SMALL._replace(optimisation=LONG, steps=20, arg=arg)
    compare(case, tmp_path, monkeypatch, accumulation=accumulation)


@pytest.mark.nightly
@pytest.mark.timeout(3600)  # 6 s of two cores an update
@pytest.mark.parametrize(("arg", "accumulation"), [("vits", 1), ("vits,v2", 2)], ids=["v1", "v2"])
def test_twenty_updates_of_vits(x64, tmp_path, monkeypatch, arg, accumulation):
    case = Case("vits", optimisation=VITS, steps=20, arg=arg)
    compare(case, tmp_path, monkeypatch, accumulation=accumulation)
