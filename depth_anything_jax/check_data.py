"""Looks at data before they are trained on or scored: what is there, and what is wrong with it.

    python -m depth_anything_jax.check_data rgbd:pairs/manifest.json folder:photos
    python -m depth_anything_jax.check_data --records 0 --out check --eval benchmark:nyu?path=NYU \\
        rgbd:pairs/manifest.json

Tells of each source: records, sizes, kinds of labels, percentiles of depth, shares of valid pixels
and sky, cameras, EXIF orientations, files that are not read. Wrong are records that cannot be read
(labels of another view among them), labels without valid pixels or of one value, a value that seems
to stand for "no measurement", depths that cannot be metres, and images of a training source that
are nearly the same as one of --eval. --out writes a page with pictures. Exit status: 0 nothing is
wrong; 1 something is, and it is listed at the end.
"""

from __future__ import annotations

import argparse
import html
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np

from depth_anything_jax.data import image_hashes, inspection, registry
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.inspection import Inspection, Look
from depth_anything_jax.data.training_sets import papers_count
from depth_anything_jax.utils.map_kinds import MapKind
from depth_anything_jax.visualization import colormaps, contact_sheets, html_report

RECORDS = 500  # of a source that are read by default
PICTURES = 8  # of a source on its sheet


def check(
    sources: Sequence[str],
    evaluated: Sequence[str] = (),
    *,
    records: int = RECORDS,
    threads: int = 2,
    pictures: int = 0,
) -> tuple[list[Inspection], list[str]]:
    """Inspects sources; returns what was seen of each, and what is wrong, a sentence each.

    Args:
      sources: to train on, as `registry.parse` reads them.
      evaluated: to be scored on; images of `sources` must not be among them.
      records: of each source to read, evenly spaced; 0: all.
      threads: that read.
      pictures: records of each source whose thumbnails are kept.
    """
    found, wrong = [], []
    for text in (*sources, *evaluated):
        try:
            source = registry.make(registry.parse(text))
        except (ValueError, OSError, ImportError) as error:
            wrong.append(f"{text}: {error}")
            continue
        seen = inspection.inspect(
            source,
            most=records,
            threads=threads,
            hashes=bool(evaluated),
            pictures=pictures,
            files=True,
        )
        seen.name = text  # two sources may have one name
        found.append(seen)
        wrong += [f"{text}: {problem}" for problem in seen.problems()]
    for train in (x for x in found if x.name in sources):
        for scored in (x for x in found if x.name in evaluated):
            wrong += _leaks(train, scored)
    return found, wrong


def _leaks(train: Inspection, scored: Inspection) -> list[str]:
    """Tells of images to train on that are nearly the same as images to be scored on."""
    pairs: dict[int, image_hashes.Pair] = {}
    for mirrored in (0, 1):
        for pair in image_hashes.near_duplicates(
            [x.hashes[0] for x in train.looks], [x.hashes[mirrored] for x in scored.looks]
        ):
            pairs.setdefault(pair.second, pair)
    if not pairs:
        return []
    shown = [
        f"{train.looks[p.first].key} = {scored.looks[p.second].key}"
        for p in sorted(pairs.values(), key=lambda p: p.bits)[:5]
    ]
    return [
        f"{len(pairs)} of {len(scored.looks)} images of {scored.name} are nearly the same as "
        f"images of {train.name}: {'; '.join(shown)}"
    ]


def report(found: Inspection) -> str:
    """Describes a source, one fact a line."""
    looks = found.looks
    labelled = [x for x in looks if x.kind is not None]
    lines = [f"{found.records:,} records, {found.seen:,} read"]
    lines += filter(None, [papers_count(found.name.partition(":")[0])])
    lines.append(f"images {inspection.sizes(x.size for x in looks)}")
    grey = sum(x.grey for x in looks)
    lines += [f"{grey} images are grey"] * bool(grey)
    turned = Counter(x.orientation for x in looks if x.orientation != 1)
    lines += [f"EXIF orientation {o}: {count} images" for o, count in sorted(turned.items())]
    if labelled:
        lines.append(f"labels {inspection.sizes(x.label_size for x in labelled)}")
        for kind, count in sorted(Counter(x.kind for x in labelled if x.kind).items()):
            values = zip(inspection.PERCENTILES, found.percentiles(kind), strict=False)
            unit = "m, " if kind is MapKind.DEPTH else ""
            told = ", ".join(f"{p} %: {v:.4g}" for p, v in values)
            lines.append(f"{count} labels of {kind}; {unit}percentiles {told}")
        valid = [x.valid[0] for x in labelled]
        low, middle = np.min(valid), np.median(valid)
        lines.append(f"valid pixels {middle:.1%} (median), {low:.1%} (least)")
        lines.append(f"sky {np.mean([x.sky for x in labelled]):.1%}")
    cameras = sum(x.has_camera for x in looks)
    lines.append(f"cameras {cameras} of {len(looks)}")
    for reason, count in found.left_out.items():
        lines.append(f"left out: {count} {reason}")
    if found.unread:
        kinds_of = ", ".join(f"{count} {suffix}" for suffix, count in found.unread.items())
        lines.append(f"files that are not read: {kinds_of}")
    return "\n".join(f"- {line}" for line in lines)


def sheet(found: Inspection) -> np.ndarray | None:
    """Draws the images and labels that were kept; None where there are none."""
    rows = [_row(x) for x in found.looks if x.thumbnails is not None]
    if not rows:
        return None
    widest = max(r.shape[1] for r in rows)
    wide = [
        np.pad(r, ((0, 0), (0, widest - r.shape[1]), (0, 0)), constant_values=255) for r in rows
    ]
    return np.concatenate(wide)


def _row(look: Look) -> np.ndarray:
    assert look.thumbnails is not None
    image, label, valid = look.thumbnails
    tiles = [contact_sheets.tile(image, look.key[-26:], "{}x{}".format(*look.size))]
    if label is not None and valid is not None and look.label_size is not None:
        nearness = np.divide(1, label, out=np.zeros_like(label), where=valid)
        colours = colormaps.colourise(nearness if look.kind is MapKind.DEPTH else label, valid)
        low, high = np.percentile(look.values, [1, 99]) if look.values.size else (0, 0)
        tiles.append(
            contact_sheets.tile(
                colours,
                f"{look.kind} {low:.3g} to {high:.3g}",
                "{}x{}, {:.0%} valid".format(*look.label_size, look.valid[0]),
            )
        )
    return contact_sheets.row(*tiles)


def write_page(folder: pathlib.Path, found: Sequence[Inspection], wrong: Sequence[str]) -> None:
    """Writes index.html, which holds everything, and each source's sheet as a PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    body = "<h2>What is wrong</h2>" + html_report.tables(
        "\n".join(f"- {line}" for line in wrong) or "Nothing was found."
    )
    for number, source in enumerate(found):
        body += f"<h2>{html.escape(source.name)}</h2>" + html_report.tables(report(source))
        picture = sheet(source)
        if picture is not None:
            (folder / f"source{number}.png").write_bytes(formats.encode_png(picture))
            body += f"<img src='{html_report.inlined(picture)}'>"
    page = html_report.page("Data check", body)
    (folder / "index.html").write_text(page, encoding="utf-8", errors="replace")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="TYPE:PATH?field=value")
    scored = "a source to be scored on, which training must not see; may be given again"
    parser.add_argument(
        "--eval", action="append", default=[], metavar="SOURCE", dest="evaluated", help=scored
    )
    parser.add_argument("--records", type=int, default=RECORDS, help="of a source to read; 0: all")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="that read")
    parser.add_argument("--out", help="folder for index.html and sheets of pictures")
    options = parser.parse_args(argv)
    if options.records < 0 or options.threads < 1:
        parser.error("--records must be 0 or more, --threads 1 or more")
    found, wrong = check(
        options.sources,
        options.evaluated,
        records=options.records,
        threads=options.threads,
        pictures=PICTURES if options.out else 0,
    )
    for source in found:
        print(f"{source.name}\n{report(source)}\n")
    if options.out:
        write_page(pathlib.Path(options.out).expanduser(), found, wrong)
    if wrong:
        print(f"{len(wrong)} things are wrong:\n" + "\n".join(f"- {line}" for line in wrong))
        sys.exit(1)
    print("nothing wrong was found")


if __name__ == "__main__":
    main()
