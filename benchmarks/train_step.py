"""Images a second, TFLOP/s and MFU of the teacher's and the student's training step.

    python benchmarks/train_step.py --variants vits,vitb,vitl --batches 12,24 --torch --out h200
    python benchmarks/train_step.py --variants demo --batches 6,12 --sizes 112 --out demo

The step is the one that train.py compiles from configs/teacher.py and configs/student.py, on random
images, labels and weights: no data pipeline (needs neither Grain nor TFDS), and with --torch the
student once more in PyTorch, eager and under torch.compile (benchmarks/torch_student.py). All of
one row's programs are asked in turn, so that whatever else the machine does meets them alike; the
first call, which compiles, is counted apart. The PyTorch step has no colour distortion, so ours is
also run without (`ours, plain`), on the same weights, batch and CutMix masks, and the losses of
both at the first step stand in the table.

Seconds are medians of rounds, until the device has finished. FLOPs are the model's by formula
(benchmarks/step_flops.py), beside those counted from the traced networks. MFU is against the
table's peak of the device, --peak TFLOP/s, or not given. A program that fails, such as for want of
memory, is a row with its reason. Writes OUT.json and OUT.md.
"""

import argparse
import ast
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import runpy
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks and tests lie beside the package
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch is on the same GPU

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import step_flops  # noqa: E402
from depth_anything_jax import models  # noqa: E402
from depth_anything_jax.aot import flops, programs  # noqa: E402
from depth_anything_jax.parallel import device_programs, sharding  # noqa: E402
from depth_anything_jax.training import config_checks, init, perturb  # noqa: E402

PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers")
PLAIN = {"perturb.distort": False}


@dataclasses.dataclass
class Program:
    """Something to be asked in turn: `run(n)` makes n steps and waits; `first` are the losses."""

    run: Callable[[int], Any]
    compile_seconds: float
    memory: int | None
    losses: list[float]
    seconds: list[float] = dataclasses.field(default_factory=list)
    used: list[float] = dataclasses.field(default_factory=list)


def config_of(step: str, variant: str, batch: int, size: int, fields: dict[str, Any]):
    """configs/STEP.py:VARIANT at that batch and size."""
    config = runpy.run_path(str(ROOT / "configs" / f"{step}.py"))["get_config"](variant)
    config.update_from_flattened_dict({"batch_size": batch, "input_size": size, **fields})
    return config


def random_batch(training: programs.Training) -> dict[str, dict[str, np.ndarray]]:
    """Images of noise and labels of a ramp with noise, all valid, without sky."""
    rng = np.random.default_rng(0)

    def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name in ("valid", "sky", "shift_known"):
            return np.full(shape, name != "sky")
        noise = rng.random(shape, np.float32)
        return (
            noise
            if name == "image"
            else noise + np.linspace(0, 3, shape[1], dtype=np.float32)[:, None]
        )

    return {k: {n: value(n, x.shape) for n, x in p.items()} for k, p in training.batch.items()}


class Ours:
    """The step of a config, compiled, with its state, and what PyTorch's step needs of it."""

    def __init__(self, config):
        self.config = config
        self.mesh = sharding.make_mesh()
        self.training = programs.Training(config, self.mesh)
        self.batch = random_batch(self.training)
        self.frozen: dict[str, Any] = {}
        encoder = self.training.networks.frozen_encoder
        if encoder is not None:
            plain = models.with_plain_attention(encoder)
            side = encoder.spec.patch_size
            weights = jax.jit(plain.init)(jax.random.key(1), jnp.zeros((1, side, side, 3)))
            layout = jax.tree.map(lambda x: x.sharding, self.training.frozen["encoder"])
            dtypes = jax.tree.map(lambda x: x.dtype, self.training.frozen["encoder"])
            cast = jax.tree.map(lambda x, d: x.astype(d), weights["params"], dtypes)
            self.frozen["encoder"] = jax.device_put(cast, layout)

    def program(self) -> Program:
        """Compiles the step and runs it once."""
        plan = self.training.plan
        state = init.compile_unoptimised(plan.new_state, self.mesh, plan.layout)(jax.random.key(0))
        batch = sharding.put_batch(self.batch, self.mesh)
        start = time.perf_counter()
        options = device_programs.options(
            self.config.compile_effort, self.mesh.devices.flat[0].platform
        )
        compiled = self.training.step().compile(compiler_options=options)
        seconds = time.perf_counter() - start
        plans = compiled.memory_analysis()
        memory = plans and plans.argument_size_in_bytes + plans.temp_size_in_bytes

        def run(steps: int):
            nonlocal state
            for _ in range(steps):
                state, metrics = compiled(state, self.frozen, batch)
            return jax.block_until_ready(metrics)

        metrics = run(1)
        names = [f"loss/{part}" for part in ("labelled", "unlabelled", "features")]
        return Program(run, seconds, memory, [float(metrics[n]) for n in names if n in metrics])

    def start(self) -> tuple[Any, Any, np.ndarray]:
        """The first state's parameters, the frozen encoder's and the first step's CutMix masks."""
        plan = self.training.plan
        state = init.compile_unoptimised(plan.new_state, self.mesh, plan.layout)(jax.random.key(0))
        images = self.batch["unlabelled"]["image"]
        keys = perturb.example_keys(self.config.seed, 0, len(images))
        _, boxes = jax.vmap(jax.random.split, out_axes=1)(keys)
        mask = perturb.cutmix_masks(boxes, *images.shape[1:3], **self.config.perturb.cutmix)
        whole = jax.tree.map(lambda x: np.asarray(x, np.float32), (state.params, self.frozen))
        return whole[0], whole[1]["encoder"], np.asarray(mask)


def torch_program(config, compiled: bool) -> Program:
    """The student's step in PyTorch."""
    from benchmarks import torch_student

    if config.loss.gradient_weight or config.accumulation > 1 or jax.device_count() > 1:
        raise ValueError("PyTorch's step has one device, no gradient matching, no accumulation")
    ours = Ours(config)
    half = ours.training.networks.student.encoder.dtype == jnp.bfloat16
    params, frozen, mask = ours.start()
    student = torch_student.Student(config, params, frozen, ours.batch, mask, bfloat16=half)
    if compiled:
        student.compile()

    def run(steps: int):
        for _ in range(steps):
            losses = student.step()
        return losses.cpu()

    start = time.perf_counter()
    losses = run(1).tolist()
    return Program(run, time.perf_counter() - start, torch_student.memory(), losses)


def candidates(step: str, config, with_torch: bool) -> Iterator[tuple[str, Callable[[], Program]]]:
    """Names of programs and what makes them."""
    yield "ours", lambda: Ours(config).program()
    if step == "student" and with_torch:
        plain = config.copy_and_resolve_references()
        plain.update_from_flattened_dict(PLAIN)
        yield "ours, plain", lambda: Ours(plain).program()
        yield "torch eager", lambda: torch_program(plain, False)
        yield "torch.compile", lambda: torch_program(plain, True)


def measure(step: str, config, chosen: argparse.Namespace, peak: float | None) -> list[dict]:
    """The rows of one configuration."""
    size, sizes = config.input_size, config_checks.batch_sizes(config)
    about = {
        "step": step, "variant": config.model.variant, "size": size, "batch": config.batch_size,
        "remat": config.model.remat,
        "flops": step_flops.step(
            config.model.variant, size, size, labelled=sizes.get("labelled", 0),
            unlabelled=sizes.get("unlabelled", 0), frozen=bool(config.loss.weights[2]),
        ),
        "flops_traced": traced_flops(config, sizes),
    }  # fmt: skip
    running: dict[str, Program] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, make in candidates(step, config, chosen.torch):
        try:
            running[name] = make()
        except Exception as error:  # one that does not fit must not end the others
            rows[name] = {**about, "program": name, "why": reason(error)}
    for i in range(chosen.warmup + chosen.rounds):
        for program in running.values():
            start, used = time.perf_counter(), time.process_time()
            program.run(chosen.repeat)
            if i >= chosen.warmup:
                program.seconds.append((time.perf_counter() - start) / chosen.repeat)
                program.used.append((time.process_time() - used) / chosen.repeat)
    for name, program in running.items():
        seconds = statistics.median(program.seconds)
        rows[name] = {
            **about, "program": name, "seconds": seconds, "best": min(program.seconds),
            "cpu_seconds": statistics.median(program.used),
            "images_per_s": config.batch_size / seconds,
            "tflops_per_s": about["flops"] / seconds / 1e12,
            "mfu": peak and about["flops"] / seconds / (peak * jax.device_count()),
            "compile_s": program.compile_seconds, "memory": program.memory,
            "losses": program.losses,
        }  # fmt: skip
    return list(rows.values())


def traced_flops(config, sizes: dict[str, int]) -> float:
    """As `step_flops.step`, from the traced networks: with the resizes, which are products."""
    variant, size = config.model.variant, config.input_size
    network = models.build(variant, version=config.model.version, scan=config.model.scan)
    total = 3 * sum(sizes.values()) * flops.of_image(network, size, size)
    if sizes.get("unlabelled") and config.loss.weights[2]:
        encoder = models.build_encoder(variant, taps=(), scan=config.model.scan)
        total += sizes["unlabelled"] * flops.of_image(encoder, size, size)
    return total


def reason(error: Exception) -> str:
    """One line that says why a program did not run."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def describe() -> dict[str, Any]:
    """The machine, the versions, the command and the date."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "command": shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": {**versions, "python": platform.python_version()},
    }


def markdown(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The result as people read it."""
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    lines = [
        "# Training steps",
        "",
        f"```sh\n{about['command']}\n```",
        "",
        f"{about['date']}, {about['device']}, {about['machine']}. {versions}.",
        *([f"Peak: {about['peak']}."] if about["peak"] else ["No peak is known of it: no MFU."]),
        *([f"PyTorch: {about['no_torch']}."] if about["no_torch"] else []),
        "",
        "| step | size | batch | program | s a step (best) | CPU s | images/s | TFLOP/s | MFU | "
        "compiled in | memory | losses of step 0 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        line = f"| {row['step']} {row['variant']} | {row['size']} | {row['batch']} | "
        line += f"{row['program']} | "
        if "why" in row:
            lines.append(f"{line}{row['why'].replace('|', '/')} | | | | | | | |")
            continue
        memory = f"{row['memory'] / 2**30:.2f} GiB" if row["memory"] else ""
        mfu = f"{100 * row['mfu']:.1f} %" if row["mfu"] else ""
        lines.append(
            f"{line}{row['seconds']:.3g} ({row['best']:.3g}) | {row['cpu_seconds']:.3g} | "
            f"{row['images_per_s']:.3g} | {row['tflops_per_s']:.3g} | {mfu} | "
            f"{row['compile_s']:.1f} s | {memory} | "
            f"{', '.join(f'{x:.5f}' for x in row['losses'])} |"
        )
    seen = {(r["variant"], r["size"]): r["flops_traced"] / r["flops"] for r in rows}
    apart = ", ".join(f"{v} at {s}: {ratio:.3f}" for (v, s), ratio in seen.items())
    lines += ["", f"FLOPs of the traced networks over those of the formula: {apart}.", ""]
    return "\n".join(lines)


def torch_missing(wanted: bool) -> str:
    """Why PyTorch is not compared with; "" where it is."""
    if not wanted:
        return "not asked for (--torch)"
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        return f"skipped: {error}"
    return ""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(x) for x in text.split(",")]

    parser.add_argument("--steps", type=words, default=["teacher", "student"])
    parser.add_argument("--variants", type=words, default=["vits"], help="vits,vitb,vitl,demo")
    parser.add_argument("--batches", type=numbers, default=[12], help="multiples of 3 x devices")
    parser.add_argument("--sizes", type=numbers, default=[518], help="multiples of 14")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2, help="rounds that are not counted")
    parser.add_argument("--repeat", type=int, default=1, help="steps a round, waited for once")
    parser.add_argument("--remat", default="none", help="none, dots, full; the configs have full")
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE of the config")
    parser.add_argument("--torch", action="store_true", help="PyTorch beside ours")
    parser.add_argument("--peak", type=float, help="TFLOP/s of one device, for the MFU")
    parser.add_argument("--out", help="OUT.json and OUT.md; else the table is printed only")
    chosen = parser.parse_args(arguments)
    fields: dict[str, Any] = {"model.remat": chosen.remat}
    for text in chosen.set:
        name, _, value = text.partition("=")
        try:
            fields[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            fields[name] = value
    known = step_flops.peak_of(jax.devices()[0].device_kind)
    peak = chosen.peak * 1e12 if chosen.peak else known and known.flops
    about = describe()
    about["peak"] = "" if peak is None else f"{peak / 1e12:g} TFLOP/s a device"
    if known and not chosen.peak:
        about["peak"] += f" in {known.dtype} ({known.source})"
    about["no_torch"] = torch_missing(chosen.torch)
    chosen.torch = not about["no_torch"]
    rows: list[dict[str, Any]] = []
    for step in chosen.steps:
        for variant in chosen.variants:
            for size in chosen.sizes:
                for batch in chosen.batches:
                    config = config_of(step, variant, batch, size, fields)
                    rows += measure(step, config, chosen, peak)
                    if chosen.out:  # a machine that ends early has left what was done
                        write(chosen.out, about, rows)
    print(markdown(about, rows))


def write(out: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Writes OUT.json and OUT.md."""
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, "rows": rows}, indent=1)
    pathlib.Path(f"{out}.json").write_text(text + "\n", encoding="utf-8")
    pathlib.Path(f"{out}.md").write_text(markdown(about, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
