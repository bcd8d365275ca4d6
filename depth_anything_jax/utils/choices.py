"""Choices by name: is a value one of them, and which is nearest to a misspelt one."""

import difflib
from collections.abc import Iterable
from typing import Any


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raises ValueError where the value is none of those allowed; None is allowed unnamed."""
    known = tuple(allowed)
    if value not in known:
        names = [str(x) for x in known if x is not None]
        raise ValueError(
            f"{name}={value!r} is unknown; choose one of {', '.join(names)}"
            + did_you_mean(str(value), names)
        )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ "; did you mean 'crop'?", to be put behind a message; "" where no known name is near."""
    near = difflib.get_close_matches(given, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
