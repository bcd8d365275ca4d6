"""The line before a compilation: measured, or said not to be."""

import jax
import pytest

from depth_anything_jax.parallel import compile_times


@pytest.mark.parametrize(
    ("program", "platform", "effort", "text"),
    [
        ("train", "tpu", 0.0, "compiling, about 5 min the first time"),
        ("train", "tpu", -1.0, "compiling, about 38 s the first time"),
        ("train", "gpu", 0.0, "compiling, perhaps minutes the first time"),
        ("predict", "cpu", -1.0, ""),  # seconds
    ],
)
def test_a_compilation_is_announced_where_it_is_long(program, platform, effort, text):

    assert compile_times.line(program, platform, effort=effort) == text
    assert compile_times.line("predict") == compile_times.line("predict", "cpu")


def test_a_cache_is_named():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", "/cache")
    try:
        line = compile_times.line("train", "gpu")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert line.endswith("the first time; the program is then kept in /cache")
