"""Evaluation protocols: switches, the table of named ones, overrides."""

from depth_anything_jax.evaluation.protocols.protocol import (
    KINDS,
    VIEWS,
    ProtocolError,
    Switches,
    check_view,
    default,
    fits,
    get,
    named,
    views,
    window,
)

__all__ = [
    "KINDS",
    "ProtocolError",
    "Switches",
    "VIEWS",
    "check_view",
    "default",
    "fits",
    "get",
    "named",
    "views",
    "window",
]
