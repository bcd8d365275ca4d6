"""Command-line flags that override or complete the metadata of weights; shared by all programs."""

from collections.abc import Callable
from typing import Any


def define() -> tuple[Callable[[], dict[str, Any]], list[Any]]:
    """Defines the flags inside main(); returns a function that reads them, and the flags.

    The function's values are the keyword arguments of `pretrained.load`. Names of several words
    are accepted with dashes too.
    """
    from absl import flags

    version = flags.DEFINE_enum(
        "model_version", None, ["v1", "v2"], "where the weights do not state it"
    )
    max_depth = flags.DEFINE_float(
        "max_depth", None, "metres, where a metric model does not state it"
    )
    missing = flags.DEFINE_string("allow_missing", None, "regex of tensors that weights may lack")
    fill = flags.DEFINE_enum("fill", "init", ["init", "zeros"], "values of those tensors")
    for flag in (version, max_depth, missing):
        flags.DEFINE_alias(flag.name.replace("_", "-"), flag.name)

    def read() -> dict[str, Any]:
        return {
            "version": version.value,
            "max_depth": max_depth.value,
            "allow_missing": missing.value,
            "fill": fill.value,
        }

    return read, [version, max_depth, missing, fill]
