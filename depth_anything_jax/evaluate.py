"""Score anything that predicts depth, on any labelled data, under a named protocol.

    python -m depth_anything_jax.evaluate --checkpoint runs/student --dataset nyu --data NYU_FOLDER
    python -m depth_anything_jax.evaluate --checkpoint runs/student --protocol midas \\
        --checkpoint transformers:Intel/dpt-large --checkpoint baseline:mean \\
        --dataset nyu --data NYU --dataset 'kitti?list_file=eigen.txt' --data KITTI --out scores
    python -m depth_anything_jax.evaluate --data 'rgbd:pairs/manifest.json?datasets=nyu' \\
        --checkpoint predictions:from_another_tool --kind metric

--checkpoint is a run, a file, a folder, a hub id, or one of the candidates above (candidates.py).
With --dataset, each --data is the folder of an evaluation set in its original layout
(docs/benchmarks.md); without, each is a source as training reads it (docs/data.md).

Without --protocol it is `da` for relative predictions and `zoe` for metric ones; protocols.py has
the switches. Two numbers are comparable exactly when their protocol's hash is the same, and it
stands beside every number. --out receives table.md, scores.json (each image), scores.csv and
report.html with the worst, median and best images; log.jsonl lets a killed run go on, with the same
command and --resume.

--corrupt all, fog or fog:3 adds every set under these corruptions (corrupt.py, extra [corrupt]).
Several processes, started alike on each host with --distributed, share the images.
"""

import contextlib
import csv
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from depth_anything_jax.data import sources, specs

if TYPE_CHECKING:
    from depth_anything_jax.evaluation.session import Session

COLUMNS = {
    "abs_rel": "AbsRel",
    "delta1": "δ1",
    "rmse": "RMSE",
    "log10": "log10",
    "silog": "SILog",
    "norm_l1": "norm. L1",
}
Row = dict[str, Any]


def open_sets(datasets: Sequence[str], data: Sequence[str]) -> list[tuple[str, sources.Source]]:
    """(name, source) of every set asked for.

    Args:
      datasets: names of evaluation sets with options, "kitti?split=eigen_697"; none: `data` are
        sources as training reads them.
      data: a folder for each of `datasets`, or the sources.

    Raises:
      ValueError: not one folder for each set; what the sets' readers raise.
    """
    if not datasets:
        return [(text, sources.make(specs.parse(text))) for text in data]
    if len(datasets) != len(data):
        raise ValueError(
            f"{len(datasets)} --dataset and {len(data)} --data: give one folder for each, in order"
        )
    from depth_anything_jax.data import benchmarks

    opened = []
    for text, folder in zip(datasets, data, strict=True):
        name, _, query = text.partition("?")
        if name in ("da2k", "diw"):
            raise ValueError(f"{name} has pairs of points and no depth: not scored here yet")
        options = specs.parse(f"folder:?{query}")
        del options["type"]
        opened.append((name, benchmarks.make(name, os.path.expanduser(folder), **options)))
    return opened


def evaluate(
    checkpoint: str,
    sets: Sequence[tuple[str, sources.Source]],
    *,
    protocol: str = "",
    kind: str | None = None,
    size: int | None = None,
    limit: int = 0,
    batch_size: int = 0,
    boundary: bool = False,
    allow_missing_files: bool = False,
    load: Mapping[str, Any] | None = None,
    threads: int = 2,
    session: "Session | None" = None,
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Scores of one candidate on several sets, set by set.

    Args:
      checkpoint: what `candidates.make` takes; `kind`, `allow_missing_files` and `load` go to it.
      sets: as `open_sets` gives them.
      protocol: a name; "" goes by the kind.
      size: short side of the network's input in pixels; None: the protocol's.
      limit: images of each set; 0: all.
      batch_size: images at a time; 0: one a device.
      boundary: whether boundary F1 is wanted.
      threads: that read, and as many that score.
      session: log, share and report of a run; None keeps nothing.

    Yields:
      Of each source: a row for each set in it (and protocol), and one for each image. Means over
      more than one set are not given: sets are not of equal worth.
    """
    from depth_anything_jax.evaluation import aggregate, candidates, loop, protocols
    from depth_anything_jax.evaluation.session import Session

    session = session or Session()
    wanted, others = [], []
    for _, source in sets:
        keys = [source.key(i) for i in range(len(source))]
        wanted += keys[: limit or None]
        others += keys[limit:] if limit else []
    candidate = candidates.make(
        checkpoint,
        kind=kind,
        batch_size=batch_size,
        keys=wanted,
        known=others,
        allow_missing_files=allow_missing_files,
        load=load,
    )
    name, _ = protocols.named(protocol or protocols.default(candidate.kind))
    how = protocols.get(name, candidate.kind).aggregate  # the same for all its sets
    about = {"checkpoint": checkpoint, "kind": candidate.kind, "protocol": name}
    for title, source in sets:
        corruption = getattr(source, "facts", {})
        if corruption and candidate.look is None:
            raise ValueError(f"{checkpoint} does not look at images: --corrupt has no effect on it")
        called = " ".join(map(str, (title, *corruption.values())))
        say = f"{checkpoint} on {called}: {candidate.kind}, {name}"
        ledger = session.ledger(candidate, source, set=title, protocol=name)
        start = time.monotonic()
        with _bar(say, quiet=not session.first) as progress:
            found = loop.evaluate_candidate(
                candidate,
                source,
                protocol=name,
                size=size,
                limit=limit,
                boundary=boundary,
                threads=threads,
                progress=progress,
                ledger=ledger,
            )
        every = [*found.per_image, *found.skipped_images]
        session.note(say, candidate.stats, len(every), ledger, time.monotonic() - start)
        images = []
        for image in every:
            scores = image._asdict()
            images.append({**about, **corruption, "hash": scores.pop("protocol"), **scores})
        size_of_split = getattr(source, "expected", None) or len(source)
        rows = []
        for part in sorted({(i.dataset, i.protocol) for i in every}):
            mine = [i for i in every if (i.dataset, i.protocol) == part]
            skipped = sum(bool(i.why) for i in mine)
            row = {"set": part[0] or title, "hash": part[1], "images": len(mine) - skipped}
            row |= {"skipped": skipped, "read": len(every), "split": size_of_split}
            rows.append(about | corruption | row | aggregate.means(mine, how))
            rules = loop.rules_of(name, candidate.kind, size=size)
            session.show(candidate, source, rows[-1], mine, rules)
        yield rows, images


@contextlib.contextmanager
def _bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with images a second and the time that is left."""
    from tqdm import tqdm

    # A log gets a line now and then, a terminal a bar that moves.
    pace = {} if sys.stderr.isatty() else {"mininterval": 30, "maxinterval": 30}
    print(title, file=sys.stderr, flush=True) if not quiet else None
    with tqdm(unit=" images", disable=quiet, smoothing=0.1, **pace) as bar:

        def progress(done: int, count: int) -> None:
            if bar.total is None:  # what was there before, or compiled first, has no part in rates
                bar.total, bar.n, bar.initial = count, done, done
                bar.start_t = bar.last_print_t = time.time()
                bar.last_print_n = done
            bar.update(done - bar.n)

        yield progress


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of the sets' rows; what no set has is left out."""
    columns = {c: t for c, t in COLUMNS.items() if any(not math.isnan(r[c]) for r in rows)}
    corrupted = any("corruption" in r for r in rows)
    heads = ["checkpoint", "set", *["corruption"] * corrupted, "protocol", "images"]
    heads += columns.values()
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for r in rows:
        count = f"{r['images']}" + (f" (+{r['skipped']} skipped)" if r["skipped"] else "")
        if r["read"] < r["split"]:
            count += f"; {r['read']} of {r['split']} read"
        cells = [r["checkpoint"], r["set"], f"{r['protocol']} {r['hash']}", count]
        if corrupted:
            cells.insert(2, f"{r.get('corruption', 'none')} {r.get('severity', '')}".strip())
        cells += [f"{r[c]:.4f}" for c in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(
    path: pathlib.Path, rows: Sequence[Row], images: Sequence[Row], speed: Sequence[Row] = ()
) -> None:
    """table.md, scores.json {"sets": …, "images": …, "speed": …} (NaN is null) and scores.csv of
    the images."""

    def plain(row: Row) -> Row:
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}

    (path / "table.md").write_text(table(rows) + "\n", encoding="utf-8")
    found = {"sets": [plain(r) for r in rows], "images": [plain(r) for r in images]}
    found["speed"] = list(speed)
    (path / "scores.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    with open(path / "scores.csv", "w", newline="", encoding="utf-8") as file:
        names = dict.fromkeys(name for row in images for name in row)
        writer = csv.DictWriter(file, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(plain(r) for r in images)


def main() -> None:
    """The command line."""
    from absl import app, flags, logging

    from depth_anything_jax import weight_flags

    several, number = flags.DEFINE_multi_string, flags.DEFINE_integer
    checkpoint = several("checkpoint", None, "what to score; may be given again", required=True)
    dataset = several("dataset", [], "evaluation set, NAME[?option=value]; may be given again")
    data = several("data", None, "folder of each --dataset, or labelled source", required=True)
    protocol = flags.DEFINE_string("protocol", "", "da, midas, marigold, moge, zoe, vda, golden")
    kind = flags.DEFINE_string("kind", None, "of predictions: and baseline:")
    size = number("size", None, "short side of the input in pixels; else the protocol's")
    limit = number("limit", 0, "images of each set; 0: all")
    batch = number("batch_size", 0, "images at a time; 0: one a device")
    boundary = flags.DEFINE_boolean("boundary", False, "boundary F1, too")
    missing = flags.DEFINE_boolean("allow_missing_files", False, "predictions: may lack images")
    load = weight_flags.define()
    flags.adopt_module_key_flags(weight_flags)  # so that --help shows them
    out = flags.DEFINE_string("out", None, "folder for scores, report.html and the log")
    resume = flags.DEFINE_boolean("resume", False, "go on with the run in --out that was killed")
    corrupted = several("corrupt", [], "all or KIND[:severity]; may be given again")
    threads = number("threads", 0, "that read, and as many that score; 0: one a core, at most 8")
    distributed = flags.DEFINE_boolean(
        "distributed", False, "this is one of several processes; see sharding.join_processes"
    )

    def run(argv: list[str]) -> None:
        if argv[1:]:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        logging.set_verbosity(logging.WARNING)
        rows: list[Row] = []
        images: list[Row] = []
        problem = ""
        try:
            if resume.value and not out.value:
                raise ValueError("--resume goes on with the run in --out; give that folder")
            if distributed.value:
                from depth_anything_jax import sharding

                sharding.join_processes()
            from depth_anything_jax.evaluation import corrupt, session

            share = session.this_share(distributed.value)
            path = session.folder_of_all(out.value, share, resume=resume.value)
            names = (
                "checkpoint", "dataset", "protocol", "kind", "size", "limit", "boundary", "corrupt",
                "allow_missing_files",
            )  # fmt: skip
            facts = {name: flags.FLAGS[name].value for name in names} | {"load": load()}
            sets = corrupt.expand(open_sets(dataset.value, data.value), corrupted.value)
            with session.Session(path, facts, resume=resume.value, share=share) as kept:
                for source in checkpoint.value:
                    for found in evaluate(
                        source, sets,
                        protocol=protocol.value, kind=kind.value, size=size.value,
                        limit=limit.value, batch_size=batch.value, boundary=boundary.value,
                        allow_missing_files=missing.value, load=load(),
                        threads=threads.value or min(8, os.cpu_count() or 1), session=kept,
                    ):  # fmt: skip
                        rows += found[0]
                        images += found[1]
                        if path and kept.first:  # what stops a later set costs nothing of this
                            shown = [*rows, *corrupt.mean_rows(rows)]
                            write(path, shown, images, kept.speed)
                            kept.write_report(table(shown))
                rows += corrupt.mean_rows(rows)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            problem = f"{type(error).__name__}: {error}"
        if rows and kept.first:
            print(table(rows))
        sys.exit(problem or 0)

    app.run(run)


if __name__ == "__main__":
    main()
