"""Measures on rendered scenes whether relative pre-training helps metric depth: `make demo-metric`.

    python -m depth_anything_jax.demo.metric             # the table and demo-metric/report.html
    python -m depth_anything_jax.demo.metric --long      # both heads, three seeds
    python -m depth_anything_jax.demo.metric --split=val # to choose lengths and rates
    python -m depth_anything_jax.demo.metric --docs=docs # table and picture as Markdown too

The paper's second result (V1 4.2, V2 7.3) is that a metric model is better when it is initialised
from a relative one. This program measures it, with the same programs as a user:

    relative   trains on relative depth of the domain "mixture" (configs/teacher.py:demo): many
               scenes of all kinds; the loss ignores the scale of their labels
    tuned      is initialised from it and trains on metres of few scenes of domain A
               (configs/metric.py:demo)
    scratch    is the same except for its initialisation: the encoder that `relative` started from,
               and a new decoder

They are scored in metres, unaligned, on held-out scenes of A under the protocol zoe, and once more
with each map's median set to its label's: the scenes come in all sizes, so that much of the error
in metres is one factor per image, which no network could know. The table reports what was measured,
whether or not it agrees with the paper.
"""

# Heavy imports are inside the functions, because the stages run in processes of their own.
from __future__ import annotations

import dataclasses
import html
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from depth_anything_jax.data.scenes.source import SceneSource
from depth_anything_jax.demo.plan import Plan, SPLITS
from depth_anything_jax.demo.progress import Progress
from depth_anything_jax.demo.stages import Stage, cores

if TYPE_CHECKING:
    from depth_anything_jax.evaluation.scores import metrics
    from depth_anything_jax.evaluation.runner.predictors import Candidate

RANGE = 20.0  # metres: the networks' range (configs/metric.py:demo) and that of valid labels
METRICS = {
    "abs_rel": "AbsRel",
    "rmse": "RMSE (m)",
    "delta1": "δ1",
    "abs_rel_median": "AbsRel, median set",
}
# Alignment -> metric -> its name in the evaluation.
ALIGNMENTS = {
    "none": {"abs_rel": "abs_rel", "rmse": "rmse", "delta1": "delta1"},
    "median": {"abs_rel_median": "abs_rel"},
}
STARTS = {
    "scratch": "metres from scratch",
    "tuned": "relative depth first, then metres",
}
PICTURED = 6  # number of scenes in the report
COLOURS = "Spectral"  # near is warm

Scores = dict[str, dict[str, np.ndarray]]  # row -> metric -> (seeds, images)


@dataclasses.dataclass(frozen=True)
class MetricPlan(Plan):
    """Sizes and lengths of the runs, chosen on validation scenes (docs/demo-metric.md).

    Rates and batches are those of the configs' :demo, except for the decoder's rate in `relative`:
    at the config's 2e-3 its values grow to thousands over this many steps, and saturate the sigmoid
    of the metric model initialised from it.
    """

    folder: str = "demo-metric"
    images: int = 3000  # of "mixture", for `relative`
    metric_images: int = 50  # of A, with metres
    held_out: int = 500
    relative_steps: int = 2400
    relative_rate: float = 5e-4
    metric_steps: int = 400
    heads: tuple[str, ...] = ("sigmoid",)

    @property
    def focal(self) -> float:
        """The canonical focal length, of 60 degrees field of view. The scenes' lenses vary."""
        return round(self.size / 2 / np.tan(np.pi / 6), 1)

    def metric_source(self) -> str:
        """The source string of the scenes with metric labels."""
        return f"scenes:A?count={self.metric_images}&seed={SPLITS['train']}&size={self.size}"

    def test_set(self) -> SceneSource:
        """The scenes that are scored."""
        return SceneSource("A", self.held_out, SPLITS[self.split], self.size)

    def scene_sets(self) -> list[SceneSource]:
        """All sets of scenes."""
        return [
            SceneSource("mixture", self.images, SPLITS["train"], self.size),
            SceneSource("A", self.metric_images, SPLITS["train"], self.size),
            self.test_set(),
        ]


LONG = MetricPlan(folder="demo-metric-long", heads=("sigmoid", "bins"), seeds=(0, 1, 2))


def rows(plan: MetricPlan) -> Iterator[tuple[str, str]]:
    """Yields (start, head) of every metric run of a seed."""
    for head in plan.heads:
        for start in STARTS:
            yield start, head


def stages(plan: MetricPlan) -> list[Stage]:
    """The training runs, in the order in which they start once their dependencies are done."""
    out = []
    for seed in plan.seeds:
        relative = plan.run("relative", seed)
        fields = [
            f"input_size={plan.size}",
            f"total_steps={plan.relative_steps}",
            f"optim.decoder_lr={plan.relative_rate}",
            f"data.labelled=({plan.source('mixture', 'train')!r},)",
        ]
        out.append(_train("relative", seed, "teacher.py:demo", relative, fields))
        for start, head in rows(plan):
            whole = "relative" if head == "bins" else "decoder"
            first = (relative, whole) if start == "tuned" else ("demo-encoder", "encoder")
            fields = [
                f"input_size={(plan.size, plan.size) if head == 'bins' else plan.size}",
                f"total_steps={plan.metric_steps}",
                f"model.max_depth={RANGE}",
                f"camera.focal={plan.focal}",
                f"init_from={first[0]}",
                f"init_parts={first[1]}",
                f"data.labelled=({plan.metric_source()!r},)",
                "eval.every=0",
            ]
            name = f"{start}-{head}"
            after = (f"relative-{seed}",) if start == "tuned" else ()
            workdir, config = plan.run(name, seed), f"metric.py:demo,head={head}"
            out.append(_train(name, seed, config, workdir, fields, after))
    return out


def _train(name, seed, config, workdir, fields, after=()) -> Stage:
    flags = [f"--config.{field}" for field in (*fields, f"seed={seed}")]
    command = ("train", f"--config=configs/{config}", f"--workdir={workdir}", *flags)
    return Stage(name, seed, command, workdir, after)


# Scores


def candidates_of(plan: MetricPlan) -> Iterator[tuple[str, int, Candidate]]:
    """Yields (row, seed, candidate) for everything to be scored, seed by seed."""
    from depth_anything_jax.inference import predictor
    from depth_anything_jax.evaluation.runner import predictors

    batch = predictor.batch_of(20)
    depth = middle_depth(SceneSource("A", plan.metric_images, SPLITS["train"], plan.size))
    for seed in plan.seeds:
        yield (
            "constant",
            seed,
            predictors.of_network(
                lambda images: np.full(images.shape[:3], depth, np.float32), kind="metric"
            ),
        )
        for start, head in rows(plan):
            name = f"{start}-{head}"
            yield name, seed, predictors.make(plan.run(name, seed), batch_size=batch)


def middle_depth(source: Sequence[Mapping[str, Any]] | SceneSource) -> float:
    """Computes the geometric mean of all labels within the range: the best constant for SiLog."""
    total, count = 0.0, 0
    for i in range(len(source)):
        record = source[i]
        depth = record["depth"].astype(np.float64)
        logs = np.log(depth[record["valid"] & (depth < RANGE)])
        total, count = total + logs.sum(), count + logs.size
    return float(np.exp(total / count))


def score_all(plan: MetricPlan, tell: Callable[[str], None]) -> Scores:
    """Scores every row per image, in metres, under the protocol zoe; prints a line for each."""
    from depth_anything_jax.evaluation.runner import loop

    found: dict[str, dict[str, list[np.ndarray]]] = {}
    source = plan.test_set()
    for row, seed, candidate in candidates_of(plan):
        by = found.setdefault(row, {m: [] for m in METRICS})
        for alignment, columns in ALIGNMENTS.items():
            switches: dict[str, Any] = {"max_depth": RANGE, "alignment": alignment}
            if not candidate.own_size:
                switches["input_size"] = plan.size
            scores = loop.evaluate_candidate(candidate, source, protocol="zoe", switches=switches)
            if scores.skipped:
                raise RuntimeError(f"{row}: {scores.skipped} scenes have no score")
            for metric, name in columns.items():
                by[metric].append(scores.of(name))
        tell(f"{row}-{seed}: " + ", ".join(f"{m} {np.mean(by[m][-1]):.3f}" for m in METRICS))
    return {row: {m: np.array(v) for m, v in by.items()} for row, by in found.items()}


def verdict(found: metrics.Interval, metric: str) -> str:
    """Interprets an interval of tuned - scratch: "better", "worse" or "no effect measured"."""
    if not found.clear:
        return "no effect measured"
    return "better" if (found.mean < 0) != (metric == "delta1") else "worse"


def table(plan: MetricPlan, scores: Scores) -> str:
    """Formats the table and the comparisons as Markdown, which is also readable in a terminal."""
    from depth_anything_jax.evaluation.scores import metrics

    titles = {"constant": "one depth everywhere"}
    titles |= {f"{s}-{h}": f"{STARTS[s]} ({h})" for s, h in rows(plan)}
    lines = ["| | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for row, title in titles.items():
        cells = [f"{scores[row][m].mean():.3f}" for m in METRICS]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += ["", "| difference (95 % interval over images) | " + " | ".join(METRICS.values())]
    lines[-1] += " |"
    lines.append("|---" * (len(METRICS) + 1) + "|")
    for head in plan.heads:
        a, b = scores[f"tuned-{head}"], scores[f"scratch-{head}"]
        found = {m: metrics.paired_interval(a[m], b[m]) for m in METRICS}
        cells = [
            f"{i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}] {verdict(i, m)}" for m, i in found.items()
        ]
        lines.append(
            f"| relative depth first − from scratch ({head}) | " + " | ".join(cells) + " |"
        )
    if len(plan.seeds) > 1:
        lines += ["", "| AbsRel, seed by seed | " + " | ".join(f"seed {s}" for s in plan.seeds)]
        lines[-1] += " |"
        lines.append("|---" * (len(plan.seeds) + 1) + "|")
        for head in plan.heads:
            tuned, scratch = (scores[f"{s}-{head}"]["abs_rel"] for s in ("tuned", "scratch"))
            each = " | ".join(f"{x:+.3f}" for x in (tuned - scratch).mean(1))
            lines.append(f"| relative depth first − from scratch ({head}) | {each} |")
    return "\n".join(lines)


# Report


def picture(plan: MetricPlan) -> tuple[list[str], np.ndarray]:
    """Returns column titles and an image: rows of RGB | predictions | label, and a colour bar."""
    from PIL import Image

    from depth_anything_jax.models.outputs import to_metres
    from depth_anything_jax.inference import predictor
    from depth_anything_jax.visualization import colormaps
    from depth_anything_jax.visualization import colorbars

    source = plan.test_set()
    shown = range(0, len(source), max(1, len(source) // PICTURED))[:PICTURED]
    maps: dict[int, list[np.ndarray]] = {i: [] for i in shown}
    columns = ["scene"]
    for row, seed, candidate in candidates_of(plan):
        if seed != plan.seeds[0] or row == "constant":
            continue
        columns.append(row)
        assert candidate.predict is not None
        pairs = [(i, candidate.prepare(source[i]["image"], plan.size)) for i in shown]
        for i, output in candidate.predict(pairs):
            focal = source[i]["camera"].focal  # the network's input has the scene's size
            maps[i].append(to_metres(output, focal, candidate.focal))
    columns.append("label")
    lines = []
    for i in shown:
        record = source[i]
        label = record["depth"]
        counts = record["valid"] & (label <= RANGE)
        drawn = [(m, None) for m in maps[i]] + [(label, counts)]
        tiles = [record["image"]]
        for metres, valid in drawn:
            tiles.append(colormaps.colourise(metres, valid, limits=(0, RANGE), colormap=COLOURS))
        lines.append(np.concatenate([np.pad(t, ((1, 1), (1, 1), (0, 0))) for t in tiles], axis=1))
    whole = Image.fromarray(np.concatenate(lines))
    return columns, np.asarray(colorbars.below(whole, COLOURS, 0, RANGE, "m", invert=True))


def facts(plan: MetricPlan, marks: dict[str, Any]) -> list[str]:
    """Sentences printed below every table."""
    import jax

    seconds = {k: v["seconds"] for k, v in marks.items()}
    total = seconds.pop("all")
    runs = ", ".join(f"{k} {v:.0f} s" for k, v in seconds.items())
    return [
        f"Rendered scenes of {plan.size} pixels. Relative depth: {plan.images} of all kinds, "
        f"{plan.relative_steps} steps. Metres: {plan.metric_images} of domain A, "
        f"{plan.metric_steps} steps for either start. Scored: {plan.held_out} held-out scenes of A "
        f"({plan.split} set), labels up to {RANGE:g} m, protocol zoe; in the last column with each "
        "map's median set to its label's.",
        f"The scenes' lenses vary, so metres are learned for a canonical focal length of "
        f"{plan.focal} pixels (docs/metric.md), for either start.",
        "Both starts use the demo's encoder, pre-trained on rendered pictures without depth; "
        "relative pre-training adds its own steps, scenes and labels.",
        "Rates are those of configs/metric.py:demo for either start. Intervals are paired "
        f"bootstraps over images, of {len(plan.seeds)} training seed(s)"
        + ("." if len(plan.seeds) > 1 else ": they do not include the variance of training."),
        f"jax {jax.__version__}, {len(cores())} CPU cores. Time of each stage: {runs}; "
        f"{total / 60:.1f} min in total, with stages in parallel.",
    ]


def write(plan: MetricPlan, scores: Scores, marks: dict[str, Any], docs: str) -> None:
    """Writes report.html, scores.json and, on request, the table and picture for docs/."""
    from depth_anything_jax.visualization import html_report
    from depth_anything_jax.data.file_formats import formats

    text, (columns, drawn) = table(plan, scores), picture(plan)
    summary = {row: {m: v.mean(1).tolist() for m, v in by.items()} for row, by in scores.items()}
    pathlib.Path(plan.path("scores.json")).write_text(json.dumps(summary, indent=1))
    sentences, legend = facts(plan, marks), " | ".join(columns)
    points = "".join(f"<li>{html.escape(s)}</li>" for s in sentences)
    page = html_report.page(
        "Metres on rendered scenes",
        f"{html_report.tables(text)}<ul>{points}</ul><p>{html.escape(legend)}</p>"
        f"<img src='{html_report.inlined(drawn)}'>",
        heading="Does relative depth help metres?",
    )
    pathlib.Path(plan.path("report.html")).write_text(page, encoding="utf-8")
    if not docs:
        return
    folder, stem = pathlib.Path(docs), pathlib.Path(plan.folder).name
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / f"images/{stem}.png").write_bytes(formats.encode_png(np.ascontiguousarray(drawn)))
    lines = [
        f"# What `make {stem}` showed",
        "",
        f"{time.strftime('%Y-%m-%d')}. Does relative depth help metres?",
        "",
        text,
        "",
        *(f"- {s}" for s in sentences),
        "",
        legend,
        "",
        f"![scenes, predictions and labels in metres](images/{stem}.png)",
        "",
    ]
    (folder / f"{stem}.md").write_text("\n".join(lines), encoding="utf-8")


def demo(plan: MetricPlan, *, docs: str = "", jobs: int = 0) -> Scores:
    """Runs the unfinished stages, then scores and reports."""
    progress = Progress(plan, stages(plan))
    ran = progress.run(plan.scene_sets(), jobs)
    scores = progress.scored(lambda tell: score_all(plan, tell), [plan.split], ran)
    write(plan, scores, progress.marks.read(), docs)
    print(table(plan, scores))
    progress.written()
    return scores


def main() -> None:
    """The command line."""
    from absl import app, flags, logging

    from depth_anything_jax.utils import command_line

    long = flags.DEFINE_boolean("long", False, "both heads, three seeds")
    head = flags.DEFINE_enum("head", "sigmoid", ["sigmoid", "bins"], "of the short one")
    docs = flags.DEFINE_string("docs", "", "a folder for table and picture as Markdown")
    folder = flags.DEFINE_string("folder", "", "where it lives; else demo-metric, …")
    jobs = flags.DEFINE_integer("jobs", 0, "programs at a time; 0: one a core, at most four")
    split = flags.DEFINE_enum("split", "test", ["test", "val"], "val: to choose lengths and rates")

    def run(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax logs what it opens and closes
        if jobs.value < 0:
            raise app.UsageError(f"--jobs={jobs.value}: 1 or more, or 0 for what suits the machine")
        if long.value and head.value != "sigmoid":
            raise app.UsageError("--long has both heads: leave --head out")
        plan = LONG if long.value else MetricPlan(heads=(head.value,))
        plan = dataclasses.replace(plan, split=split.value, folder=folder.value or plan.folder)
        demo(plan, docs=docs.value, jobs=jobs.value)

    groups: dict[str, list[Any]] = {
        "Size": [long, head, jobs],
        "Output": [folder, docs],
        "Comparison": [split],
    }
    command_line.start(run, doc=__doc__ or "", groups=groups)


if __name__ == "__main__":
    main()
