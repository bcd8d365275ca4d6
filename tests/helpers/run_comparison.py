"""Two runs of one config compared: what --audit wrote of their steps, and their checkpoints."""

import contextlib
import json
from typing import Any, NamedTuple

import jax
import numpy as np

from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.utils import param_paths

# What the data and the draws decide: equal to the bit. Labelled images, not distorted, are too.
EXACT = """image label valid mask box partner own_label own_valid used
    source_image source_disparity source_valid source_sky source_shift_known
    labelled_count unlabelled_count features_count count""".split()
DISTORTED = ("unlabelled/image", "unlabelled/own_image")
CHOSEN = ("labelled/kept", "unlabelled/kept", "unlabelled/token_kept")
SHIFT = "decoder/output_conv2_2/bias"

BOUNDS = {  # quantity: (float32, float64), largest deviation allowed
    # XLA fuses colour and blur, and so rounds, by the shape of a device's part of the batch.
    "images": (1e-5, 1e-13),
    # Rounding moves a residual across the trimming threshold, a cosine across the margin.
    "pixels and tokens chosen otherwise": (1e-3, 0.0),
    # Sums over pixels, maps, microbatches and devices in another order.
    "losses": (1e-5, 1e-12),
    # The same, over a map's deviation: a hundredth of its values when a head is fresh.
    "residuals": (1e-3, 1e-10),
    # The first: the order of sums. Later ones jump where rounding moves a median to another pixel
    # or turns the sign of a residual; float64 has nine digits less of it.
    "first gradient norms": (1e-5, 1e-12),
    "gradient norms": (1e-1, 1e-9),
    # Adam divides by the gradient's own size: noise counts where the gradient is near 0.
    "parameters": (1e-1, 1e-9),
    # A shift of the prediction changes no loss: while no pixel is clipped, the true gradient of
    # this bias is 0, and Adam steps a whole rate either way on float32's noise. Of three steps, two
    # that part. Noise of 1e-17 is small beside Adam's epsilon of 1e-8.
    "the head's last bias": (6.0, 1e-6),
}


class Story(NamedTuple):
    """What a run did: {step: {name: array}} of its audit, last parameters by path, its config."""

    steps: dict[int, dict[str, np.ndarray]]
    params: dict[str, np.ndarray]
    config: dict[str, Any]

    @classmethod
    def read(cls, workdir):
        steps = {}
        for file in sorted((workdir / "audit").glob("*.npz")):
            with np.load(file) as x:
                steps[int(x["step"])] = {k: x[k] for k in x.files if x[k].dtype.kind in "fiub"}
                config = json.loads(str(x["config"]))
        with x64_in_all_threads():  # as it is stored, which may be that
            params, meta = orbax_io.load_params(workdir)
        assert meta["step"] == max(steps)
        return cls(steps, param_paths.leaves_by_path(params), config)


@contextlib.contextmanager
def x64_in_all_threads(on=True):
    """Orbax's too; jax.enable_x64 speaks for one thread."""
    jax.config.update("jax_enable_x64", on)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def unequal_inputs(a, b) -> list[str]:
    """Names of a step's inputs that are not equal to the bit."""
    assert a.keys() == b.keys()
    names = [n for n in a if n.rpartition("/")[2] in EXACT and n not in DISTORTED]
    assert len(names) > 20
    return [n for n in names if not np.array_equal(a[n], b[n], equal_nan=a[n].dtype.kind == "f")]


def distance(x, y) -> np.ndarray:
    """0 where both are equal or both NaN; NaN where one is."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))


def deviations(one: Story, other: Story) -> dict[str, float]:
    """{quantity: largest deviation}. Parameters and their shift are in units of the learning rate,
    losses and norms relative."""
    found: dict[str, float] = {}

    def note(quantity, deviation):
        if not deviation <= found.get(quantity, -1.0):  # NaN is larger than anything
            found[quantity] = float(deviation)

    for step, b in other.steps.items():
        for name, x in one.steps[step].items():
            apart, last = distance(x, b[name]), name.rpartition("/")[2]
            if name in DISTORTED:
                note("images", apart.max())
            elif name in CHOSEN:
                note("pixels and tokens chosen otherwise", apart.mean())
            elif name.startswith("reported/loss"):
                note("losses", apart / abs(x))
            elif last == "value":
                note("residuals", apart.max())
            elif name.startswith("reported/grad_norm"):
                note("gradient norms" if step > 1 else "first gradient norms", apart / x)
            elif last == "prediction":
                note("predictions, with their shift", apart.max())
    for name, x in one.params.items():
        rate = one.config["optim"][f"{name.partition('/')[0]}_lr"]
        apart = distance(x, other.params[name]) / rate
        if name == SHIFT:
            note("the head's last bias", apart.max())
        else:
            note("parameters", np.sqrt(np.mean(apart**2)))
            note("parameters, largest of all", apart.max())
    return found


def check(one: Story, other: Story, title: str, *, bits: bool = False) -> None:
    """Inputs are equal to the bit, the rest within BOUNDS. bits: everything is equal to the bit."""
    for step, b in other.steps.items():
        assert unequal_inputs(one.steps[step], b) == [], f"{title}, step {step}"
    found = deviations(one, other)
    print(f"\n{title}, {one.config['dtype']}:")
    for quantity, size in found.items():
        print(f"  {quantity}: {size:.1e}")
    if bits:
        assert set(found.values()) == {0.0}
    wide = one.config["dtype"] == "float64"
    bounds = {q: bound[wide] for q, bound in BOUNDS.items() if q in found}
    assert len(bounds) >= 6
    beyond = {q: found[q] for q, bound in bounds.items() if not found[q] <= bound}
    assert not beyond, f"{title}: {beyond}"


def check_content(story: Story) -> None:
    """Every step has other inputs, boxes drawn and not, invalid pixels, tokens kept and dropped."""
    other = unequal_inputs(story.steps[1], story.steps[2])
    wanted = "labelled/image", "unlabelled/source_image", "unlabelled/mask", "unlabelled/label"
    assert set(wanted) <= set(other)
    for x in story.steps.values():
        assert {*x["unlabelled/mask"].any((1, 2))} == {True, False}
        assert 0.05 < x["unlabelled/token_kept"].mean() < 0.95
        assert 0 < x["reported/unlabelled/trimmed_share"] < 0.12
        assert not x["labelled/valid"].all()
