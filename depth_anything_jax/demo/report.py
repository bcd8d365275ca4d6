"""Scores the demo's runs, and writes its table and a self-contained HTML report."""

from __future__ import annotations

import base64
import html
import io
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from depth_anything_jax.demo import stages
from depth_anything_jax.visualization import colormaps, html_report
from depth_anything_jax.data.scenes.source import SceneSource
from depth_anything_jax.data.sources.base import disparity_of
from depth_anything_jax.demo.finding import Scores, finding
from depth_anything_jax.demo.plan import DOMAINS, Plan, SPLITS
from depth_anything_jax.evaluation.scores import metrics

METRICS = {"abs_rel": "AbsRel", "norm_l1": "normalised L1", "delta1": "δ1"}
# Rows of the table, in order, and their titles.
ROWS = {
    "constant": "constant map (mean label of A)",
    "teacher": "teacher (A)",
    "alone": "student, labelled images only",
    "student": "student (A and pseudo-labelled B)",
    "shuffled": "student, shuffled pseudo labels",
    "undistorted": "student, no colour distortion",
    "uncut": "student, no CutMix",
    "unaligned": "student, no L_feat",
    "misaligned": "student, L_feat towards other images' features",
    "released": "released model",
}
# (a, b, what it shows): a - b on the same images; the first is the demo's claim.
PAIRS = (
    ("student", "alone", "unlabelled images, at equal updates and labelled samples"),
    ("student", "teacher", "student against its teacher"),
    ("student", "shuffled", "labels of the right images against shuffled ones"),
    ("student", "undistorted", "colour distortion"),
    ("student", "uncut", "CutMix"),
    ("student", "unaligned", "L_feat"),
    ("student", "misaligned", "features of the right images against other images'"),
    ("student", "constant", "student against a constant"),
)
CAP = 80.0  # metres; outdoor scenes reach further, but 80 m cannot be told from 200 m there
RELEASED_SIZE = 224  # network input of released models, which were not trained at 98 pixels
_PICTURED = 6  # number of scenes of each domain in the report


def mean_label(source: SceneSource) -> np.ndarray:
    """Averages a set's normalised labels: (label − median) / mean absolute deviation.

    The sky counts as disparity 0, as in the training loss.
    """
    total = np.zeros((source.size, source.size))
    for i in range(len(source)):
        label = disparity_of(source[i]).astype(np.float64)
        total += metrics.normalise(label.reshape(-1)).reshape(label.shape)
    return (total / len(source)).astype(np.float32)


def predictors(plan: Plan, weights: str) -> Iterator[tuple[str, int, int, Callable]]:
    """Yields (row, seed, network size, images -> disparity) for everything to be scored."""
    from depth_anything_jax.inference import predictor
    from depth_anything_jax.checkpoints.pretrained import load_pretrained

    constant = mean_label(SceneSource("A", plan.images, SPLITS["train"], plan.size))
    for seed in plan.seeds:
        yield "constant", seed, plan.size, lambda images: np.repeat(constant[None], len(images), 0)
        for name in plan.runs:
            student = load_pretrained(plan.run(name, seed), scan=False)
            yield name, seed, plan.size, predictor.Predictor(*student)
        if weights:
            released = load_pretrained(weights)
            yield "released", seed, RELEASED_SIZE, predictor.Predictor(*released)


def score_all(plan: Plan, *, weights: str = "", tell: Callable[[str], None] = print) -> Scores:
    """Scores every row on every domain, per image; prints a line for each."""
    from depth_anything_jax.inference import predictor
    from depth_anything_jax.evaluation.runner import loop

    batch = predictor.batch_of(20)
    found: dict[str, dict[str, dict[str, list]]] = {}
    sets = {d: SceneSource(d, plan.held_out, SPLITS[plan.split], plan.size) for d in DOMAINS}
    for row, seed, size, predict in predictors(plan, weights):
        start = time.monotonic()
        for domain, source in sets.items():
            scores = loop.evaluate(predict, source, size=size, cap=CAP, batch_size=batch)
            if scores.skipped:
                raise RuntimeError(f"{row}: {scores.skipped} of domain {domain} have no score")
            by_metric = found.setdefault(row, {}).setdefault(domain, {m: [] for m in METRICS})
            for metric in METRICS:
                by_metric[metric].append(scores.of(metric))
        mean = np.mean(found[row]["B"]["norm_l1"][-1])
        seconds = time.monotonic() - start
        tell(f"{row}-{seed}: normalised L1 on B {mean:.3f}  {seconds:.0f} s")
    return {
        row: {d: {m: np.array(v) for m, v in by.items()} for d, by in domains.items()}
        for row, domains in found.items()
    }


def interval(scores: Scores, a: str, b: str, domain: str, metric: str) -> metrics.Interval:
    """Paired interval of a - b over the images of a domain; seeds are averaged first."""
    return metrics.paired_interval(scores[a][domain][metric], scores[b][domain][metric])


def verdict(found: metrics.Interval, metric: str) -> str:
    """Interprets an interval of a - b: "better", "worse" or "no effect measured"."""
    if not found.clear:
        return "no effect measured"
    lower = found.mean < 0
    return "better" if lower != (metric == "delta1") else "worse"


def table(scores: Scores) -> str:
    """Formats the table and the comparisons as Markdown, which is also readable in a terminal."""
    heads = [f"{d} {name}" for d in DOMAINS for name in METRICS.values()]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row, title in ROWS.items():
        if row in scores:
            values = [f"{scores[row][d][m].mean():.3f}" for d in DOMAINS for m in METRICS]
            lines.append(f"| {title} | " + " | ".join(values) + " |")
    lines += ["", "| difference (95 % interval over images) | on | " + " | ".join(METRICS.values())]
    lines[-1] += " |"
    lines.append("|---" * (2 + len(METRICS)) + "|")
    pairs = [(a, b, title) for a, b, title in PAIRS if a in scores and b in scores]
    for a, b, title in pairs:
        for domain in DOMAINS:
            cells = []
            for metric in METRICS:
                i = interval(scores, a, b, domain, metric)
                cells.append(f"{i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}] {verdict(i, metric)}")
            lines.append(f"| {a} − {b}: {title} | {domain} | " + " | ".join(cells) + " |")
    lines += _by_seed(scores, pairs)
    for domain in "BC":
        errors = (scores[row][domain]["norm_l1"] for row in ("constant", "teacher"))
        found = metrics.ratio_interval(*errors)
        lines.append(
            f"\nOn {domain} the constant map has {found.mean:.2f} x [{found.low:.2f}, "
            f"{found.high:.2f}] the teacher's normalised L1."
        )
    return "\n".join(lines)


def _by_seed(scores: Scores, pairs) -> list[str]:
    """Formats each seed's own difference, where there are several: the variance of training."""
    seeds = len(scores["student"]["B"]["norm_l1"])
    if seeds < 2:
        return []
    heads = [f"seed {k}" for k in range(seeds)]
    lines = ["", "| normalised L1 on B, seed by seed | " + " | ".join(heads) + " |"]
    lines.append("|---" * (seeds + 1) + "|")
    for a, b, _ in pairs:
        each = (scores[a]["B"]["norm_l1"] - scores[b]["B"]["norm_l1"]).mean(1)
        lines.append(f"| {a} − {b} | " + " | ".join(f"{x:+.3f}" for x in each) + " |")
    return lines


def broken(scores: Scores) -> str:
    """Checks the table: returns an error message if labels of other images do no harm, else ""."""
    found = interval(scores, "student", "shuffled", "B", "norm_l1")
    if verdict(found, "norm_l1") == "better":
        return ""
    return (
        "shuffled pseudo labels are not worse than the right ones: normalised L1 on B, student - "
        f"shuffled {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]. Either there is a bug, "
        "or the runs are too short to learn from labels; this table is not valid"
    )


def curves(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """Reads the logged metrics of each training run of the first seed."""
    from depth_anything_jax.training.logger import read_metrics

    return {name: read_metrics(plan.run(name, plan.seeds[0])) for name in plan.runs}


def active_share(rows: list[dict[str, Any]]) -> str:
    """Describes the share of tokens with active L_feat: its mean, and at the end."""
    shares = [row["features/active_fraction"] for row in rows if "features/active_fraction" in row]
    if not shares:
        return "L_feat was off"
    tail = float(np.mean(shares[-max(1, len(shares) // 5) :]))
    text = f"L_feat acted on {np.mean(shares):.1%} of the tokens, {tail:.1%} in the last fifth"
    return text + (": this run does not test it" if max(shares) == 0 else "")


def strip(plan: Plan, domain: str, rows: list[tuple[str, Callable, int]]) -> np.ndarray:
    """Draws scenes of a domain: RGB, true disparity, and the prediction of each row."""
    from depth_anything_jax.utils import interpolation
    from depth_anything_jax.data import transforms

    source = SceneSource(domain, plan.held_out, SPLITS[plan.split], plan.size)
    lines = []
    for i in range(min(_PICTURED, len(source))):
        record = source[i]
        tiles = [record["image"], colormaps.colourise(disparity_of(record))]
        for _, predict, size in rows:
            image = transforms.network_input(record["image"], size)
            out = np.asarray(predict(np.stack([image] * 20)))[0]
            tiles.append(
                colormaps.colourise(
                    interpolation.resize(out, (plan.size, plan.size), "bilinear-corners")
                )
            )
        lines.append(np.concatenate([np.pad(t, ((1, 1), (1, 1), (0, 0))) for t in tiles], axis=1))
    return np.concatenate(lines, axis=0)


def plot_curves(logged: dict[str, list[dict[str, Any]]]) -> bytes:
    """Plots the losses and the active share of L_feat; returns a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    axes = figure.subplots(1, 3)
    wanted = ("loss/labelled", "loss/unlabelled", "features/active_fraction")
    for axis, name in zip(axes, wanted, strict=True):
        for run, rows in logged.items():
            points = [(r["step"], r[name]) for r in rows if name in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=run, linewidth=1)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write(plan: Plan, scores: Scores, marks: dict, *, weights: str = "", docs: str = "") -> None:
    """Writes report.html, scores.json and, on request, the table and pictures for docs/."""
    folder = pathlib.Path(plan.folder)
    logged = curves(plan)
    shown = [
        (row, predict, size)
        for row, seed, size, predict in predictors(plan, weights)
        if seed == plan.seeds[0] and row != "shuffled"
    ]
    strips = {domain: strip(plan, domain, shown) for domain in DOMAINS}
    plotted = plot_curves(logged)
    text = table(scores)
    columns = ["scene", "true disparity", *(row for row, _, _ in shown)]
    opening = finding(scores)
    summary = {
        row: {d: {m: v.mean(1).tolist() for m, v in by.items()} for d, by in domains.items()}
        for row, domains in scores.items()
    }
    (folder / "scores.json").write_text(json.dumps(summary, indent=1))
    page = _page(plan, opening, text, columns, strips, plotted, logged, marks)
    (folder / "report.html").write_text(page, encoding="utf-8")
    if docs:
        _write_docs(
            pathlib.Path(docs), plan, opening, text, columns, strips, plotted, logged, marks
        )


def facts(plan: Plan, logged: dict, marks: dict) -> list[str]:
    """Sentences printed below every table of this demo."""
    seconds = {k: v["seconds"] for k, v in marks.items()}
    total = seconds.pop("all")
    cpu = marks["all"].get("cpu_seconds")  # marks of before December 2026 have none
    burnt = f" and {cpu / 60:.1f} CPU minutes" if cpu else ""
    runs = ", ".join(f"{k} {v:.0f} s" for k, v in seconds.items())
    return [
        f"Rendered scenes of {plan.size} pixels: {plan.images} labelled (A: rooms and courtyards "
        f"on a clear day), {plan.images} unlabelled (B: also streets; dusk, night, overcast, fog, "
        f"a cheap camera), {plan.held_out} held out of each domain ({plan.split} sets). No run "
        "trains on C (hamlets and storehouses), and the encoder was not trained on such places.",
        "The encoder is not DINOv2: a tiny one that comes with the package, pre-trained on "
        "rendered pictures of A's and B's kinds without depth, initialises teacher and student and "
        "is the frozen encoder of L_feat.",
        "Teacher and student have the same size here; in the paper the teacher is larger.",
        f"The teacher was trained for {logged['teacher'][-1]['step']:,} steps, each student for "
        f"{logged['student'][-1]['step']:,}.",
        "Lengths and rates were chosen on validation sets; intervals are paired bootstraps over "
        f"images, of {len(plan.seeds)} training seed(s): they do not include the variance of "
        "training.",
        active_share(logged["student"]) + ".",
        f"Time of each stage: {runs}; {total / 60:.1f} min{burnt} in total, with stages in parallel.",
    ]


def _page(plan, opening, text, columns, strips, plotted, logged, marks) -> str:
    heads = "".join(f"<span>{html.escape(c)}</span>" for c in columns)
    pictures = {
        d: f"<h2>Domain {d}</h2><div class='heads'>{heads}</div>"
        f"<img class='wide' alt='scenes of domain {d}: {html.escape(', '.join(columns))}' "
        f"src='{html_report.inlined(s)}'>"
        for d, s in strips.items()
    }
    first = pictures.pop("B")
    curve = base64.b64encode(plotted).decode()
    points = "".join(f"<li>{html.escape(s)}</li>" for s in facts(plan, logged, marks))
    return html_report.page(
        "Depth Anything demo",
        f"<p>{html.escape(opening)}</p>{first}<h2>Scores</h2>{html_report.tables(text)}"
        f"<ul>{points}</ul>{''.join(pictures.values())}"
        f"<h2>Training</h2><img alt='losses by step' src='data:image/png;base64,{curve}'>",
        heading="Teacher, pseudo labels, student: the whole method on rendered scenes",
        style=f".heads{{display:grid;grid-template-columns:repeat({len(columns)},1fr);"
        "text-align:center}.wide{width:100%}",
    )


def _write_docs(folder, plan, opening, text, columns, strips, plotted, logged, marks) -> None:
    from depth_anything_jax.data.file_formats import formats

    images, stem = folder / "images", pathlib.Path(plan.folder).name
    images.mkdir(parents=True, exist_ok=True)
    for domain, picture in strips.items():
        name = f"{stem}-{domain}.png"
        (images / name).write_bytes(formats.encode_png(np.ascontiguousarray(picture)))
    (images / f"{stem}-curves.png").write_bytes(plotted)
    lines = [
        f"# What `make {stem}` showed",
        "",
        opening,
        "",
        *_picture("B", columns, stem),
        "## Scores",
        "",
        f"{time.strftime('%Y-%m-%d')}, {len(stages.cores())} CPU cores.",
        "",
        text,
        "",
        *(f"- {sentence}" for sentence in facts(plan, logged, marks)),
        "",
    ]
    for domain in sorted(strips.keys() - {"B"}):
        lines += _picture(domain, columns, stem)
    lines += ["## Training", "", f"![curves](images/{stem}-curves.png)", ""]
    (folder / f"{stem}.md").write_text("\n".join(lines), encoding="utf-8")


def _picture(domain: str, columns: list[str], stem: str) -> list[str]:
    """The lines of a domain's heading and picture."""
    picture = f"![domain {domain}](images/{stem}-{domain}.png)"
    return [f"## Domain {domain}", "", " | ".join(columns), "", picture, ""]
