"""Choices: what is refused, and which name is proposed."""

import pytest

from depth_anything_jax.utils.choices import did_you_mean, one_of


def test_a_value_that_is_no_choice_is_refused_with_the_choices():
    one_of("version", None, (None, "v1", "v2"))
    with pytest.raises(ValueError, match=r"^size='vitx' is unknown; choose one of vits, vitb; did"):
        one_of("size", "vitx", (None, "vits", "vitb"))


def test_only_a_near_name_is_proposed():
    assert did_you_mean("corp", {"crop": 1, "flip": 2}) == "; did you mean 'crop'?"
    assert did_you_mean("resize", ["crop", "flip"]) == ""
