"""The tables of docs/tpu.md: teachers and students on TPU slices, compiled without a TPU.

    python benchmarks/tpu_table.py --compile [--only=v5e:4x4] [--choices]
    python benchmarks/tpu_table.py            # prints the table of what is compiled

Each row is a call of tools/compile_check.py, whose command is kept beside its figures in
benchmarks/results/tpu_compile.jsonl; a row that is there is not compiled again. Slices are compiled
with effort -1, which takes a minute each and not ten; --choices compiles what one slice can choose
from as a run does by itself, effort 0. Hours are a lower bound (the roofline's) times the paper's
lengths.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
KEPT = ROOT / "benchmarks" / "results" / "tpu_compile.jsonl"
SIZES = ("vits", "vitb", "vitl", "vitg")
SLICES = {  # chips: the slice of each generation
    1: {"v5e": "v5e:1x1", "v6e": "v6e:1x1", "v4": "v4:1x1x1", "v5p": "v5p:1x1x1"},
    8: {"v5e": "v5e:2x4", "v6e": "v6e:2x4", "v4": "v4:2x2x2", "v5p": "v5p:2x2x2"},
    64: {"v5e": "v5e:8x8", "v6e": "v6e:8x8", "v4": "v4:4x4x4", "v5p": "v5p:4x4x4"},
    256: {"v5e": "v5e:16x16", "v6e": "v6e:16x16", "v4": "v4:4x8x8", "v5p": "v5p:4x8x8"},
}
IMAGES = {"teacher": 468_750 * 64, "student": 484_375 * 192}  # configs/teacher.py, student.py
CHOICES = (  # of ViT-L's student, batch 192, on CHOICES_OF
    {"accumulation": 1},
    {"accumulation": 4},
    {"accumulation": 1, "mesh.fsdp": 4},
    {"accumulation": 1, "mesh.fsdp": 16},
    {"accumulation": 4, "model.remat": "dots"},
    {"accumulation": 1, "model.remat": "dots"},
    {"accumulation": 1, "model.attention": "xla"},
)
CHOICES_OF = "v5e:4x4"
SHOWN = ("model.remat", "model.attention")  # fields that are named beside the size
MOST = {"vits": 12, "vitb": 12, "vitl": 6, "vitg": 3}  # images of a microbatch on a chip


def rows():
    """(what, size, slice, chips, fields of the config), the smaller and likelier ones first."""
    for size in SIZES:
        for chips in (8, 256, 64, 1):
            for generation in ("v5e", "v6e", "v5p", "v4"):
                for what in ("student", "teacher"):
                    yield what, size, SLICES[chips][generation], chips, fields(what, size, chips)


def choices():
    """As `rows`, of CHOICES."""
    for more in CHOICES:
        yield "student", "vitl", CHOICES_OF, 16, {"batch_size": 192, **more}


def fields(what, size, chips):
    """Batch 192 or 64 (768 and 256 on 256 chips), in as many microbatches as a chip needs; ViT-G's
    state over up to eight chips."""
    batch = (192 if what == "student" else 64) * (4 if chips == 256 else 1)
    parts = next(
        n
        for n in range(1, batch + 1)
        if batch % n == 0 and divides(batch // n, what, chips) and batch // n <= MOST[size] * chips
    )
    more = {"batch_size": batch, "accumulation": parts}
    if size == "vitg":
        more |= {"model.variant": "vitg", "mesh.fsdp": min(chips, 8)}
    return more


def divides(micro, what, chips):
    """Whether a microbatch's parts lie whole on the chips."""
    return micro % (3 * chips if what == "student" else chips) == 0


def command(what, size, slice_, more, effort):
    """The call of tools/compile_check.py, as in a shell."""
    variant = "vitl" if what == "student" and size == "vitg" else size
    flags = [f"--config=configs/{what}.py:{variant}", f"--topology={slice_}"]
    flags += [f"--config.{k}={v}" for k, v in more.items()]
    return ["tools/compile_check.py", *flags, f"--effort={effort:g}"]


def known():
    """Rows that are compiled, by their command."""
    if not KEPT.exists():
        return {}
    found = map(json.loads, KEPT.read_text(encoding="utf-8").splitlines())
    return {row["command"]: row for row in found}


def compile_rows(found, only, effort):
    """Compiles what is not there yet."""
    there = known()
    for what, size, slice_, chips, more in found:
        call = command(what, size, slice_, more, effort)
        name = " ".join(["python", *call])
        if name in there or only not in name:
            continue
        done = subprocess.run(
            [sys.executable, *call, "--json"], cwd=ROOT, capture_output=True, text=True
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode not in (0, 3) or not lines:
            print(f"{name}\n{done.stdout[-500:]}{done.stderr[-500:]}", file=sys.stderr)
            continue
        row = {"command": name, "what": what, "size": size, "slice": slice_, "chips": chips}
        row |= {**more, **json.loads(lines[-1]), "effort": effort}
        row |= {n: importlib.metadata.version(n) for n in ("jax", "jaxlib")}
        row["date"] = datetime.date.today().isoformat()
        KEPT.parent.mkdir(exist_ok=True)
        with KEPT.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(text(row), flush=True)


def text(row):
    """A row of the table."""
    gib = 2**30
    micro = row["batch_size"] // row["accumulation"] / row["chips"]
    more = [f"{k.removeprefix('model.')} {v}" for k, v in row.items() if k in SHOWN]
    about = f"| {', '.join([row['size'], *more])} | {row['slice']} |"
    about += f" {row['batch_size']} / {row['accumulation']} |"
    about += f" {micro:g} | {row.get('mesh.fsdp', 1)} |"
    if "arguments" not in row:
        return f"{about} no: {row.get('why', '')} | | | |"
    bounds, images = row["bounds"], IMAGES[row["what"]]
    if row["effort"] < 0:  # such a program keeps nothing on the chip; a run's does
        bounds = {k: v for k, v in bounds.items() if k != "memory"}
    steps = images / row["batch_size"]
    hours = steps * max(bounds.values()) / 3600
    needed = (row["peak"] + row["code"]) / gib
    return (
        f"{about} {row['arguments'] / gib:.1f} / {row['temporaries'] / gib:.1f} / {needed:.1f}"
        f"{'' if row['fits'] else ', does not fit'} | "
        f"{' / '.join(f'{1e3 * s:.0f}' for s in bounds.values())} | {hours:,.1f} h | "
        f"{row['seconds']:.0f} s |"
    )


def table():
    """What is compiled, as markdown."""
    head = (
        "| size | slice | batch / microbatches | images of a chip | fsdp | GiB: arrays / "
        "temporaries / in all | ms by arithmetic / {bounds} | whole training, at least | "
        "compiled in |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    there = known()

    def shown(found, effort):
        names = (" ".join(["python", *command(w, s, t, m, effort)]) for w, s, t, _, m in found)
        return "\n".join(text(there[name]) for name in names if name in there)

    for what in ("student", "teacher"):
        print(f"\n### {what.capitalize()}s\n\n{head.format(bounds='links')}")
        print(shown((row for row in rows() if row[0] == what), -1))
    print("\n### ViT-L, batch 192 on sixteen v5e chips, as a run compiles by itself")
    print(f"\n{head.format(bounds='memory / links')}\n{shown(choices(), 0)}")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--choices", action="store_true")
    chosen = parser.parse_args()
    if chosen.compile and chosen.choices:
        compile_rows(choices(), chosen.only, 0.0)
    elif chosen.compile:
        compile_rows(rows(), chosen.only, -1.0)
    else:
        table()


if __name__ == "__main__":
    main()
