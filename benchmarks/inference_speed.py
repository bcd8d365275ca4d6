"""Seconds a picture on CPU, side by side: ours by XLA and OpenVINO, PyTorch, ONNX Runtime, Keras.

    python benchmarks/inference_speed.py [--rounds 15] [--keras-python KERAS/bin/python]

ViT-S, one picture, 518 x 518, float32, random weights (ours and PyTorch's the same, and their
outputs are compared), all cores. Each model lives in a process of its own and is asked in turn, so
that whatever else the machine does meets all alike; the ratios are medians over rounds of the ratio
within a round. Processor time is what a busy machine lengthens less. PyTorch runs eagerly as
transformers loads it, and compiled (torch.compile, which needs a C++ compiler); ONNX Runtime and
"openvino" run the graph of tools/export_onnx.py; ours and keras-hub are jitted. One whose package
is missing is left out and named.
keras-hub brings TensorFlow: give it an environment of its own (`pip install keras keras-hub jax`).

Then the first result: a fresh process from its start to a depth array in numpy (weights from disk,
one picture through the official pre-processing), without and with a filled compilation cache.
"""

import argparse
import importlib.util
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

SIZE = 518


def images():
    """The same noise in every process."""
    import numpy as np

    return np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)


def through_openvino(folder: str):
    """Our model with runtime="openvino"."""
    from depth_anything_jax.inference import openvino_graph
    from depth_anything_jax.inference.model import DepthAnything
    from depth_anything_jax.inference.openvino_runtime import OpenVinoPredictor

    predict = OpenVinoPredictor(DepthAnything.from_pretrained(folder, runtime="openvino").bundle)
    version = openvino_graph.load().__version__
    return lambda: predict(images_), f"openvino {version}"


def exported_graph(folder: str) -> str:
    """The file of the exported graph, made by whoever comes first."""
    from depth_anything_jax.checkpoints import pretrained
    from tools import export_onnx

    made = pathlib.Path(folder) / "onnx"
    if not made.exists():
        export_onnx.export_onnx(pretrained.load(folder), str(made))
    return str(made / "model.onnx")


def onnx_runtime(folder: str):
    """ONNX Runtime on the exported graph."""
    import onnxruntime

    session = onnxruntime.InferenceSession(exported_graph(folder))
    x = images_.transpose(0, 3, 1, 2).copy()
    return lambda: session.run(None, {"images": x})[0], f"onnxruntime {onnxruntime.__version__}"


def openvino_exported(folder: str):
    """OpenVINO on the exported graph."""
    import numpy as np

    from depth_anything_jax.inference import openvino_graph

    openvino = openvino_graph.load()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().read_model(exported_graph(folder))
    model.reshape([1, 3, SIZE, SIZE])
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    x = images_.transpose(0, 3, 1, 2).copy()
    return lambda: np.array(compiled(x)[0]), f"openvino {openvino.__version__}"


def ours(folder: str):
    """Our model as people load it."""
    import jax
    import numpy as np

    import depth_anything_jax

    model, params = depth_anything_jax.load_pretrained(folder)
    run = jax.jit(model.apply)
    return lambda: np.asarray(run({"params": params}, images_)), f"jax {jax.__version__}"


def compiled_pytorch(folder: str):
    """The same by torch.compile."""
    return pytorch(folder, compiled=True)


def pytorch(folder: str, compiled: bool = False):
    """transformers' model as people load it."""
    import torch
    import transformers

    model = transformers.AutoModelForDepthEstimation.from_pretrained(folder).eval()
    if compiled:
        model.forward = torch.compile(model.forward)
    x = torch.from_numpy(images_.transpose(0, 3, 1, 2).copy())

    def run():
        with torch.inference_mode():
            return model(x).predicted_depth.numpy()

    attention = model.config.backbone_config._attn_implementation
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return run, f"{versions}, {attention} attention, {torch.get_num_threads()} threads"


def keras(folder: str):
    """keras-hub's model of the same size, jitted without its data adapter."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras_hub
    import numpy as np

    encoder = keras_hub.models.DINOV2Backbone(
        patch_size=14,
        num_layers=12,
        hidden_dim=384,
        num_heads=6,
        intermediate_dim=1536,
        layer_scale_init_value=1.0,
        image_shape=(SIZE, SIZE, 3),
        position_embedding_shape=(SIZE, SIZE),
        apply_layernorm=True,
    )
    model = keras_hub.models.DepthAnythingBackbone(
        image_encoder=encoder,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[48, 96, 192, 384],
        fusion_hidden_dim=64,
        head_hidden_dim=32,
        head_in_index=-1,
        feature_keys=[f"stage{i}" for i in (3, 6, 9, 12)],
    )
    trained = [x.value for x in model.trainable_variables]
    other = [x.value for x in model.non_trainable_variables]
    run = jax.jit(lambda a, b, x: model.stateless_call(a, b, x, training=False)[0])
    versions = f"keras-hub {keras_hub.__version__}, jax {jax.__version__}"
    return lambda: np.asarray(run(trained, other, images_)), versions


WORKERS = {
    "ours": ours,
    "ours-openvino": through_openvino,
    "pytorch": pytorch,
    "torch.compile": compiled_pytorch,
    "onnxruntime": onnx_runtime,
    "openvino": openvino_exported,
    "keras-hub": keras,
}
NEEDS = {"ours-openvino": "openvino", "onnxruntime": "onnxruntime", "openvino": "openvino"}


def work(name: str, folder: str) -> None:
    """Answers each line with the seconds, and the processor seconds, that one picture took."""
    global images_
    images_ = images()
    run, versions = WORKERS[name](folder)
    print(versions, flush=True)
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        depth = run()
        seconds, used = time.perf_counter() - start, time.process_time() - used
        if line.startswith("save "):
            import numpy as np

            np.save(line.split()[1], depth)
        print(seconds, used, flush=True)


def first_result(folder: str) -> None:
    """What a person's first picture takes."""
    import cv2  # noqa: F401
    import jax
    import numpy as np

    import depth_anything_jax
    from depth_anything_jax.data import transforms

    photo = np.random.default_rng(0).integers(0, 255, (480, 480, 3), np.uint8)
    model, params = depth_anything_jax.load_pretrained(folder)
    x = transforms.network_input(photo)
    depth = np.asarray(jax.jit(model.apply)({"params": params}, x[None]))
    assert depth.shape == (1, SIZE, SIZE)


def prepare(folder: str) -> None:
    """Random weights of ViT-S that make the output vary, for both who compare."""
    from depth_anything_jax.models import VARIANTS
    from tests.helpers import reference_model

    model = reference_model.random_model(VARIANTS["vits"], images()[:, :70, :70])
    model.save_pretrained(folder)


def start(python: str, what: str, folder: str) -> subprocess.Popen:
    """A process of this file."""
    return subprocess.Popen(
        [python, __file__, "--role", what, "--folder", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(worker: subprocess.Popen, line: str) -> str:
    """One answer; a worker that died says so."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(line + "\n")
    worker.stdin.flush()
    return answer(worker)


def answer(worker: subprocess.Popen) -> str:
    """The next line that a worker prints."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"{worker.args}: ended without an answer")
    return line.strip()


def compare(folder: str, rounds: int, keras_python: str | None) -> None:
    """Prints medians and ratios."""
    import numpy as np

    pythons = {name: sys.executable for name in WORKERS if name != "keras-hub"}
    for name, package in NEEDS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name}: left out, {package} is not installed")
            del pythons[name]
    if keras_python:
        pythons["keras-hub"] = keras_python
    workers = {}
    for name, python in pythons.items():  # one after the other: two wait for one graph
        workers[name] = start(python, name, folder)
        print(f"{name}: {answer(workers[name])}")
    for name, worker in workers.items():  # compiles
        ask(worker, f"save {folder}/{name}.npy")
        ask(worker, "")
    mine = np.load(f"{folder}/ours.npy")
    for name in (n for n in workers if n not in ("ours", "keras-hub")):
        other = np.load(f"{folder}/{name}.npy")
        apart = np.abs(mine - other).max() / np.ptp(mine)
        print(f"ours and {name}: {apart:.1e} of the range apart")
    load = os.getloadavg()
    times: dict[str, list[float]] = {name: [] for name in workers}
    used: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            for into, number in zip((times, used), ask(worker, "").split(), strict=True):
                into[name].append(float(number))
    for worker in workers.values():
        worker.communicate()
    for name, seconds in times.items():
        ratios = np.array(seconds) / times["ours"]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(
            f"{name}: median {np.median(seconds):.3f} s, best {min(seconds):.3f} s; "
            f"{middle:.2f} x ours (quartiles {low:.2f} to {high:.2f}); "
            f"{np.median(used[name]):.2f} s of processor time"
        )
    print(f"{rounds} rounds, load {load[0]:.1f} before, {os.getloadavg()[0]:.1f} after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keras-python", help="interpreter that has keras-hub and jax")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        roles = {"first": first_result, "prepare": prepare}
        if arguments.role in roles:
            roles[arguments.role](arguments.folder)
        else:
            work(arguments.role, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        again = [sys.executable, __file__, "--folder", folder, "--role"]
        root = str(pathlib.Path(__file__).resolve().parent.parent)
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
        os.environ.update(quiet)
        subprocess.run([*again, "prepare"], check=True, stderr=subprocess.DEVNULL)
        compare(folder, arguments.rounds, arguments.keras_python)
        cache = {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for what in ("empty", "filled", "filled", "filled"):
            begin = time.perf_counter()
            subprocess.run([*again, "first"], check=True, env={**os.environ, **cache})
            print(f"first result, cache {what}: {time.perf_counter() - begin:.1f} s")
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    print(time.strftime("%Y-%m-%d"))


if __name__ == "__main__":
    main()
