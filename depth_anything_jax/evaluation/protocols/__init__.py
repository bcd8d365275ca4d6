"""Evaluation protocols: their switches, the table of named protocols, and overrides as text."""

from depth_anything_jax.evaluation.protocols.protocol import (
    KINDS,
    VIEWS,
    ProtocolError,
    Switches,
    check_view,
    default,
    digest,
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
    "digest",
    "fits",
    "get",
    "named",
    "views",
    "window",
]
