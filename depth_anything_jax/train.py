"""Train a teacher, a student or a fine-tuned model.

    python -m depth_anything_jax.train --config=configs/student.py:demo --workdir=runs/first
    python -m depth_anything_jax.train --config=configs/teacher.py:vitl --config.batch_size=48
    python -m depth_anything_jax.train --config=configs/finetune.py:folder \\
        --config.init_from=depth-anything/Depth-Anything-V2-Small-hf \\
        --config.data.labelled="('rgbd:pairs/manifest.json',)"
    python -m depth_anything_jax.train --config=mine.py --mirror=/content/drive/MyDrive/run
    python -m depth_anything_jax.train --config=configs/student.py --audit=3

One program for one chip, one host or many hosts (start it once on each). It resumes from its
workdir by itself; SIGTERM finishes the step, saves and exits 0 (before the first step there is
nothing to save). `train` below reads in the order things happen:
mesh, networks, state, data, step, loop. The method itself is in training/step.py,
losses/relative.py, training/perturb.py.

--config.FIELD=VALUE changes a field of the config; configs/common.py explains all of them, and
`python -m depth_anything_jax.configs` lists the shipped configs.
"""

# Grain's spawned workers import this module again: what is heavy is imported inside `train`.
import contextlib
import json
import signal
import sys
import threading
import time
from typing import Any

from depth_anything_jax.parallel import processes


def train(config, workdir: str, audit_steps: int = 0, mirror: str = "") -> dict[str, float]:
    """Runs `config` to its last step; returns the last step's metrics.

    Args:
      config: see configs/common.py for every field.
      workdir: checkpoints, logs and pictures go here; what is there is continued.
      audit_steps: write down everything that the first so many steps do, see training/audit.py.
      mirror: a mounted folder that receives each finished checkpoint, see
        training/checkpoint_backup.py.
    Raises:
      ValueError: a field that does not fit, named with its value and how to fix it; too many
        records that cannot be read; a work folder that another program uses
        (`folder_lock.FolderInUse`).
      FileNotFoundError: data, labels or weights that are not there yet, and how to make them.
      ImportError: weights that only PyTorch reads, without it.
      FloatingPointError: a quantity that is not finite, with the step.
      OSError: a work folder that cannot be written to, or a full disk.
      SystemExit: asked to stop before the first step; status 0.
    """
    with _Stop() as stop:  # before anything heavy: what follows may take minutes
        import jax

        from depth_anything_jax.training import config_checks
        from depth_anything_jax.utils import folder_lock

        # 1. What must hold before anything is loaded.
        sizes = config_checks.batch_sizes(config)
        config_checks.check(config, sizes, workdir)
        with folder_lock.locked(workdir, active=jax.process_index() == 0):
            return _train(config, sizes, workdir, stop, audit_steps, mirror)


def _train(
    config,
    sizes: dict[str, int],
    workdir: str,
    stop: "_Stop",
    audit_steps: int,
    mirror_folder: str,
) -> dict[str, float]:
    began = time.monotonic()
    import jax
    from jax.experimental import multihost_utils

    from depth_anything_jax.checkpoints import orbax_io
    from depth_anything_jax.data import inspection, pipeline, source_checks
    from depth_anything_jax.inference import compilation_cache
    from depth_anything_jax.parallel import compile_times, device_programs, sharding
    from depth_anything_jax.training import (
        audit,
        best_checkpoint,
        checkpoint_backup,
        config_checks,
        init,
        metrics_buffer,
        monitor,
        optim,
        same_run,
    )
    from depth_anything_jax.training.goodput import Goodput
    from depth_anything_jax.training.logger import ProfileWindow, Report
    from depth_anything_jax.training.step import jit_train_step, make_train_step

    # An older copy of the work folder may lie in the mirror.
    mirrored = checkpoint_backup.Mirror(mirror_folder, workdir, active=jax.process_index() == 0)
    mirrored.restore(lambda meta: same_run.check(meta, config, mirror=mirror_folder))
    if mirror_folder and jax.process_count() > 1:
        multihost_utils.sync_global_devices("mirror")  # nobody looks before it is there

    # 2. Mesh. Alone, a process keeps its compiled programs for its next start; several need a
    #    common folder for them ($JAX_COMPILATION_CACHE_DIR).
    if jax.process_count() == 1:
        compilation_cache.switch_on()
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    sharding.check_batch(mesh, sizes, config.accumulation)

    # 3. Networks: the student, and those that never learn.
    stop.check()  # each part may take minutes
    networks, frozen, meta = init.networks(config, mesh)
    auditor = audit.Auditor(networks, config, mesh, workdir, audit_steps)
    stop.check()

    # 4. Shapes before arrays: where every part of the state will lie.
    plan = init.plan(networks.student, config, mesh)

    # 5. The state. The order matters: an interrupted run always continues; else init_from's
    #    weights; else random ones.
    checkpoints = orbax_io.Checkpoints(
        f"{workdir}/checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_every=config.checkpoint.keep_every,
        own=True,
    )
    restored = checkpoints.restore_newest(
        plan.abstract,
        lambda saved: same_run.check(saved, config, workdir=workdir),
        mirrored.fetch,
    )
    resumed = restored.step if restored else None
    if restored:
        train_state, meta = restored.state, init.continued(restored.meta, meta)
    else:
        train_state = init.compile_unoptimised(plan.new_state, mesh, plan.layout)(
            jax.random.key(config.seed)
        )
        train_state, meta = init.load_initial(config, train_state, plan.abstract, meta)
    stop.check()
    start = int(train_state.step)
    meta["config"] = json.loads(config.to_json_best_effort())

    # 6. The training log, and the data: example i of step s is number s * batch + i, whatever
    #    was interrupted.
    kept = restored.meta.get("goodput") if restored else None
    goodput = Goodput(kept, earlier=time.monotonic() - began)
    report = Report(
        workdir,
        total_steps=config.total_steps,
        every=config.log.every,
        resumed_from=resumed,
        tensorboard=config.log.tensorboard,
        wandb=meta["config"] if config.log.wandb else None,
        active=jax.process_index() == 0,
        show=("loss/total", "loss/labelled", "loss/unlabelled", "loss/features"),
        show_positive=("labelled/dropped_maps", "unlabelled/dropped_maps"),
        goodput=goodput,
    )
    planned = restored.meta.get("config", {}).get("total_steps", 0) if restored else 0
    if 0 < planned < config.total_steps:
        report.text(optim.extension(config.optim, planned, config.total_steps, start))
    again = resumed is not None
    report.text(monitor.describe(config, mesh, plan.params, networks, start, meta, resumed=again))
    batches = pipeline.train_batches(
        config_checks.data_config(config),
        labelled_batch=sizes["labelled"],
        unlabelled_batch=sizes["unlabelled"],
        size=config.input_size,
        patch_size=networks.student.spec.patch_size,
        seed=config.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_failure=monitor.print_failure,
    )
    monitor.check_same_data(batches.sources)
    data = source_checks.describe(batches.sources)
    if restored:
        warning = source_checks.check_unchanged(
            restored.meta.get("data", {}),
            data,
            workdir=workdir,
            allowed=config.data.allow_changed,
        )
        if warning:
            report.text(warning)
    meta["data"] = data
    if jax.process_index() == 0 and start < config.total_steps:
        report.text(inspection.line(batches.sources))
    step_function = jit_train_step(make_train_step(networks, plan.tx, config), mesh, plan.layout)
    predict = monitor.predictor(networks.student, mesh)
    student = init.student_bundle(config, networks.student, plan.params, meta)
    evaluator = monitor.Evaluator(config, student, mesh)
    best = best_checkpoint.BestCheckpoint(workdir, config.checkpoint.keep_best, evaluator.names)
    profile = ProfileWindow(workdir, *monitor.profile_window(config))
    mirrored.start({"config": meta["config"]})

    # 7. The loop. Do not change the order in it: a line's numbers are fetched when the next step
    #    is under way; a state is saved, drawn or scored only after all numbers up to it were seen,
    #    and those that are not finite belong to updates that were skipped; and a step's line is
    #    written before its state is saved, because a run that was killed goes on behind what it
    #    saved and does not write that line again.
    compiled: Any = None
    platform = mesh.devices.flat[0].platform
    compiler_options = device_programs.options(config.compile_effort, platform)
    schedule = orbax_io.Schedule(config.checkpoint.every, config.checkpoint.minutes)

    def described(step: int) -> dict[str, Any]:
        """The metadata of a checkpoint."""
        return {**meta, "next_step": step, "goodput": goodput.facts(report.stepping())}

    pending = 0  # the step whose line is still to be written
    owed = False  # a checkpoint that was due when updates were skipped
    buffer = metrics_buffer.MetricsBuffer(config, report.skipped)
    numbers: dict[str, float] = {}
    with contextlib.ExitStack() as stack:  # whatever ends the run, started writes are finished
        for thing in (report, mirrored, checkpoints, best, profile, batches):
            stack.enter_context(contextlib.closing(thing))
        stack.enter_context(processes.telling())  # before that: a write may wait for the others
        if start >= config.total_steps:
            report.text(f"{workdir} already holds all {config.total_steps} steps")
        for step in range(start, config.total_steps):
            done = step + 1
            profile.before(step)
            try:
                with report.waiting():
                    local = next(batches)
            except ValueError:  # records, or a worker that was killed: the steps done are kept
                # Several processes cannot save here: the others do not know of it yet.
                if step > start and jax.process_count() == 1:
                    numbers = buffer.fetch(step)
                    if pending:
                        report.log(pending, numbers)
                    checkpoints.save(step, train_state, described(step), wait=True)
                    report.text(f"saved after step {step}; start again to go on")
                raise
            batch = sharding.put_batch(local, mesh)
            if compiled is None:
                if soon := compile_times.line("train", platform, effort=config.compile_effort):
                    report.text(soon)
                with report.paused():
                    lowered = step_function.lower(train_state, frozen, batch)
                    compiled = lowered.compile(compiler_options=compiler_options)
                report.text(monitor.memory(compiled))
                stop.check()  # the last time: from here on there is something to save
            with report.paused():  # --audit looks at the state before its update
                seen = auditor.before(train_state, frozen, batch)
            train_state, metrics = compiled(train_state, frozen, batch)
            with report.paused():
                auditor.after(seen, metrics)
            report.step(config.batch_size)

            buffer.add(done, metrics, batches.failures, batches.keys)
            if pending:
                report.log(pending, buffer.fetch(pending))
                pending = 0
            elif report.early(step):
                report.line(step, buffer.fetch(step))
            last = done == config.total_steps or stop.agreed(done)
            save = schedule.due(done) or owed or last
            draw = config.log.images and (done % config.log.images == 0 or step == start)
            # A run that was asked to stop has no minutes for scores: see it saved and gone.
            score = config.eval.every and (
                done % config.eval.every == 0 or done == config.total_steps
            )
            if save or draw or score or step == start:
                numbers = buffer.fetch(done)
            if save and not last:  # a state whose gradients all fail must not displace older ones
                owed = buffer.in_a_row > 0
                save = not owed
            if step == start and resumed is None:
                monitor.check_alive(numbers, sizes)
            if report.due(done) or step == start or last:
                pending = done
            if save:
                if pending:
                    report.log(pending, numbers)
                    pending = 0
                with report.paused():
                    checkpoints.save(done, train_state, described(done), wait=last)
                    schedule.saved()
            if draw:
                with report.paused():
                    drawn = monitor.strips(predict, train_state.params, local, batches.keys)
                    report.images(done, drawn)
            if score:
                with report.paused():
                    scores = evaluator(train_state)
                    report.scalars(done, scores)
                    best.save(done, train_state, described(done), scores)
            if last and done < config.total_steps:
                report.text(f"{stop.received}: saved after step {done}; start again to go on")
            if last:
                report.text(goodput.line(report.stepping()))
                break
    return numbers


class _Stop:
    """SIGTERM and SIGINT: the loop saves and leaves; before its first step the program just ends.

    All processes agree on the step.
    """

    def __init__(self):
        self.received = ""

    def __enter__(self):
        # With several processes jax.distributed, which main starts before, listens to SIGTERM
        # itself and spreads the news. Where jax is not even imported, there is one process.
        jax = sys.modules.get("jax")
        several = jax and jax.distributed.is_initialized() and jax.process_count() > 1
        alone = not several and threading.current_thread() is threading.main_thread()
        signals = (signal.SIGTERM, signal.SIGINT) if alone else ()
        self._old = {s: signal.signal(s, self._receive) for s in signals}
        return self

    def __exit__(self, *exc):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        # No exception from here: raised inside a compilation it crashes the interpreter's end.
        if self.received:  # asked twice: now
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def check(self) -> None:
        """Ends the program where it was asked to stop and there is nothing to save yet."""
        if self.received:
            print(f"{self.received} before the first step: nothing to save", flush=True)
            sys.exit(0)

    def agreed(self, step: int) -> bool:
        """Whether every process stops after this step."""
        import jax

        if jax.process_count() == 1:
            return bool(self.received)
        from jax.experimental import multihost_utils

        if multihost_utils.reached_preemption_sync_point(step):
            self.received = "SIGTERM"
        return bool(self.received)


def main() -> None:
    """The command line: --config=FILE[:VARIANT], --workdir, any field as --config.field=value."""
    from absl import flags, logging
    from ml_collections import config_flags

    from depth_anything_jax import configs
    from depth_anything_jax.utils import command_line

    try:
        sys.argv = [_resolve(argument, configs.resolve) for argument in sys.argv]
    except FileNotFoundError as error:
        sys.exit(f"{error}")
    config = config_flags.DEFINE_config_file(
        "config", None, "configs/NAME.py[:VARIANT]", lock_config=True
    )
    workdir = flags.DEFINE_string("workdir", None, "where the run lives; else config.workdir")
    mirror = flags.DEFINE_string(
        "mirror", "", "a mounted folder for copies of checkpoints, which a start goes on from"
    )
    distributed = flags.DEFINE_bool(
        "distributed", False, "this is one of several processes; see processes.join_processes"
    )
    audit = flags.DEFINE_integer(
        "audit", 0, "write down the first N steps: NPZ and sheets in WORKDIR/audit, see audit.py"
    )
    flags.mark_flag_as_required("config")

    def run(argv):
        logging.set_verbosity(logging.WARNING)  # Orbax tells thirty lines a checkpoint
        with processes.together(distributed.value):
            try:
                folder = workdir.value or config.value.workdir
                train(config.value, folder, audit.value, mirror.value)
            except (ValueError, OSError, FloatingPointError, ImportError) as error:
                where = ""
                if isinstance(error, OSError) and error.errno and error.filename is None:
                    where = f" (work folder: {folder})"  # a full disk while a line is written
                sys.exit(f"{command_line.told(error)}{where}")

    groups = {
        "Run": [config, workdir, mirror],
        "Checks": [audit],
        "Several machines": [distributed],
    }
    command_line.start(run, doc=__doc__ or "", groups=groups, needs=[config])


def _resolve(argument: str, resolve) -> str:
    flag, equals, value = argument.partition("=")
    return f"{flag}={resolve(value)}" if equals and flag.lstrip("-") == "config" else argument


if __name__ == "__main__":
    main()
