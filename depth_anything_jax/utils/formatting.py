"""Formats numbers and values as text."""

from typing import Any


def shortened(value: Any, most: int = 80) -> str:
    """Formats a value for an error, cut off after so many characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def duration(seconds: float | int) -> str:
    """Formats a duration for reading: "45 s", "12 min", "3 h 05 min", "2 d 4 h"."""
    seconds = max(0.0, float(seconds))
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
