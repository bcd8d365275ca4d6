"""Compiles a program for a TPU slice without a TPU: whether it fits, and what it costs.

    python tools/compile_check.py --config=configs/student.py:vitl --topology=v5e:4x4
    python tools/compile_check.py --config=configs/student.py:vitl --topology=v5e:4x4 \\
        --config.mesh.fsdp=4 --config.model.remat=dots
    python tools/compile_check.py --config=configs/teacher.py:vitl --topology=v5e:2x4 --host=8 \\
        --program=label

The program is the project's own, lowered from shapes: no weights and no data are read. It needs
libtpu beside jax, in the version required by jax's extra `tpu`; CONTRIBUTING.md describes how to
install it without slowing down everything else.

--topology: chip and shape, such as v4:2x2x4, v5e:4x4, v5p:2x2x1, v6e:16x16. --host: chips per host,
4 (default), 8, or 1. --program: train (default: the step), init, strips, gather, audit, which run
over the whole slice; label, evaluate, predict, which run over one host's chips. --effort: below 0,
down to -1, XLA compiles faster and the program may be slower and larger. --fit: also compiles the
step for other batch sizes, and prints the largest that fits (use --effort=-1).

It prints the memory per chip, collectives, FLOPs by formula, memory traffic, a lower bound of the
step's time from the chip's peaks (a roofline, which no run reaches), and the compile time. Exit
status: 0 it fits; 3 it does not; 1 an error, with its reason.
"""

import json
import os
import sys
import time

LOCAL = ("label", "evaluate", "predict")
NO = 3  # exit status of a program that does not fit
PROGRAMS = ("train", "init", "strips", "gather", "audit", *LOCAL)


def lowered(config, topology, program: str, *, teacher: str, size: tuple[int, int]):
    """Lowers a program: (lowered, devices, FLOPs per chip, useful FLOPs per chip).

    Raises:
      ValueError: config fields contradict each other or do not fit the slice.
    """
    from depth_anything_jax import models
    from depth_anything_jax.aot import flops, programs
    from depth_anything_jax.aot import topology as topologies
    from depth_anything_jax.aot.report import PASSES
    from depth_anything_jax.inference.predictor import usual_batch
    from depth_anything_jax.models.dtypes import compute_dtype
    from depth_anything_jax.parallel import sharding
    from depth_anything_jax.parallel.device_programs import data_mesh
    from depth_anything_jax.training import init

    if program in LOCAL:
        devices = topologies.of_one_host(topology)
        dtype = compute_dtype(config.dtype, devices[0])
        m = config.model
        model = models.build(
            m.variant,
            version=m.version,
            head=m.head,
            max_depth=m.max_depth or None,
            **init.forward_only(config, dtype),
        )
        batch = len(devices) if program == "evaluate" else usual_batch(devices)
        each = flops.of_image(model, *size) * batch / len(devices)
        mesh = data_mesh(devices)
        made = programs.predict(model, mesh, *size, batch=batch, raw=program != "label")
        return made, len(devices), each, each
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices=topology.devices)
    training = programs.Training(config, mesh, teacher=teacher)
    made = {
        "train": training.step,
        "init": training.init,
        "strips": training.strips,
        "gather": training.gather,
        "audit": training.audit,
    }[program]()
    useful = again = 0.0
    if program == "train":
        image = next(iter(training.batch.values()))["image"]
        forward = flops.of_image(training.networks.student, *image.shape[1:3]) / mesh.size
        useful = 3 * forward * config.batch_size
        again = (PASSES[config.model.remat] - 3) * forward * config.batch_size
        for network in (training.networks.frozen_encoder, training.networks.teacher):
            if network is not None:
                n = training.batch["unlabelled"]["image"].shape[0]
                useful += n * flops.of_image(network, *image.shape[1:3]) / mesh.size
    return made, mesh.size, useful + again, useful


def figures(config, topology, program: str, effort: float, **fields):
    """Compiles a program and returns its `report.Report`; `fields` as for `lowered`.

    Raises:
      report.DoesNotFit: the compiler runs out of memory.
      ValueError: config fields contradict each other or do not fit the slice.
    """
    from depth_anything_jax.aot import report
    from depth_anything_jax.parallel import device_programs

    made, devices, total, useful = lowered(config, topology, program, **fields)
    start = time.monotonic()
    try:
        compiled = made.compile(compiler_options=device_programs.options(effort))
    except Exception as error:
        if why := report.memory_error(error):
            raise report.DoesNotFit(why) from error
        raise
    return report.of(compiled, devices, total, useful, time.monotonic() - start)


def largest_batch(fits, unit: int, start: int) -> int:
    """Finds the largest multiple of `unit` for which `fits(batch)`; 0 where there is none.

    Args:
      fits: whether a batch fits; all smaller ones then fit too.
      unit: step of the batch size, in images.
      start: the first batch to try; it is doubled until one does not fit, then bisected.
    """
    good, bad = 0, None
    n = max(start // unit, 1)
    while bad is None or bad - good > 1:
        if fits(n * unit):
            good = n
        else:
            bad = n
        n = 2 * good if bad is None else (good + bad) // 2
    return good * unit


def check(
    config,
    topology: str,
    program: str = "train",
    *,
    host: int = 0,
    effort: float | None = None,
    fit: bool = False,
    as_json: bool = False,
    **fields,
) -> int:
    """Compiles a program, prints the report of the module's docstring, returns the exit status.

    Args:
      config: a config of `configs/*.py`; not changed.
      topology, program, host, effort, fit, as_json: the flags.
      fields: as for `lowered`.

    Raises:
      ValueError: config fields contradict each other or do not fit the slice.
      ImportError: libtpu is missing.
    """
    from depth_anything_jax.aot import report
    from depth_anything_jax.aot import topology as topologies

    found = topologies.describe(topology, host=host)
    chosen = config.compile_effort if effort is None else effort
    if fit and program != "train":
        raise ValueError(f"fit with program={program}: batches are those of program=train")

    def compiled(batch: int):
        other = config.copy_and_resolve_references()
        other.batch_size = batch
        return figures(other, found, program, chosen, **fields)

    def fits(batch: int) -> bool:
        if batch == config.batch_size:
            return fitting
        try:
            needed = compiled(batch).needed
            text = f"{needed / topologies.GIB:.2f} GiB"
        except report.DoesNotFit as error:
            needed, text = float("inf"), str(error)
        print(f"  batch {batch}: {text}", flush=True)
        return needed <= found.chip.memory

    fitting = False
    try:
        one = compiled(config.batch_size)
    except report.DoesNotFit as error:
        print(json.dumps({"fits": False, "why": str(error)}) if as_json else f"no: {error}")
    else:
        fitting = one.needed <= found.chip.memory
        if as_json:
            row = {k: v for k, v in one.__dict__.items() if k != "collectives"}
            print(json.dumps(row | {"fits": fitting, "bounds": one.bounds(found.chip)}))
        else:
            print(f"{program} on {topology}")
            print("\n".join(report.lines(one, found.chip)))
    if fit:
        parts = config.accumulation * len(found.devices)
        unit = parts * (config.labelled_ratio + config.unlabelled_ratio)
        largest = largest_batch(fits, unit, config.batch_size)
        print(
            f"the batch that fits: {largest}, {largest // parts} images of a chip at a time"
            if largest
            else f"no batch fits: {unit} images need more than the chips have"
        )
    return 0 if fitting else NO


def main() -> None:
    """The command line; see the module's docstring."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs
    from absl import app, flags
    from ml_collections import config_flags

    from depth_anything_jax import configs

    sys.argv = [
        f"--config={configs.resolve(a.partition('=')[2])}" if a.startswith("--config=") else a
        for a in sys.argv
    ]
    config = config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:VARIANT]")
    topology = flags.DEFINE_string("topology", None, "a slice, such as v5e:4x4", required=True)
    host = flags.DEFINE_integer("host", 0, "chips of a host: 1, 4 or 8; 0: 4")
    program = flags.DEFINE_enum("program", "train", PROGRAMS, "what to compile")
    teacher = flags.DEFINE_string("teacher", "vitl", "variant of an online teacher")
    size = flags.DEFINE_list("size", ["518", "686"], "height,width of label, evaluate, predict")
    effort = flags.DEFINE_float("effort", None, "of XLA, -1 to 1; else the config's")
    fit = flags.DEFINE_boolean("fit", False, "find the largest batch that fits, too")
    as_json = flags.DEFINE_boolean("json", False, "one line of JSON instead")
    flags.mark_flag_as_required("config")

    def run(argv) -> None:
        if argv[1:]:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        try:
            height, width = map(int, size.value)
            status = check(
                config.value,
                topology.value,
                program.value,
                host=host.value,
                effort=effort.value,
                fit=fit.value,
                as_json=as_json.value,
                teacher=teacher.value,
                size=(height, width),
            )
        except (ValueError, ImportError) as error:
            sys.exit(f"{type(error).__name__}: {error}")
        sys.exit(status)

    app.run(run)


if __name__ == "__main__":
    main()
