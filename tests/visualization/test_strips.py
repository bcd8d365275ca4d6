"""Strips of image | label | prediction: what lies where, and that sparse labels can be seen."""

import numpy as np
import pytest

from depth_anything_jax.visualization import colormaps, strips


def batch(width):
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.1, 1.1, (3, 4, width, 3)).astype(np.float32)  # cubic overshoots
    labels = rng.uniform(size=(3, 4, width)).astype(np.float32)
    return images, labels, rng.uniform(size=labels.shape) < 0.5


def test_examples_lie_below_each_other_under_heads():
    images, labels, valid = batch(strips.SHOWN_WIDTH)
    picture = strips.strips(images, labels, valid, 1 - labels, name="labelled", rows=2, gap=1)
    side = strips.SHOWN_WIDTH
    assert picture.shape == (strips.HEAD + 2 * 4 + 1, 3 * side + 2, 3)
    head, rows = picture[: strips.HEAD], picture[strips.HEAD :]
    columns = [slice(k * (side + 1), k * (side + 1) + side) for k in range(3)]
    assert all((head[:, c] < 128).any() for c in columns), "a head above each column"
    assert (head[:, side] == 255).all() and (head[:, 2 * side + 1] == 255).all()
    np.testing.assert_array_equal(rows[5:, columns[0]], np.round(255 * images[1].clip(0, 1)))
    label = colormaps.colourise(*strips.dilated(labels[0], valid[0]))
    np.testing.assert_array_equal(rows[:4, columns[1]], label)
    np.testing.assert_array_equal(rows[:4, columns[2]], colormaps.colourise(1 - labels[0]))


def test_small_tiles_are_enlarged_under_their_heads_and_the_name_is_written():
    images, labels, valid = batch(28)
    named, plain = (
        strips.strips(images, labels, valid, labels, name=name) for name in ("labelled", "")
    )
    assert named.shape == (strips.HEAD + 3 * 16 + 4, 3 * strips.SHOWN_WIDTH + 4, 3)
    assert (named[: strips.HEAD] != plain[: strips.HEAD]).any()
    np.testing.assert_array_equal(named[strips.HEAD :], plain[strips.HEAD :])


def test_each_example_stands_under_the_end_of_its_key():
    images, labels, valid = batch(strips.SHOWN_WIDTH)
    keys = ["a.jpg", f"{200 * 'x'}/b.jpg", f"{300 * 'x'}/b.jpg"]
    picture = strips.strips(images, labels, valid, labels, keys=keys)
    plain = strips.strips(images, labels, valid, labels)
    line = strips.HEAD - 4
    assert picture.shape[0] == plain.shape[0] + 3 * line
    names = [picture[strips.HEAD + i * (line + 4 + 2) :][:line] for i in range(3)]
    assert all((name < 128).any() and (name[:, -2:] == 255).all() for name in names)
    np.testing.assert_array_equal(names[1], names[2])  # the beginning is what was left out
    assert (names[0] != names[1]).any()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.6, 1.0])
def test_sparse_points_are_drawn_larger_and_keep_their_values(share):
    rng = np.random.default_rng(1)
    values = rng.uniform(1, 2, (60, 80)).astype(np.float32)
    valid = rng.uniform(size=values.shape) < share
    drawn, mask = strips.dilated(values, valid)
    np.testing.assert_array_equal(drawn[valid], values[valid])
    assert (mask[valid]).all()
    if share in (0.0, 0.6, 1.0):
        assert drawn is values and mask is valid
    else:
        assert mask.sum() > 5 * valid.sum() or mask.mean() > 0.3
        assert np.isin(drawn[mask], values[valid]).all() and (drawn[~mask] == 0).all()


def test_the_nearest_of_two_points_is_drawn_and_a_dense_part_stays():
    valid, values = np.zeros((9, 9), bool), np.zeros((9, 9), np.float32)
    for column, value in ((3, 1.0), (5, 2.0)):
        valid[4, column], values[4, column] = True, value
    drawn, mask = strips.dilated(values, valid)
    assert mask[4, 4] and drawn[4, 4] == 2.0 and drawn[4, 3] == 1.0
    corner = np.zeros((60, 60), bool)
    corner[:12, :12] = True
    assert strips.dilated(np.ones((60, 60), np.float32), corner)[1] is corner
