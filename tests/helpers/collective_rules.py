"""What devices may say to each other in a training step, read from its compiled text."""

from depth_anything_jax.aot import hlo
from depth_anything_jax.utils import param_paths


def kernels(params):
    """Shapes of one layer of every parameter that fsdp splits, with and without leading ones."""
    found = set()
    for path, x in param_paths.leaves_by_path(params).items():
        stacked = "blocks/" in path
        if path.endswith("kernel"):
            found.add(tuple(n for n in (x.shape[1:] if stacked else x.shape) if n > 1))
    return found


def gathered(program: hlo.Program):
    """Shapes, without leading ones, of everything that is gathered or exchanged."""
    kinds = ("all-gather", "all-to-all")
    return [
        tuple(n for n in shape if n > 1)
        for c in program.collectives()
        if c.kind in kinds
        for _, shape in c.arrays
    ]


def check_data_parallel(program: hlo.Program) -> None:
    """Nothing is gathered; gradients are added up in float32, over all devices."""
    assert gathered(program) == []
    reduced = [c for c in program.collectives() if c.kind == "all-reduce"]
    assert reduced and {c.group for c in reduced} == {program.devices}
    large = {d for c in reduced for d, shape in c.arrays if len(shape) > 1}
    assert large == {"f32"}, large


def check_fsdp(program: hlo.Program, params, fsdp: int) -> None:
    """Kernels alone are gathered, a layer at a time, among the devices that share them."""
    found = gathered(program)
    strange = [shape for shape in found if shape not in kernels(params)]
    assert found and not strange, f"gathered beside kernels: {strange}"
    groups = {c.group for c in program.collectives() if c.kind == "all-gather"}
    assert groups == {fsdp}, groups


def check_scattered(program: hlo.Program, params, fsdp: int) -> None:
    """Of TPUs: the gradients of blocks are scattered in float32, not summed whole everywhere."""
    blocks = {p: x for p, x in param_paths.leaves_by_path(params).items() if "blocks/" in p}
    wanted = sum(x.size for p, x in blocks.items() if p.endswith("kernel")) * 4 / fsdp
    found = [c for c in program.collectives() if c.kind == "reduce-scatter"]
    assert {c.group for c in found} == {fsdp}
    assert {d for c in found for d, _ in c.arrays} == {"f32"}
    kept = sum(c.times * c.size for c in found)
    # The compiler leaves kernels of a few hundred numbers to an all-reduce and a slice.
    assert kept > 0.95 * wanted, f"{kept} of {wanted} bytes are scattered"
