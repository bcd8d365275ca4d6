"""docs/benchmarks.md from the cards: what each reader looks for and what to know of its set.

python -m depth_anything_jax.data.benchmarks.document > docs/benchmarks.md
"""

import inspect

from depth_anything_jax.data import benchmarks

HEAD = """# Evaluation sets

Every set on this page is read as it is downloaded: `benchmarks.make("nyu", FOLDER)`. The sets were
not available here; their readers are tested on tiny copies in the same layout.

A reader counts: where images, depth maps or masks are missing it says which, and only
`partial=True` goes on with a part. Lists that a split needs and the download lacks are given by
`list_file=`. Any other folder of RGB-D pairs is read through a manifest ([data.md](data.md)):
`--data rgbd:FOLDER`. HDF5 and MATLAB files need the extra `[eval]`. What stands after "not
verified" was written down without the data at hand.

This page is written by `python -m depth_anything_jax.data.benchmarks.document` from the cards
beside the readers; a test holds both together.
"""


def document() -> str:
    """The page."""
    parts = [HEAD]
    for name, card in benchmarks.cards().items():
        options = list(inspect.signature(benchmarks.READERS[name]).parameters)[1:]
        rows = {
            "split": card.split,
            "images": card.images,
            "units": card.units,
            "layout": card.layout,
            "where": card.where,
            "licence": card.licence,
            "size": card.size,
            "cite": card.citation,
            "options": ", ".join(options) or "none",
            "not verified": "; ".join(card.unverified),
        }
        lines = [f"## {name}: {card.title}", ""]
        lines += [f"- {title}: {text}" for title, text in rows.items() if text]
        lines += ["- traps:", *(f"  - {trap}" for trap in card.traps)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(document(), end="")
