"""Parses a compiled program's text for its collectives and memory traffic.

XLA prints a program as computations of instructions. Loops are counted as often as they run: the
trip count is the constant that their condition compares with.
"""

import re
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
BYTES = {"pred": 1, "s4": 1, "u4": 1, "bf16": 2, "f16": 2, "c64": 8, "c128": 16}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
# What moves no bytes: names for memory that is there already, and loops, whose bodies are counted.
_FREE = """parameter constant get-tuple-element tuple bitcast while conditional call after-all
    copy-done slice-done all-gather-done all-reduce-done collective-permute-done async-done iota
    partition-id replica-id""".split()
_NAMES = ("AllocateBuffer", "ConcatBitcast")  # custom calls that do nothing
# Where the start of an asynchronous operation has what it makes, beside what it reads.
_MADE = {
    "copy-start": slice(0, 1),
    "slice-start": slice(1, 2),
    "collective-permute-start": slice(1, 2),
}


class Instruction(NamedTuple):
    """One line of a program.

    Attributes:
      name: of its result.
      arrays: (dtype, shape) of what it makes.
      size: bytes of them.
      stored: bytes of those that lie in the main memory. A TPU has others: "S(1)" in a layout is
        memory on the chip itself.
      operation: such as "fusion".
      operands: names.
      line: the line itself.
    """

    name: str
    arrays: list[tuple[str, tuple[int, ...]]]
    size: int
    stored: int
    operation: str
    operands: list[str]
    line: str


class Collective(NamedTuple):
    """A collective operation.

    Attributes:
      kind: one of COLLECTIVES.
      arrays: what each device has afterwards, (dtype, shape).
      size: bytes of that.
      group: devices that talk together.
      times: how often it runs in one execution of the program.
      source: the operation in the Python program, as XLA keeps it.
    """

    kind: str
    arrays: list[tuple[str, tuple[int, ...]]]
    size: int
    group: int
    times: int
    source: str


class Program:
    """A parsed compiled program.

    Args:
      text: of `jax.stages.Compiled.as_text`.
      devices: that it runs on.
    """

    def __init__(self, text: str, devices: int):
        self.devices = devices
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                current = self.computations[found[1]] = []
                if line.startswith("ENTRY"):
                    self.entry = found[1]
            elif found := _INSTRUCTION.match(line):
                current.append(_instruction(found[1], found[2], line))
        self.times: dict[str, int] = {}
        self._count(self.entry, 1)

    def _count(self, name: str, times: int) -> None:
        """Counts how often each computation outside of fusions runs."""
        self.times[name] = self.times.get(name, 0) + times
        for instruction in self.computations[name]:
            called = _CALLED.findall(instruction.line)
            if instruction.operation == "while":
                body, condition = (
                    re.search(rf"{part}=%?([\w.\-]+)", instruction.line)[1]  # type: ignore[index]
                    for part in ("body", "condition")
                )
                self._count(body, times * self._trips(condition))
            elif instruction.operation in ("call", "conditional", "async-start"):
                for other in called:
                    self._count(other, times)

    def _trips(self, condition: str) -> int:
        """The largest constant of a loop's condition; 1 where it has none."""
        found = [
            int(c)
            for i in self.computations[condition]
            if i.operation == "constant"
            for c in re.findall(r"constant\((\d+)\)", i.line)
        ]
        return max(found, default=1)

    def collectives(self) -> list[Collective]:
        """Yields the instructions that run, with their number of runs."""
        found: dict[str, Collective] = {}
        for name, times in self._running():
            for i in self.computations[name]:
                for one, slices in self._within(i):
                    # One that overlaps other work stands there several times, as a chain. Channels
                    # name nothing: combined reduce-scatters share one.
                    chain = re.search(r'chain_id="(\d+)"', one.line)
                    key = f"chain {chain[1]}" if chain else one.name
                    found.setdefault(key, self._collective(one, slices, times))
        return list(found.values())

    def _within(self, i: Instruction) -> list[tuple[Instruction, list[Instruction]]]:
        """The collectives that an instruction is or holds, and the slices that are kept of each.

        A TPU's reduce-scatter is a fusion of an all-reduce and slices of it.
        """
        if i.operation.removesuffix("-start") in COLLECTIVES:
            return [(i, [])]
        called = _CALLED.search(i.line) if i.operation == "fusion" else None
        inside = self.computations.get(called[1], []) if called else []
        found = []
        for one in (x for x in inside if x.operation in COLLECTIVES):
            names = {one.name}
            for other in inside:
                if other.operation in ("bitcast", "get-tuple-element", "copy", "reshape"):
                    names |= {other.name} if names.intersection(other.operands) else set()
            slices = [
                x for x in inside if x.operation == "dynamic-slice" and x.operands[0] in names
            ]
            found.append((one, slices if one.operation == "all-reduce" else []))
        return found

    def _collective(self, i: Instruction, slices: list[Instruction], times: int) -> Collective:
        kind = "reduce-scatter" if slices else i.operation.removesuffix("-start")
        arrays = [a for s in slices for a in s.arrays] or i.arrays
        source = re.search(r'op_name="([^"]*)"', i.line)
        size = sum(size_of(a) for a in arrays)
        return Collective(
            kind, arrays, size, self._group(i.line), times, source[1] if source else ""
        )

    def _group(self, line: str) -> int:
        """Devices of the first group: {{0,1},…}, [groups,devices]<=…, or a mesh and its axes."""
        if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
            return found[1].count(",") + 1
        if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
            return int(found[2])
        if found := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", line):
            axes = {a: int(n) for a, n in re.findall(r"'(\w+)'=(\d+)", found[1])}
            size = 1
            for axis in re.findall(r"'(\w+)'", found[2]):
                size *= axes[axis]
            return size
        return self.devices

    def bytes_moved(self) -> int:
        """Bytes of main memory that instructions read and write in one execution, on one device.

        The least there is: each operand once, without the padding of layouts; of a stack of which
        a fusion reads or writes a slice, the slice counts.
        """
        total = 0
        for name, times in self._running():
            sizes = {i.name: i.stored for i in self.computations[name]}
            for i in self.computations[name]:
                if i.operation not in _FREE and not any(f'"{n}"' in i.line for n in _NAMES):
                    total += times * (self._read(i, sizes) + self._written(i))
        return total

    def _running(self) -> list[tuple[str, int]]:
        return [(name, times) for name, times in self.times.items() if times]

    def _read(self, i: Instruction, sizes: dict[str, int]) -> int:
        whole = [sizes.get(name, 0) for name in i.operands]
        if i.operation in ("dynamic-slice", "slice", "gather", "slice-start"):
            return min(i.size, whole[0])
        if i.operation == "dynamic-update-slice":
            return whole[1] if len(whole) > 1 else 0
        called = _CALLED.search(i.line) if i.operation == "fusion" else None
        inside = self.computations.get(called[1], []) if called else []
        for parameter in (p for p in inside if p.operation == "parameter"):
            number = int(re.search(r"parameter\((\d+)\)", parameter.line)[1])  # type: ignore[index]
            users = [u for u in inside if parameter.name in u.operands]
            if users and number < len(whole) and all(_slices(u, parameter.name) for u in users):
                part = sum(u.size if u.operation == "dynamic-slice" else 0 for u in users)
                whole[number] = min(whole[number], part)
        return sum(whole)

    def _written(self, i: Instruction) -> int:
        called = _CALLED.search(i.line) if i.operation == "fusion" else None
        inside = self.computations.get(called[1], []) if called else []
        root = next((r for r in inside if r.line.lstrip().startswith("ROOT")), i)
        if root.operation == "dynamic-update-slice":
            update = next((u for u in inside if u.name == root.operands[1]), None)
            return min(update.size, i.stored) if update else 0
        return i.stored


def size_of(array: tuple[str, tuple[int, ...]]) -> int:
    """Bytes of (dtype, shape)."""
    dtype, shape = array
    size = BYTES.get(dtype)
    if size is None:
        bits = re.search(r"\d+", dtype)
        size = int(bits[0]) // 8 if bits else 0
    for n in shape:
        size *= n
    return size


def _slices(user: Instruction, name: str) -> bool:
    """Whether an instruction reads only a slice of this operand."""
    first = bool(user.operands) and user.operands[0] == name
    return user.operation in ("dynamic-slice", "dynamic-update-slice") and first


def _instruction(name: str, rest: str, line: str) -> Instruction:
    """Parses `rest`, "TYPE operation(operands), attributes"."""
    depth, end = 0, 0
    while end < len(rest) and (depth or rest[end] != " "):
        depth += (rest[end] in "([{") - (rest[end] in ")]}")
        end += 1
    called = re.match(r"\s*([\w\-]+)\(([^)]*)\)", rest[end:])
    operation = called[1] if called else ""
    operands = re.findall(r"%([\w.\-]+)", called[2]) if called else []
    found = _ARRAY.findall(rest[:end])
    if operation in _MADE:
        found = found[_MADE[operation]]
    elif operation in ("all-gather-start", "reduce-scatter-start", "all-to-all-start"):
        found = found[len(found) // 2 :]
    arrays = [(d, tuple(int(n) for n in shape.split(",") if n)) for d, shape, _ in found]
    sizes = [size_of(array) for array in arrays]
    stored = sum(n for n, (*_, layout) in zip(sizes, found, strict=True) if "S(" not in layout)
    return Instruction(name, arrays, sum(sizes), stored, operation, operands, line)
