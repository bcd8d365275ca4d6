"""Goodput of a run that is killed again and again: what a kill costs, and what share remains.

    python benchmarks/goodput.py [--every 60] [--steps 2500] [--save 10]

Trains the demo's teacher (configs/teacher.py:demo) with a checkpoint every --save seconds, kills it
(SIGKILL) --every seconds after each start and starts it again at once, until it is done. Prints the
share that the run itself logs (rate/goodput), the starts, and per start the seconds until its first
new step and the steps done again. --every 0 never kills. Compiled programs are kept in a folder of
the benchmark's own, so only its first start compiles.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUPERSEDED = "metrics.superseded.jsonl"


def command(workdir: pathlib.Path, steps: int, save: float) -> list[str]:
    """The training program."""
    fields = {
        "total_steps": steps,
        "checkpoint.every": 0,
        "checkpoint.minutes": save / 60,
        "log.every": 1,
        "log.images": 0,
        "log.tensorboard": False,
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    config = "--config=configs/teacher.py:demo"
    return [
        *(sys.executable, "-m", "depth_anything_jax.train", config, f"--workdir={workdir}"),
        *flags,
    ]


def lines(file: pathlib.Path) -> int:
    """Lines of a file, 0 without one."""
    return len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=float, default=60, help="seconds from a start to its kill")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--save", type=float, default=10, help="seconds between checkpoints")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        env = {**os.environ, "DEPTH_ANYTHING_CACHE": f"{folder}/kept", "JAX_PLATFORMS": "cpu"}
        log = workdir / "metrics.jsonl"
        begin, starts, first_steps, again = time.monotonic(), 0, [], []
        while True:
            starts += 1
            before, redone = lines(log), lines(workdir / SUPERSEDED)
            start = time.monotonic()
            run = subprocess.Popen(
                command(workdir, arguments.steps, arguments.save),
                cwd=ROOT, env=env, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            new = None
            while run.poll() is None:
                time.sleep(0.05)
                lost = lines(workdir / SUPERSEDED) - redone
                if new is None and lines(log) > before - lost:
                    new = time.monotonic() - start
                if arguments.every and time.monotonic() - start > arguments.every:
                    run.kill()
                    run.wait()
            first_steps.append(new)
            again.append(lines(workdir / SUPERSEDED) - redone)
            if run.returncode == 0:
                break
            if run.returncode != -9:
                raise SystemExit(f"the run ended with {run.returncode}")
        sys.path.insert(0, str(ROOT))
        from depth_anything_jax.training.logger import read_metrics

        row = read_metrics(workdir)[-1]
        later = [x for x in first_steps[1:] if x is not None]
        print(
            f"{arguments.steps} steps in {time.monotonic() - begin:.0f} s, {starts} starts, killed "
            f"every {arguments.every:g} s, saved every {arguments.save:g} s: goodput "
            f"{row['rate/goodput']:.1%}; first step after {first_steps[0]:.1f} s"
            + (f", later {sum(later) / len(later):.1f} s" if later else "")
            + f"; steps done again: {', '.join(map(str, again[1:])) or 'none'}"
        )
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
