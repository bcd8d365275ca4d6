"""Every fault of `mutations` is seen: by the twin, or by the test named beside it.

A mutation that survives is a missing test.
"""

import importlib
import inspect

import jax
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.twin import mutations, narrow_mutations, stories  # noqa: E402  (needs torch)
from tests.twin.test_twin import PIXELS, PIXELS_V2, SMALL, one_thread, quick_compilation  # noqa: E402, F401

CASES = {
    "v1": (PIXELS, {}, mutations.TWIN),
    "blur": (PIXELS._replace(pixels=98, steps=1), {}, mutations.BLUR),
    "v2": (PIXELS_V2, {}, mutations.V2),
    "online": (PIXELS._replace(online=True), {"accumulation": 2}, mutations.ONLINE),
    "accumulated": (PIXELS, {"accumulation": 2}, mutations.ACCUMULATED),
    "small model": (SMALL._replace(steps=1), {}, mutations.MODEL),
}
# One of each kind in the default run; together they are the worst that could go unseen.
DEFAULT = (
    "CutMix labels by the inverted mask",
    "prediction's scale detached",
    "margin reversed",
    "clip per group",
    "losses added, not averaged",  # a fault of make_train_step
)
ALL = [
    pytest.param(case, name, marks=[] if name in DEFAULT else pytest.mark.nightly, id=name)
    for case, (_, _, found) in CASES.items()
    for name in found
]


@pytest.fixture(autouse=True)
def forgetful():
    """jax remembers what it traced, a mutated derivative of the median for one."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """case -> the twin's story, under draws of the unchanged code; asked for once."""
    stories_told = {}

    def tell(case):
        if case not in stories_told:
            run, fields, _ = CASES[case]
            with pytest.MonkeyPatch.context() as patch:
                folder = tmp_path_factory.mktemp("told")
                ours, drawn = stories.ours(run, folder, patch, gradients=False, **fields)
                ours = ours._replace(steps=list(ours.steps))
            twin = stories.twins(run, drawn)
            twin = twin._replace(steps=list(twin.steps))
            assert not stories.parted(stories.deviations(ours, twin))
            stories_told[case] = twin
        return stories_told[case]

    return tell


@pytest.mark.parametrize(("case", "name"), ALL)
def test_the_twin_sees(x64, quick_compilation, told, tmp_path, monkeypatch, case, name):  # noqa: F811
    run, fields, found = CASES[case]
    twin = told(case)
    mutations.apply(found[name], monkeypatch)
    ours, _ = stories.ours(run, tmp_path, monkeypatch, gradients=False, **fields)
    parted = stories.parted(stories.deviations(ours, twin))
    assert parted, f"{name}: the twin saw nothing"
    print(f"{name}: {', '.join(f'{q} {d[0]:.1e}' for q, d in parted.items())}")


NAMED = [pytest.param(*found, id=name) for name, found in mutations.NAMED.items()]
NAMED += [
    pytest.param(*found, id=name, marks=pytest.mark.nightly)
    for name, found in narrow_mutations.ALL.items()
]


@pytest.mark.parametrize(("mutation", "test", "arguments"), NAMED)
def test_the_test_named_beside_it_sees(monkeypatch, request, mutation, test, arguments):
    module, _, function = test.rpartition(".")
    run = getattr(importlib.import_module(f"tests.{module}"), function)
    wanted = {n for n in inspect.signature(run).parameters if n not in arguments}
    fixtures = {n: request.getfixturevalue(n) for n in wanted}  # pytest's own: tmp_path and such
    mutations.apply(mutation, monkeypatch)
    with jax.enable_x64("x64" in arguments), pytest.raises((AssertionError, pytest.fail.Exception)):
        run(**arguments, **fixtures)
