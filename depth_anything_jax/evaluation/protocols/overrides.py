"""Parses protocol switches given on a command line: "crop=garg", "max_depth=50", "flip=true".

Every field of `protocol.Protocol` can be set this way; types and choices are read from the class.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from depth_anything_jax.evaluation.protocols.protocol import CHOICES, Protocol, ProtocolError
from depth_anything_jax.utils.choices import did_you_mean

_TYPES = typing.get_type_hints(Protocol)
NAMES = tuple(field.name for field in dataclasses.fields(Protocol))
_WORDS = {"disparity_floor": ("cap", "label")}  # beside numbers
_BOOLS = {"true": True, "false": False}


def parse(texts: Iterable[str]) -> dict[str, Any]:
    """Parses "switch=value" texts into {switch: value}.

    Raises:
      ProtocolError: a text has no "=", names an unknown switch or one given before, or has a value
        that the switch does not accept; the message lists the choices.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ProtocolError(f"switch {text!r}: should read name=value, as crop=garg")
        if name not in NAMES:
            hint = did_you_mean(name, NAMES)
            raise ProtocolError(f"no switch {name!r}; there are {', '.join(NAMES)}{hint}")
        if name in found:
            raise ProtocolError(f"switch {name!r} is given twice: {show(found[name])} and {value}")
        found[name] = _value(name, value)
    return found


def _value(name: str, text: str) -> Any:
    expected = _TYPES[name]
    if name in CHOICES:
        choices: tuple[str, ...] = CHOICES[name]
        if text in choices:
            return text
    elif expected is bool:
        choices = tuple(_BOOLS)
        if text.lower() in _BOOLS:
            return _BOOLS[text.lower()]
    elif text in _WORDS.get(name, ()):
        return text
    else:
        choices = (*_WORDS.get(name, ()), "a whole number" if expected is int else "a number")
        try:
            value = int(text) if expected is int else float(text)
        except ValueError:
            pass
        else:
            if value == value:  # NaN is refused
                return value
    raise ProtocolError(f"switch {name}={text!r}: must be one of {', '.join(choices)}")


def show(value: Any) -> str:
    """Formats a value so that `parse` reads it back."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def label(name: str, switches: Mapping[str, Any]) -> str:
    """Appends the changed switches to a protocol's name: "zoe@2+crop=none+max_depth=50"."""
    return "+".join([name, *(f"{k}={show(v)}" for k, v in sorted(switches.items()))])
