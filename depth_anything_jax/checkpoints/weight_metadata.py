"""Determines version, head, range and input of weights from arguments, metadata, configs and names.

Contradictions are refused; properties that nothing states are asked for.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from absl import logging

from depth_anything_jax.checkpoints import licences
from depth_anything_jax.data import transforms
from depth_anything_jax.models import depth_anything
from depth_anything_jax.utils.choices import one_of
from depth_anything_jax.utils.encoders import EncoderSpec
from depth_anything_jax.utils.formatting import shortened


class Undetermined(ValueError):
    """A property that neither tensors nor metadata nor a name tell, and the user knows.

    Attributes:
      choices: {an option of the programs that decides it: when to take it}.
    """

    def __init__(self, message: str, choices: dict[str, str]):
        super().__init__(message)
        self.choices = choices


def check(metadata: Mapping[str, Any], source: str) -> None:
    """Raises ValueError where a field of a file's metadata has a wrong type; None is allowed.

    Args:
      metadata: of weights; unknown fields are not looked at.
      source: where they are from.
    """
    for name in ("variant", "version", "head", "licence", "bin_centres"):
        _check(source, name, metadata.get(name), "text", lambda x: isinstance(x, str))
    for name in ("max_depth", "focal"):
        _check(source, name, metadata.get(name), "a number above 0", _is_positive)
    _check(source, "input", metadata.get("input"), "an object", lambda x: isinstance(x, Mapping))
    filled = metadata.get("filled")
    _check(source, "filled", filled, "an object of 'by' and 'tensors'", _says_what_is_filled)
    licences.check(metadata.get("licence_chain") or [], source)


def _check(source: str, name: str, value: Any, what: str, fits: Callable[[Any], bool]) -> None:
    if value is not None and not fits(value):
        raise ValueError(f"{source}: {name}={shortened(value)} is not {what}")


def _is_positive(x: Any) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool) and 0 < float(x) < math.inf


def _says_what_is_filled(x: Any) -> bool:
    if not isinstance(x, Mapping) or not isinstance(x.get("by"), str):
        return False
    names = x.get("tensors")
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def facts(
    source: str,
    hints: list[dict[str, Any]],
    variant: str,
    version: str | None,
    max_depth: float | None,
    parts: str,
    bin_centres: str | None,
) -> dict[str, Any]:
    """Determines version, head, max_depth and input from the arguments, the hints and the tensors.

    Raises:
      Undetermined: a property that nothing states.
      ValueError: contradictions.
    """
    encoder = depth_anything.VARIANTS[variant].encoder
    if parts == "encoder":  # the same whichever of its blocks are tapped
        version = version or first(hints, "version")
        seen = transforms.official_input(encoder)
        return {"version": version, "head": "relative", "max_depth": None, "input": seen}
    hints = [{**hint, **_version_of_taps(source, hint, variant, version)} for hint in hints]
    for name, given in (("version", version), ("max_depth", max_depth)):
        for hint in hints:
            said, origin = hint.get(name), hint["origin"]
            if given is None or said in (None, given):
                continue
            if hint["authoritative"]:
                raise ValueError(
                    f"{source}: {name}={given!r} contradicts {origin}, which says {said!r}; leave "
                    f"{name} out (in a training config set model.{name}={said!r})"
                )
            logging.warning(
                "%s: %s=%r, though %s says %r (in a training config: model.%s)",
                source, name, given, origin, said, name,
            )  # fmt: skip
    if version is None and not first(authoritative(hints), "version"):
        named = next((h for h in hints if h.get("version")), None)
        # Of a released name all is known; of another one this is a guess.
        if named and "variant" not in named and named["origin"].startswith("the name"):
            logging.warning("%s: taken for %s by %s", source, named["version"], named["origin"])
    version = version or first(hints, "version")
    one_of(f"{source}: version", version, (None, *depth_anything.VERSIONS))
    if version is None:
        raise Undetermined(
            f"{source}: tensors of {variant} alone do not say whether this is V1 (taps the last "
            "four blocks) or V2, and the file's name is none of the released ones; pass "
            "version='v1' or version='v2' (--model-version)",
            {
                "--model-version=v2": "Depth Anything V2, released as "
                f"depth_anything_v2_{variant}.pth (of a metric model also --max-depth=20 or 80)",
                "--model-version=v1": f"Depth Anything V1, depth_anything_{variant}14.pth",
            },
        )
    head = _head_of(source, hints, max_depth, bin_centres)
    if head is None:
        head = "relative"
        logging.warning(
            "%s: taken for a relative model, as nothing says otherwise; a metric one (metres) has "
            "the same tensors: pass max_depth if it is one",
            source,
        )
    seen = _input_of(source, hints, head, encoder)
    if head == "relative":
        if max_depth is not None:
            raise ValueError(f"{source}: max_depth={max_depth} for a relative head; leave it out")
        return {"version": version, "head": head, "max_depth": None, "input": seen}
    metres = max_depth if max_depth is not None else first(hints, "max_depth")
    if metres is None:
        places = {"80": "outdoor, KITTI"} if head == "bins" else {"80": "outdoor, VKITTI"}
        places |= {"10": "indoor, NYU"} if head == "bins" else {"20": "indoor, Hypersim"}
        raise Undetermined(
            f"{source}: a metric head whose range is not in the file; pass max_depth in metres "
            "(--max-depth): 20 for V2's indoor (Hypersim) models, 80 for the outdoor (VKITTI) "
            "ones; 10 and 80 for V1's (bins)",
            {f"--max-depth={metres}": place for metres, place in sorted(places.items())},
        )
    return {"version": version, "head": head, "max_depth": float(metres), "input": seen}


def _head_of(
    source: str,
    hints: list[dict[str, Any]],
    max_depth: float | None,
    bin_centres: str | None,
) -> str | None:
    """The head; None where nothing says. A bins head shows in the tensors."""
    head = first(authoritative(hints), "head")
    head = "sigmoid" if head == "metric" else head  # as it was called while it was the only one
    one_of(f"{source}: head", head, (None, *depth_anything.HEADS))
    if head is None:
        guess = "sigmoid" if max_depth is not None else first(hints, "head")
        head = "bins" if bin_centres else guess
    if (head == "bins") != (bin_centres is not None):
        has = "those of a bins head" if bin_centres else "without a bins head"
        raise ValueError(f"{source}: said to have a {head} head, but its tensors are {has}")
    return head


def _input_of(
    source: str, hints: list[dict[str, Any]], head: str, encoder: EncoderSpec
) -> transforms.InputTransform:
    """The network's input by the metadata, else that of the released models of this head."""
    said = first(hints, "input")
    if said is not None:
        try:
            return transforms.InputTransform.from_json(said, encoder)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
    if head != "bins":
        return transforms.official_input(encoder)
    if first(authoritative(hints), "head") == "bins":  # written by this package
        raise ValueError(f"{source}: its metadata do not say the bins head's input ('input')")
    return transforms.BINS_INPUT


def _version_of_taps(
    source: str, hint: Mapping[str, Any], variant: str, version: str | None
) -> dict[str, Any]:
    """Finds the version by the taps in a config.json; where both fit, the requested one."""
    if "taps" not in hint:
        return {}
    size = depth_anything.VARIANTS[variant]
    fits = [v for v in ("v2", "v1") if size.taps(v) == tuple(hint["taps"])]
    if not fits:
        raise ValueError(
            f"{source}: {hint['origin']} taps blocks {hint['taps']} (counted from 0), but of "
            f"{variant!r} V1 taps {size.taps('v1')} and V2 {size.taps('v2')}"
        )
    return {"version": version if version in fits else fits[0]}


def authoritative(hints: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the hints that are metadata and not guesses from a name."""
    return [hint for hint in hints if hint["authoritative"]]


def first(hints: Iterable[Mapping[str, Any]], name: str) -> Any:
    """Returns the value of `name` in the most reliable hint that has it, or None."""
    return next((hint[name] for hint in hints if hint.get(name) is not None), None)
