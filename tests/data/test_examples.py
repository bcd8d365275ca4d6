"""Examples: what is refused between a source and the batch."""

import numpy as np
import pytest

from depth_anything_jax.data import examples


class OneLabel:
    """A source of one picture with the label given."""

    name, labelled = "mine", True

    def __init__(self, **label):
        self.label = label

    def __len__(self):
        return 1

    def key(self, index):
        return "a/7.png"

    def __getitem__(self, index):
        shape = (30, 40)
        masks = {"valid": np.ones(shape, bool), "sky": np.zeros(shape, bool), "shift_known": True}
        label = {k: np.full(shape, v, np.float32) for k, v in self.label.items()}
        return {"key": "a/7.png", "image": np.zeros((*shape, 3), np.uint8)} | masks | label


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_that_is_not_finite_is_named(value, metric):
    """Whichever source let it through: in a batch, nothing tells where a NaN came from."""
    how = {"size": 28, "patch_size": 14, "seed": 0, "labels": True, "metric": metric}
    kind = "depth" if metric else "disparity"
    reader = examples.Examples("labelled", [OneLabel(**{kind: value})], None, **how)
    with pytest.raises(examples.DataError, match=f"mine: a/7.png: .*label's {kind} is not finite"):
        reader.read(0)
    example, failures, _ = examples.Examples("labelled", [OneLabel(depth=2)], None, **how).read(0)
    assert (
        not failures
        and (example["depth" if metric else "disparity"] == (2 if metric else 0.5)).all()
    )
