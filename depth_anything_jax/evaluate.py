"""Score anything that predicts depth, on any labelled data, under a named protocol.

    python -m depth_anything_jax.evaluate --checkpoint runs/student --dataset nyu --data NYU_FOLDER
    python -m depth_anything_jax.evaluate --checkpoint runs/student --protocol midas \\
        --checkpoint transformers:Intel/dpt-large --checkpoint baseline:mean \\
        --dataset nyu --data NYU --dataset 'kitti?list_file=eigen.txt' --data KITTI --out scores
    python -m depth_anything_jax.evaluate --data 'rgbd:pairs/manifest.json?datasets=nyu' \\
        --checkpoint predictions:from_another_tool --kind metric
    python -m depth_anything_jax.evaluate --checkpoint depth-anything/Depth-Anything-V2-Small \\
        --checkpoint runs/student --relative_to runs/student --dataset da2k --data DA-2K
    python -m depth_anything_jax.evaluate --checkpoint predictions:maps --data 'pairs:rgb?depths=gt'

--checkpoint is a run, a file, a folder, a hub id, or one of the candidates above
(evaluation/runner/predictors.py). With --dataset, each --data is the folder of an evaluation set in
its original layout (docs/benchmarks.md); without, each is a source as training reads it
(docs/data.md).

Without --protocol it is `da` for relative predictions and `zoe` for metric ones;
evaluation/protocols/protocol.py has the switches, and --switch crop=garg changes one. Two numbers
are comparable exactly when their protocol's hash is the same, and it stands beside every number.
Pairs of points (da2k, diw) have rules and a hash of their own, whatever the protocol.

--out receives table.md, scores.json (each image), scores.csv, and report.html with the worst,
median and best images; a run that was killed goes on with the same command and --resume.
--save_predictions FOLDER writes the network's maps, and --checkpoint predictions:FOLDER scores them
again, as it scores what the predict program wrote.
--corrupt all, fog or fog:3 adds every set under these corruptions
(evaluation/runner/corruptions.py, extra [corrupt]). Several processes, started alike on each host
with --distributed, share the images.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from depth_anything_jax.data import registry
from depth_anything_jax.data.sources.base import Source
from depth_anything_jax.evaluation.protocols import overrides, table
from depth_anything_jax.evaluation.report import progress_bar, tables
from depth_anything_jax.evaluation.runner import corruptions
from depth_anything_jax.parallel import processes

if TYPE_CHECKING:
    from depth_anything_jax.evaluation.report.session import Session

Row = dict[str, Any]


def open_sets(datasets: Sequence[str], data: Sequence[str]) -> list[tuple[str, Source]]:
    """(name with its options, source) of every set asked for.

    Args:
      datasets: names of evaluation sets with options, "kitti?split=eigen_697"; none: `data` are
        sources as training reads them.
      data: a folder for each of `datasets`, or the sources.

    Raises:
      ValueError: not one folder for each set; what the sets' readers raise.
    """
    if not datasets:
        return [(text, registry.make(registry.parse(text))) for text in data]
    if len(datasets) != len(data):
        raise ValueError(
            f"{len(datasets)} --dataset and {len(data)} --data: give one folder for each, in order"
        )
    from depth_anything_jax.data import benchmarks

    opened = []
    for text, folder in zip(datasets, data, strict=True):
        name, _, query = text.partition("?")
        options = registry.parse(f"folder:?{query}")
        del options["type"]
        opened.append((text, benchmarks.make(name, os.path.expanduser(folder), **options)))
    return opened


def evaluate(
    checkpoint: str,
    sets: Sequence[tuple[str, Source]],
    *,
    protocol: str = "",
    kind: str | None = None,
    views: Sequence[str] = (),
    changed: Mapping[str, Any] | None = None,
    published_as: str | None = None,
    limit: int = 0,
    batch_size: int = 0,
    boundary: bool = False,
    allow_missing_files: bool = False,
    load: Mapping[str, Any] | None = None,
    threads: int = 2,
    session: "Session | None" = None,
    save_predictions: str = "",
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Scores of one candidate on several sets, set by set.

    Args:
      checkpoint: what `predictors.make` takes; `kind`, `allow_missing_files` and `load` go to it.
      sets: as `open_sets` gives them.
      protocol: a name; "" goes by the kind that is scored.
      views: kinds to score it as, from one look at each image; none: what the protocol asks for.
      changed: switches of the protocol. Without "input_size" a metric model sees images at the side
        that it learned at, and its rows say so.
      published_as: a name of `published.MODELS`, or "none"; None: by the weights' own name.
      limit: images of each set; 0: all.
      batch_size: images at a time; 0: one a device.
      boundary: whether boundary F1 is wanted.
      threads: that read, and as many that score.
      session: log, share and report of a run; None keeps nothing.
      save_predictions: a folder for the network's maps, to be scored again as predictions:FOLDER.

    Yields:
      Of each source: a row for each set in it (view and protocol), and one for each image and view.
      Means over more than one set are not given: sets are not of equal worth.
    """
    from depth_anything_jax.evaluation import protocols
    from depth_anything_jax.evaluation.report import published
    from depth_anything_jax.evaluation.report.session import Session
    from depth_anything_jax.evaluation.runner import frame_selection, loop, predictors, stream
    from depth_anything_jax.evaluation.runner.prediction_writer import PredictionWriter
    from depth_anything_jax.evaluation.scores import pairs
    from depth_anything_jax.parallel import compile_times

    session = session or Session()

    model = published.check(published_as) if published_as else None
    changed = dict(changed or {})
    of_pairs = [title.partition("?")[0] in pairs.MEASURES for title, _ in sets]
    vain = changed.keys() - pairs.concerned(changed).keys() if all(of_pairs) else ()
    if vain:
        raise ValueError(
            f"{', '.join(sorted(vain))} changes nothing in pairs of points; their switches are "
            f"{', '.join(pairs.SWITCHES)}"
        )
    chosen = changed.get("frames", 0), changed.get("frame_step", 1)
    sets = [
        (title, source if pointed else frame_selection.select(source, *chosen))
        for (title, source), pointed in zip(sets, of_pairs, strict=True)
    ]
    wanted, others = [], []
    for _, source in sets:
        keys = [source.key(i) for i in range(len(source))]
        wanted += keys[: limit or None]
        others += keys[limit:] if limit else []
    candidate = predictors.make(
        checkpoint,
        kind=kind,
        batch_size=batch_size,
        keys=wanted,
        known=others,
        allow_missing_files=allow_missing_files,
        load=load,
    )
    if candidate.stats is not None and session.first:  # a network of ours
        if soon := compile_times.line("predict"):
            print(soon, file=sys.stderr, flush=True)
    if model is None:
        model = published.model_of(candidate.origin)
    keep = None
    if save_predictions:
        if candidate.predict is None:
            raise ValueError(f"--save_predictions: {checkpoint} is no network, it predicts nothing")
        everyone = [*wanted, *others]
        keep = PredictionWriter(save_predictions, candidate.kind, everyone)
    for view in views:
        protocols.check_view(candidate.kind, view)
    first = views[0] if views else candidate.kind
    name = session.version(protocol or protocols.default(first))
    usual = protocols.get(name, first).input_size
    if candidate.learned_at not in (None, usual):
        changed.setdefault("input_size", candidate.learned_at)
    for (title, source), pointed in zip(sets, of_pairs, strict=True):
        corruption = corruptions.facts(source, sets)
        if pointed:  # order is the same in all views
            asked: Sequence[str] = (candidate.kind,)
            switches = pairs.concerned(changed)
            label = overrides.label(pairs.NAME, switches)
            how, space = "image", ""
        else:
            asked = views or protocols.views(name, candidate.kind)
            switches = changed
            label = overrides.label(name, switches)
            general = protocols.get(name, asked[0])
            how, space = (  # in all sets
                changed.get(switch, getattr(general, switch)) for switch in ("aggregate", "space")
            )
        about = {"checkpoint": checkpoint, "kind": candidate.kind, "protocol": label}
        about["space"] = space
        seen_as = "" if tuple(asked) == (candidate.kind,) else f" as {', '.join(asked)}"
        called = " ".join(map(str, (title, *corruption.values())))
        say = f"{checkpoint} on {called}: {candidate.kind}{seen_as}, {label}"
        ledger = session.ledger(candidate, source, set=title, label=label, views=list(asked))
        start = time.monotonic()
        with progress_bar.bar(say, quiet=not session.first) as tell:
            found = loop.evaluate_views(
                candidate,
                source,
                views=asked,
                protocol=name,
                switches=switches,
                limit=limit,
                boundary=boundary,
                threads=threads,
                progress=tell,
                ledger=ledger,
                keep=keep,
            )
        session.note(say, candidate.stats, ledger, time.monotonic() - start)
        rows, images = [], []
        split = getattr(source, "expected", None) or len(source)
        for view, scores in found.items():
            every = [*scores.per_image, *scores.skipped_images]
            mine = {**about, **corruption, "view": view}
            new = tables.rows(every, mine, reader=title, split=split, how=how)
            for row in new:
                clean = not corruption.get("severity")
                row["published"], row["not_compared"] = published.beside(row, clean and model or "")
            rows += new
            rules = stream.ProtocolResolver([view], name, switches)
            session.show(candidate, source, new, every, rules)
            for image in every:
                fields = image._asdict()
                digest = fields.pop("protocol")
                place = {"reader": title, "set": image.dataset or title, "hash": digest}
                images.append({**mine, **place, **fields})
        yield rows, images


def _published(names: Sequence[str], checkpoints: Sequence[str]) -> list[str | None]:
    """The name for each checkpoint; None: by the weights' own.

    Raises:
      ValueError: not one for each, or a name of which nothing was published.
    """
    from depth_anything_jax.evaluation.report import published

    if not names:
        return [None] * len(checkpoints)
    if len(names) != len(checkpoints):
        raise ValueError(
            f"{len(names)} --published and {len(checkpoints)} --checkpoint: give one for each, in "
            "order; none where nothing is to stand beside"
        )
    for name in names:
        published.check(name)
    return list(names)


def main() -> None:
    """The command line."""
    from absl import flags, logging

    from depth_anything_jax.checkpoints import weight_flags
    from depth_anything_jax.utils import command_line

    several, number = flags.DEFINE_multi_string, flags.DEFINE_integer
    checkpoint = several("checkpoint", None, "what to score", required=True)
    dataset = several("dataset", [], "evaluation set, NAME[?option=value]")
    data = several("data", None, "folder of each --dataset, or labelled source", required=True)
    protocol = flags.DEFINE_string("protocol", "", ", ".join(table.TABLE))
    kind = flags.DEFINE_string("kind", None, "of predictions: and baseline:")
    views = several("as", [], "score it as this lesser kind")
    switch = several("switch", [], "NAME=VALUE of the protocol, changed")
    size = number("size", None, "short side of the input in pixels: --switch input_size")
    limit = number("limit", 0, "images of each set; 0: all", lower_bound=0)
    batch = number("batch_size", 0, "images at a time; 0: one a device", lower_bound=0)
    boundary = flags.DEFINE_boolean("boundary", False, "boundary F1, too")
    missing = flags.DEFINE_boolean("allow_missing_files", False, "predictions: may lack images")
    load, of_weights = weight_flags.define()
    saved = flags.DEFINE_string(
        "save_predictions", None, "new folder for the network's maps, for predictions:FOLDER"
    )
    public = several("published", [], "whose published numbers stand beside; for each checkpoint")
    reference = flags.DEFINE_string("relative_to", None, "the --checkpoint to compare others with")
    corrupted = several("corrupt", [], "all or KIND[:severity]")
    out = flags.DEFINE_string("out", None, "folder for scores, report.html and the log")
    resume = flags.DEFINE_boolean("resume", False, "go on with the run in --out that was killed")
    threads = number(
        "threads", 0, "that read, and as many that score; 0: one a core, at most 8", lower_bound=0
    )
    distributed = flags.DEFINE_boolean(
        "distributed", False, "this is one of several processes; see processes.join_processes"
    )

    def run(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        with processes.together(distributed.value):
            work()

    def work() -> None:
        rows: list[Row] = []
        images: list[Row] = []
        compared: list[Row] = []
        problem, first = "", True
        try:
            resized = [] if size.value is None else [f"input_size={size.value}"]
            changed = overrides.parse([*switch.value, *resized])
            names = _published(public.value, checkpoint.value)
            if reference.value and reference.value not in checkpoint.value:
                raise ValueError(
                    f"--relative_to={reference.value} is none of the --checkpoint: "
                    f"{', '.join(checkpoint.value)}"
                )
            corruptions.check(checkpoint.value, corrupted.value)
            if saved.value and (corrupted.value or len(checkpoint.value) > 1):
                raise ValueError(
                    "--save_predictions holds one map of each image: give one --checkpoint and no "
                    "--corrupt"
                )
            if resume.value and not out.value:
                raise ValueError("--resume goes on with the run in --out: give that folder")
            from depth_anything_jax.evaluation.report import session
            from depth_anything_jax.evaluation.runner import process_share

            share = process_share.this_process() if distributed.value else process_share.ALL
            first = share.index == 0
            folder = session.folder_of_all(out.value, share, resume=resume.value, saved=saved.value)
            opened = open_sets(dataset.value, data.value)
            sets = corruptions.expand(opened, corrupted.value)
            facts = {
                "checkpoint": checkpoint.value, "sets": [title for title, _ in opened],
                "corrupt": corrupted.value, "protocol": protocol.value,
                "kind": kind.value, "as": views.value, "switches": changed,
                "limit": limit.value, "boundary": boundary.value,
                "allow_missing_files": missing.value, "load": load(),
            }  # fmt: skip
            if saved.value:  # older logs do not have it
                facts["save_predictions"] = saved.value
            with session.Session(folder, facts, resume=resume.value, share=share) as kept:
                try:
                    for source, public_name in zip(checkpoint.value, names, strict=True):
                        for found in evaluate(
                            source, sets,
                            protocol=protocol.value, kind=kind.value, views=views.value,
                            changed=changed, published_as=public_name, limit=limit.value,
                            batch_size=batch.value, boundary=boundary.value,
                            allow_missing_files=missing.value, load=load(),
                            threads=threads.value or min(8, os.cpu_count() or 1), session=kept,
                            save_predictions=saved.value or "",
                        ):  # fmt: skip
                            rows += found[0]
                            images += found[1]
                            kept.write(rows, images, last=False)
                    if reference.value:
                        compared = corruptions.compare(rows, images, reference.value)
                finally:  # what stops a later set costs nothing of those before it
                    rows += corruptions.mean_rows(rows)
                    if rows:
                        kept.write(rows, images, compared)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            problem = command_line.told(error)
        if rows and first:
            print(tables.text(rows, compared))
        sys.exit(problem or 0)

    groups = {
        "What is scored": [checkpoint, kind, views, missing, *of_weights],
        "Data": [dataset, data, limit, corrupted],
        "Protocol": [protocol, switch, size, boundary],
        "Output": [out, resume, saved, public, reference],
        "Speed": [batch, threads, distributed],
    }
    command_line.start(run, doc=__doc__ or "", groups=groups, needs=[checkpoint, data])


if __name__ == "__main__":
    main()
