"""Does it fit, and what will it cost? Compiles a program for a TPU slice, without a TPU.

    python tools/compile_check.py --config=configs/student.py:vitl --topology=v5e:4x4
    python tools/compile_check.py --config=configs/student.py:vitl --topology=v5e:4x4 \\
        --config.mesh.fsdp=4 --config.model.remat=dots
    python tools/compile_check.py --config=configs/teacher.py:vitl --topology=v5e:2x4 --host=8 \\
        --program=label

The program is the project's own, from shapes alone: no weights and no data are read. Needed is
libtpu beside jax, in the version that jax's extra `tpu` asks for; CONTRIBUTING.md says how to have
it without slowing down everything else.

--topology: chip and shape, such as v4:2x2x4, v5e:4x4, v5p:2x2x1, v6e:16x16. --host: chips of a
host, 4 (default), 8, or 1. --program: train (default: the step), init, strips, gather, audit, which
run over the whole slice; label, evaluate, predict, which run over one host's chips. --effort: below
0 XLA compiles faster and the program may be slower and larger; -1 at the least.

Printed: memory of a chip, collectives, FLOPs by formula, memory traffic, a lower bound of the
step's time from the chip's peaks (a roofline: no run gets there), and compile time. Exit status: 0
it fits; 3 it does not; 1 an error, with its reason.
"""

import json
import os
import sys
import time

LOCAL = ("label", "evaluate", "predict")
PROGRAMS = ("train", "init", "strips", "gather", "audit", *LOCAL)


def lowered(config, topology, program: str, *, teacher: str, size: tuple[int, int]):
    """The program and its FLOPs: (lowered, devices, FLOPs a chip, of which useful).

    Raises:
      ValueError: fields that do not fit each other or the slice.
    """
    from depth_anything_jax import initial, models, sharding
    from depth_anything_jax.compiled import flops, programs
    from depth_anything_jax.compiled import topology as topologies
    from depth_anything_jax.compiled.report import PASSES
    from depth_anything_jax.device_programs import data_mesh
    from depth_anything_jax.inference import usual_batch

    if program in LOCAL:
        devices = topologies.of_one_host(topology)
        dtype = initial.compute_dtype(config.dtype, devices[0])
        m = config.model
        model = models.build(
            m.variant,
            version=m.version,
            head=m.head,
            max_depth=m.max_depth or None,
            **initial.forward_only(config, dtype),
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
    as_json = flags.DEFINE_boolean("json", False, "one line of JSON instead")
    flags.mark_flag_as_required("config")

    def run(argv) -> None:
        if argv[1:]:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        from depth_anything_jax import device_programs
        from depth_anything_jax.compiled import report
        from depth_anything_jax.compiled import topology as topologies

        try:
            found = topologies.describe(topology.value, host=host.value)
            h, w = map(int, size.value)
            made, devices, total, useful = lowered(
                config.value, found, program.value, teacher=teacher.value, size=(h, w)
            )
        except (ValueError, ImportError) as error:
            sys.exit(f"{type(error).__name__}: {error}")
        chosen = config.value.compile_effort if effort.value is None else effort.value
        start = time.monotonic()
        try:
            compiled = made.compile(compiler_options=device_programs.options(chosen))
        except Exception as error:
            why = report.memory_error(error)
            if why is None:
                raise
            print(json.dumps({"fits": False, "why": why}) if as_json.value else f"no: {why}")
            sys.exit(3)
        seconds = time.monotonic() - start
        figures = report.of(compiled, devices, total, useful, seconds)
        fits = figures.needed <= found.chip.memory
        if as_json.value:
            row = {k: v for k, v in figures.__dict__.items() if k != "collectives"}
            row |= {"fits": fits, "devices": devices, "bounds": figures.bounds(found.chip)}
            print(json.dumps(row))
        else:
            print(f"{program.value} on {devices} chips of {topology.value}")
            print("\n".join(report.lines(figures, found.chip)))
        sys.exit(0 if fits else 3)

    app.run(run)


if __name__ == "__main__":
    main()
