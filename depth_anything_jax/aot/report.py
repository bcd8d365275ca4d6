"""Reports a program's memory, communication and a lower bound of its time on each chip."""

import dataclasses
import re
from typing import Any

import jax

from depth_anything_jax.aot import hlo
from depth_anything_jax.aot.topology import GIB, Chip
from depth_anything_jax.utils.formatting import duration

# How often the student's forward pass is computed in a step, in units of itself: forward, twice
# that for the backward pass, and what rematerialisation does again ("dots": attention and less).
PASSES = {"none": 3.0, "dots": 3.0, "full": 4.0}


class DoesNotFit(Exception):
    """The compiler reports that a program needs more memory than a chip has."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Figures of one program; bytes and FLOPs are of one chip and one execution.

    Attributes:
      arguments: bytes of parameters, state and batch.
      temporaries: bytes besides while computing, as the compiler adds them up.
      peak: bytes of arrays, results and temporaries that are there at the same time, at most.
      code: bytes of the program itself.
      flops: of products and convolutions that run, by formula.
      useful_flops: without those of rematerialisation.
      moved: bytes of main memory that instructions read and write, at least (`hlo.Program`).
      collectives: of the program.
      seconds: that compiling took, on this machine.
    """

    arguments: int
    temporaries: int
    peak: int
    code: int
    flops: float
    useful_flops: float
    moved: int
    collectives: list[hlo.Collective]
    seconds: float

    @property
    def needed(self) -> int:
        """The total bytes of memory."""
        return self.peak + self.code

    def bounds(self, chip: Chip) -> dict[str, float]:
        """Seconds that arithmetic, memory traffic and links alone would take at their peaks.

        Of memory: of this compilation. With little effort XLA keeps nothing on the chip.
        """
        return {
            "arithmetic": self.flops / chip.flops,
            "memory": self.moved / chip.bandwidth,
            "links": sum(c.times * sent(c) for c in self.collectives) / chip.links,
        }

    def bound(self, chip: Chip) -> float:
        """A lower bound of the seconds of one execution: the largest of `bounds`."""
        return max(self.bounds(chip).values())


def sent(collective: hlo.Collective) -> float:
    """Counts the bytes that each device sends in a ring algorithm, the minimum."""
    n, size = collective.group, collective.size
    if collective.kind == "all-reduce":
        return 2 * size * (n - 1) / n
    if collective.kind == "reduce-scatter":
        return size * (n - 1)  # its size is that of the part that stays
    if collective.kind == "collective-permute":
        return size
    return size * (n - 1) / n


def of(
    compiled: jax.stages.Compiled, devices: int, flops: float, useful: float, seconds: float
) -> Report:
    """Computes the figures of a compiled program."""
    memory: Any = compiled.memory_analysis()
    program = hlo.Program(compiled.as_text() or "", devices)
    return Report(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.peak_memory_in_bytes,
        memory.generated_code_size_in_bytes,
        flops,
        useful,
        program.bytes_moved(),
        program.collectives(),
        seconds,
    )


def lines(report: Report, chip: Chip) -> list[str]:
    """Formats the report as lines."""
    r = report
    fits = r.needed <= chip.memory
    text = [
        f"memory a chip: {r.peak / GIB:.2f} GiB at the peak ({r.arguments / GIB:.2f} of arrays, "
        f"{r.temporaries / GIB:.2f} of temporaries, not all at a time) + {r.code / GIB:.2f} of "
        f"program = {r.needed / GIB:.2f} of {chip.memory / GIB:.2f} GiB: "
        f"{'fits' if fits else 'does not fit'}",
    ]
    table: dict[tuple[str, int, str], list[float]] = {}
    for c in r.collectives:
        dtypes = ", ".join(sorted({dtype for dtype, _ in c.arrays}))
        row = table.setdefault((c.kind, c.group, dtypes), [0, 0, 0])
        row[0] += c.times
        row[1] += c.times * c.size
        row[2] += c.times * sent(c)
    for (kind, group, dtypes), (times, size, out) in sorted(table.items()):
        text.append(
            f"  {kind} of {dtypes} among {group}: {times:.0f} times, {size / 1e6:.1f} MB; each "
            f"chip sends {out / 1e6:.1f} MB"
        )
    if not table:
        text.append("  no chip talks to another")
    bounds = r.bounds(chip)
    text += [
        f"formula: {r.flops / 1e12:.2f} TFLOP a chip and step, of which rematerialisation "
        f"{(r.flops - r.useful_flops) / 1e12:.2f}",
        f"memory traffic, at least: {r.moved / 1e9:.1f} GB a chip and step",
        "roofline (a lower bound, nothing was run): "
        + ", ".join(f"{name} {1e3 * s:.1f} ms" for name, s in bounds.items())
        + f": at least {1e3 * r.bound(chip):.1f} ms a step",
        f"compiled in {duration(r.seconds)} on this machine",
    ]
    return text


def memory_error(error: Exception) -> str | None:
    """Extracts the line about memory from a compiler error; None for other errors."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return None
    found = re.search(r"Ran out of memory[^\n]*?(?:\)\.|hbm\.|$)", text, re.IGNORECASE)
    numbers = re.findall(r"[Uu]sed ([\d.]+\w) of ([\d.]+\w) hbm", text)
    if numbers:
        return f"it needs {numbers[0][0]} of {numbers[0][1]}"
    return found[0] if found else text.splitlines()[0]
