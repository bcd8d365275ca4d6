"""Tells how long the first compilation of a program will take, so that silence has a reason."""

import jax

from depth_anything_jax.utils.formatting import duration

SHORTEST = 10.0  # seconds; less needs no line

# Seconds by platform and program, for the largest size measured; another size of network differs
# little, because all blocks are one scan, and the compiler's effort decides. Sources:
#   tpu train   docs/tpu.md: the student of ViT-L for v5e:4x4 took 289 to 295 s at XLA's own effort
#               and 33 to 38 s at -1, on two busy cores (libtpu 0.0.42.1)
#   cpu predict ViT-L at 518 x 686: 3.2 s of CPU time, ViT-S 2.2 s (jax 0.10.2, two cores)
# Nothing was measured on GPUs.
MEASURED = {
    ("tpu", "train", 0.0): 295.0,
    ("tpu", "train", -1.0): 38.0,
    ("cpu", "predict", 0.0): 3.0,
}


def line(program: str, platform: str = "", *, effort: float = 0.0) -> str:
    """Announces a compilation; "" where it was measured to be short.

    Args:
      program: "train" for a training step, "predict" for a forward pass.
      platform: of the devices: "tpu", "gpu", "cpu"; "": of this process's.
      effort: `compile_effort` of the config, which counts on accelerators only.
    """
    platform = platform or jax.local_devices()[0].platform
    effort = 0.0 if platform == "cpu" else -1.0 if effort < 0 else 0.0
    seconds = MEASURED.get((platform, program, effort))
    if seconds is not None and seconds < SHORTEST:
        return ""
    long = "perhaps minutes" if seconds is None else f"about {duration(seconds)}"
    kept = jax.config.jax_compilation_cache_dir
    again = f"; the program is then kept in {kept}" if kept else ""
    return f"compiling, {long} the first time{again}"
