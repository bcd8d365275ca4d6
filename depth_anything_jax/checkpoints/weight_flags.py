"""Command-line flags that override or complete the metadata of weights; shared by all programs."""

from collections.abc import Callable
from typing import Any


def define() -> Callable[[], dict[str, Any]]:
    """Defines the flags inside main(); returns a function that reads them, for `pretrained.load`.

    Names of several words are accepted with dashes too.
    """
    from absl import flags

    version = flags.DEFINE_enum("version", None, ["v1", "v2"], "where the weights do not state it")
    max_depth = flags.DEFINE_float(
        "max_depth", None, "metres, where a metric model does not state it"
    )
    missing = flags.DEFINE_string("allow_missing", None, "regex of tensors that weights may lack")
    fill = flags.DEFINE_enum("fill", "init", ["init", "zeros"], "values of those tensors")
    for flag in (max_depth, missing):
        flags.DEFINE_alias(flag.name.replace("_", "-"), flag.name)
    return lambda: {
        "version": version.value,
        "max_depth": max_depth.value,
        "allow_missing": missing.value,
        "fill": fill.value,
    }
