"""The table of docs/reproduce.md: what each recipe of configs/reproduce.py takes on a TPU slice.

    python benchmarks/reproduce_table.py --compile      # needs libtpu (CONTRIBUTING.md); minutes
    python benchmarks/reproduce_table.py                # prints the table of what is compiled

Each row is a call of tools/compile_check.py with effort -1, kept with its figures, versions and
date in benchmarks/results/reproduce_compile.jsonl. Hours are total_steps times the larger of
arithmetic at the chips' peak and bytes over their links: a lower bound, which no run reaches.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
import runpy
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
KEPT = ROOT / "benchmarks" / "results" / "reproduce_compile.jsonl"
SLICE, CHIPS = "v5e:2x4", 8
ACCUMULATION = {  # of the batch on SLICE, so that a chip keeps at most 12 images, of ViT-L 6
    "hypersim": 2,
    "v1_vits": 2,
    "v1_vitb": 2,
    "v1_vitl": 4,
    "v2_vits": 2,
    "v2_vitb": 2,
    "v2_vitl": 4,
    "public_list": 2,
}


def command(recipe: str) -> list[str]:
    """The call of tools/compile_check.py, as in a shell."""
    return [
        "tools/compile_check.py",
        f"--config=configs/reproduce.py:{recipe}",
        f"--topology={SLICE}",
        f"--config.accumulation={ACCUMULATION[recipe]}",
        "--effort=-1",
    ]


def known() -> dict[str, dict]:
    """What is compiled, by recipe."""
    lines = KEPT.read_text(encoding="utf-8").splitlines() if KEPT.exists() else []
    return {row["recipe"]: row for row in map(json.loads, lines)}


def compile_missing() -> None:
    """Compiles what is not there yet."""
    for recipe in ACCUMULATION:
        if recipe in known():
            continue
        call = command(recipe)
        done = subprocess.run(
            [sys.executable, *call, "--json"], cwd=ROOT, capture_output=True, text=True
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode not in (0, 3) or not lines:
            raise SystemExit(f"{recipe}: {done.stdout[-500:]}{done.stderr[-500:]}")
        row = {"recipe": recipe, "command": " ".join(["python", *call]), **json.loads(lines[-1])}
        row |= {n: importlib.metadata.version(n) for n in ("jax", "jaxlib")}
        row["date"] = datetime.date.today().isoformat()
        with KEPT.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(recipe, f"{row['seconds']:.0f} s", flush=True)


def hours(row: dict, steps: int) -> float:
    """The least that `steps` steps take."""
    return steps * max(row["bounds"]["arithmetic"], row["bounds"]["links"]) / 3600


def table() -> str:
    """What is compiled, as markdown."""
    configs = runpy.run_path(str(ROOT / "configs" / "reproduce.py"))
    lines = [
        "| recipe | images of a step | steps | petaFLOP of a step | GiB of a chip | "
        f"at least, on {SLICE} | chip-hours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe, row in known().items():
        config = configs["get_config"](recipe)
        least = hours(row, config.total_steps)
        needed = (row["peak"] + row["code"]) / 2**30
        fits = "" if row["fits"] else ", does not fit"
        lines.append(
            f"| `{recipe}` | {config.batch_size} | {config.total_steps:,} | "
            f"{CHIPS * row['useful_flops'] / 1e15:.2f} | {needed:.1f}{fits} | {least:.1f} h | "
            f"{CHIPS * least:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true")
    if parser.parse_args().compile:
        compile_missing()
    print(table())


if __name__ == "__main__":
    main()
