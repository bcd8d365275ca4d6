"""Flags for what weights do not say about themselves, alike in every program that loads some."""

from collections.abc import Callable
from typing import Any


def define() -> Callable[[], dict[str, Any]]:
    """Defines the flags, for use inside main(); returns what reads them, for `pretrained.load`.

    Names of several words are taken with dashes too, as the tools and error messages write them.
    """
    from absl import flags

    version = flags.DEFINE_enum("version", None, ["v1", "v2"], "where the weights do not say")
    max_depth = flags.DEFINE_float("max_depth", None, "metres, of a metric model that does not say")
    missing = flags.DEFINE_string("allow_missing", None, "regex of tensors that weights may lack")
    fill = flags.DEFINE_enum("fill", "init", ["init", "zeros"], "what stands in for those")
    for flag in (max_depth, missing):
        flags.DEFINE_alias(flag.name.replace("_", "-"), flag.name)
    return lambda: {
        "version": version.value,
        "max_depth": max_depth.value,
        "allow_missing": missing.value,
        "fill": fill.value,
    }
