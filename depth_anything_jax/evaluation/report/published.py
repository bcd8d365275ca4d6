"""Compares scores with published numbers, where both follow the same protocol.

    published.beside(row, "depth-anything-v2-large")  # of the evaluation program's row

A published number is shown only where the row's hash is that of the protocol it was published
under, or of our interpretation of that protocol, which its notes then say. Other differences (the
number of images, options of the reader) are reported as well.

`TABLES` holds the numbers as printed: one entry per set, its metrics separated by slashes.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from depth_anything_jax.checkpoints import released
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.scores import pairs
from depth_anything_jax.utils.choices import did_you_mean


class Publication(NamedTuple):
    """A published table, or the part of it that follows one protocol.

    Attributes:
      title: the publication, and the table in it.
      protocol: the name of our protocol.
      view: the kind that the predictions were scored as; "" for pairs, where it has no meaning.
      metrics: our names of the metrics.
      sets: "nyu", "diode_outdoor" (its images of one domain), "moge/nyu" (a set of the reader
        "moge"), or "da2k/indoor" (a kind of scene).
      models: name → its numbers, in the order of the sets.
      unit: of the numbers: 0.01 for per cent.
      images: set → number of images, where it is known.
      options: set → options of our reader that give those images.
      notes: caveats of the comparison.
    """

    title: str
    protocol: str
    view: str
    metrics: tuple[str, ...]
    sets: tuple[str, ...]
    models: dict[str, str]
    unit: float = 1.0
    images: Mapping[str, int] = {}
    options: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


_V1, _V2 = "depth-anything-v1", "depth-anything-v2"
_MIDAS = "midas-v3.1-beit-large-512"
_SHORT = ("abs_rel", "delta1")
_ZERO_SHOT = {"nyu": 654, "kitti": 652, "sintel": 1064, "eth3d": 454, "ddad": 3950}
_READING = (
    "da@1 is our reading of a protocol that its authors did not publish",
    "splits and masks are not stated there; DIODE is probably its indoor half",
)
_SCENES = (
    "da2k", *(f"da2k/{kind}" for kind in (
        "indoor", "outdoor", "non_real", "transparent_reflective", "adverse_style", "aerial",
        "underwater", "object",
    )),
)  # fmt: skip
_METRIC_NOTES = (
    "V1 scored with ZoeDepth's code; which program gave V2's numbers is not stated (its own for "
    "other metric models is protocol v2)",
)
_METRIC = ("delta1", "delta2", "delta3", "abs_rel", "rmse", "log10")

TABLES = (
    Publication(
        "V1 (arXiv 2401.10891), table 2", "da", "disparity-affine", _SHORT,
        ("kitti", "nyu", "sintel", "ddad", "eth3d", "diode"),
        {
            _MIDAS: ".127/.850 .048/.980 .587/.699 .251/.766 .139/.867 .075/.942",
            f"{_V1}-small": ".080/.936 .053/.972 .464/.739 .247/.768 .127/.885 .076/.939",
            f"{_V1}-base": ".080/.939 .046/.979 .432/.756 .232/.786 .126/.884 .069/.946",
            f"{_V1}-large": ".076/.947 .043/.981 .458/.760 .230/.789 .127/.882 .066/.952",
        },
        images=_ZERO_SHOT, notes=_READING,
    ),
    Publication(
        "V2 (arXiv 2406.09414), table 2", "da", "disparity-affine", _SHORT,
        ("kitti", "nyu", "sintel", "eth3d", "diode"),
        {
            f"{_V2}-small": ".078/.936 .053/.973 .500/.718 .142/.851 .073/.942",
            f"{_V2}-base": ".078/.939 .049/.976 .495/.734 .137/.858 .068/.950",
            f"{_V2}-large": ".074/.946 .045/.979 .487/.752 .131/.865 .066/.952",
            f"{_V2}-giant": ".075/.948 .044/.979 .506/.772 .132/.862 .065/.954",
        },
        images=_ZERO_SHOT, notes=_READING,
    ),
    Publication(
        "MiDaS's README", "midas", "disparity-affine", ("abs_rel",), ("eth3d", "sintel"),
        {_MIDAS: ".0659 .2366"},
        notes=("at 512 pixels, longer side kept",),
    ),
    Publication(
        "MiDaS's README", "midas", "disparity-affine", ("delta1",), ("kitti", "nyu", "tum"),
        {_MIDAS: ".8844 .9814 .9387"},  # printed as δ > 1.25: 11.56, 1.86 and 6.13 %
        images={"kitti": 161, "nyu": 654, "tum": 1815}, options={"kitti": "split=midas_161"},
        notes=("at 512 pixels, longer side kept",),
    ),
    Publication(
        "MiDaS's README", "pairs", "", ("whdr",), ("diw",), {_MIDAS: ".1137"},
        notes=("at 512 pixels, longer side kept",),
    ),
    Publication(
        "MoGe (arXiv 2410.19115), table 3", "moge", "disparity-affine", ("abs_rel",),
        tuple(f"moge/{s}" for s in "nyu kitti eth3d ibims gso sintel ddad diode spring".split())
        + ("moge/hammer",),
        {f"{_V2}-large": "4.20 5.61 4.73 3.48 1.25 21.4 13.0 5.33 4.97 8.82"},
        unit=0.01,
    ),
    Publication(
        "MoGe (arXiv 2410.19115), table 3", "moge", "disparity-affine", ("delta1",),
        ("moge/sintel", "moge/ddad"), {f"{_V2}-large": ".728 .866"},
    ),
    Publication(
        "plumbline's rerun of MoGe's", "moge", "disparity-affine", ("abs_rel",),
        ("moge/diode", "moge/eth3d", "moge/sintel"), {f"{_V2}-large": ".0529 .0471 .2138"},
    ),
    Publication(
        "plumbline", "golden", "disparity-affine", ("abs_rel",), ("nyu", "kitti"),
        {
            f"{_V2}-small": ".0510 .0770",
            f"{_V2}-base": ".0456 .0756",
            f"{_V2}-large": ".0428 .0710",
        },
        images={"nyu": 654, "kitti": 652},
        notes=(
            "least squares in disparity and metrics in depth as in golden@1; its crop and bounds "
            "are not known to be the same",
        ),
    ),
    Publication(
        "V2 (arXiv 2406.09414), DA-2K", "pairs", "", ("accuracy",), _SCENES,
        {
            f"{_V2}-small": "95.3 92.9 93.0 98.4 94.4 95.7 96.4 99.2 96.6",
            f"{_V2}-base": "97.0 96.2 94.8 98.7 96.3 96.7 99.0 100 97.3",
            f"{_V2}-large": "97.1 96.4 93.9 99.0 96.3 97.3 99.5 99.2 98.0",
            f"{_V2}-small-labelled-only": "89.8 88.1 87.8 90.8 86.9 90.6 93.8 94.9 89.9",
            f"{_V2}-base-labelled-only": "92.9 91.2 91.9 95.7 90.2 90.9 96.4 94.9 96.6",
            f"{_V2}-large-labelled-only": "96.0 94.5 93.9 98.4 93.9 96.3 97.4 99.2 98.0",
        },
        unit=0.01,
    ),
    Publication(
        "V2 (arXiv 2406.09414), DA-2K", "pairs", "", ("accuracy",), ("da2k",),
        {
            f"{_V1}-large": "88.5", f"{_V2}-giant": "97.4", "marigold": "86.8",
            "geowizard": "88.1", "depthfm": "85.8",
        },
        unit=0.01,
    ),
    Publication(
        "V1 and V2, fine-tuned to metric depth", "zoe", "metric", _METRIC, ("nyu",),
        {
            f"{_V1}-large-metric-nyu": ".984/.998/1.000/.056/.206/.024",
            f"{_V2}-small-metric-nyu": ".961/.996/.999/.073/.261/.032",
            f"{_V2}-base-metric-nyu": ".977/.997/1.000/.063/.228/.027",
            f"{_V2}-large-metric-nyu": ".984/.998/1.000/.056/.206/.024",
            "zoedepth-nyu": ".951/.994/.999/.077/.282/.033",
        },
        images={"nyu": 654},
        notes=_METRIC_NOTES,
    ),
    Publication(  # the last number of these rows is RMSE log, where NYU's is log10
        "V1 and V2, fine-tuned to metric depth", "zoe", "metric",
        (*_METRIC[:-1], "rmse_log"), ("kitti",),
        {
            f"{_V1}-large-metric-kitti": ".982/.998/1.000/.046/1.896/.069",
            f"{_V2}-small-metric-kitti": ".973/.997/.999/.053/2.235/.081",
            f"{_V2}-base-metric-kitti": ".979/.998/1.000/.048/1.999/.072",
            f"{_V2}-large-metric-kitti": ".983/.998/1.000/.045/1.861/.067",
            "zoedepth-kitti": ".971/.996/.999/.054/2.281/.082",
        },
        images={"kitti": 652},
        notes=_METRIC_NOTES,
    ),
    Publication(
        "V1 (arXiv 2401.10891), zero-shot metric depth", "zoe", "metric", _SHORT,
        ("sunrgbd", "ibims", "hypersim"),
        {
            f"{_V1}-large-metric-nyu": ".500/.660 .150/.714 .363/.361",
            "zoedepth-nyu": ".520/.545 .169/.656 .407/.302",
        },
        images={"sunrgbd": 5050, "ibims": 100},
        notes=("SUN RGB-D's number is not that of ZoeDepth's paper either (V1 issue 61)",),
    ),
    Publication(
        "V1 (arXiv 2401.10891), zero-shot metric depth", "zoe", "metric", _SHORT,
        ("vkitti2", "diode_outdoor"),
        {
            f"{_V1}-large-metric-kitti": ".085/.913 .794/.288",
            "zoedepth-kitti": ".106/.844 .814/.237",
        },
        images={"vkitti2": 1701, "diode_outdoor": 446},
    ),
)  # fmt: skip
MODELS = tuple(sorted({model for table in TABLES for model in table.models}))

_DOMAINS = {"nyu": "indoor", "kitti": "outdoor"}  # where the protocol depends on it
_APPROXIMATE_PAIRS = {"da2k": 2000, "diw": 74_000}  # of their papers, which print no exact count
_SIZES = {"vits": "small", "vitb": "base", "vitl": "large", "vitg": "giant"}
_BINS: dict[float | None, str] = {10.0: "nyu", 80.0: "kitti"}  # V1's metric models, by their range
_OTHERS = {  # of transformers' hub
    "intel/dpt-beit-large-512": _MIDAS,
    "intel/zoedepth-nyu": "zoedepth-nyu",
    "intel/zoedepth-kitti": "zoedepth-kitti",
}
# Options of readers that give paths, and do not change which images are read.
_PLACES = ("list_file", "validation_file", "labels", "partial", "set", "form")


def check(model: str) -> str:
    """Checks a model's name and returns it; "" for "none".

    Raises:
      ValueError: there are no published numbers of this model; the message lists the names.
    """
    if model == "none":
        return ""
    if model not in MODELS:
        raise ValueError(
            f"no published numbers of {model!r}; there are those of {', '.join(MODELS)}; 'none' "
            f"turns the comparison off{did_you_mean(model, MODELS)}"
        )
    return model


def model_of(origin: str) -> str:
    """The published model to which weights of this name belong; "" if to none.

    Args:
      origin: a Hub id, or a released file's or folder's name or path.
    """
    known = released.by_repo(origin) or released.by_path(pathlib.PurePath(origin))
    if known is None:
        return _OTHERS.get(origin.lower(), "")
    name = f"depth-anything-{known.version}-{_SIZES[known.variant]}"
    if known.head == "relative" and known.version is not None:
        return name
    if known.head == "bins":
        return f"{name}-metric-{_BINS[known.max_depth]}"
    return ""  # encoders; V2's metric models, which have no published score on these sets


def beside(row: Mapping[str, Any], model: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Finds the numbers published for a model on a row's set under the row's protocol.

    Args:
      row: of `tables.rows`.
      model: one of MODELS, or "".

    Returns:
      [{"title", "values": {metric: number}, "ratios": {metric: ours / number}, "notes"}], and
      sentences on the numbers that were published for this set under other protocols.
    """
    shown, hidden = [], []
    name, _, _ = row["reader"].partition("?")
    part = row["set"] if name != "moge" else f"moge/{row['set']}"
    for table in TABLES:
        if model not in table.models or part.partition("/")[0] != name:
            continue
        for place, printed in zip(table.sets, table.models[model].split(), strict=True):
            if _dataset(place) != part:
                continue
            full = pairs.NAME if table.protocol == "pairs" else protocols.named(table.protocol)[0]
            if row["hash"] != _hash(table, place) or table.view not in ("", row["view"]):
                as_view = f" as {table.view}" if table.view else ""
                hidden.append(
                    f"{table.title} is not beside {row['protocol']} as {row['view']}: its numbers "
                    f"of {place} are for {full}{as_view}"
                )
                continue
            texts = zip(table.metrics, printed.split("/"), strict=True)
            values = {
                metric: float(text) * table.unit
                for metric, text in texts
                if not math.isnan(row[metric])
            }
            if not values:  # for example, labels without metres
                continue
            ratios = {metric: row[metric] / value for metric, value in values.items()}
            notes = [*table.notes, *_differences(row, table, place)]
            shown.append({"title": table.title, "values": values, "ratios": ratios, "notes": notes})
    return shown, [] if "/" in row["set"] else hidden  # reported once for all kinds of scene


def _dataset(place: str) -> str:
    return place.removesuffix("_outdoor")


def _hash(table: Publication, place: str) -> str:
    """The hash of the protocol that a publication uses for a set."""
    if table.protocol == "pairs":
        return pairs.Rules().hash
    dataset = _dataset(place).removeprefix("moge/")
    domain = "outdoor" if place.endswith("_outdoor") else _DOMAINS.get(place, "")
    return protocols.get(table.protocol, table.view, dataset, domain).hash


def _differences(row: Mapping[str, Any], table: Publication, place: str) -> list[str]:
    found = []
    expected = table.images.get(place, row["split"])
    if row["images"] != expected and "/" not in row["set"]:
        found.append(f"ours is over {row['images']} images, theirs over {expected}")
    about = _APPROXIMATE_PAIRS.get(row["set"], 0)
    if about and not 0.9 < row["pairs"] / about < 1.1:
        found.append(f"ours is over {row['pairs']} pairs, theirs over some {about:,}")
    fields = row["reader"].partition("?")[2].split("&")
    chosen = {f for f in fields if f and f.partition("=")[0] not in _PLACES}
    differ = chosen ^ set(filter(None, [table.options.get(place, "")]))
    if differ:
        found.append(f"reader options differ: {', '.join(sorted(differ))}")
    return found
