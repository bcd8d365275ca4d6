"""Serves a web page that predicts depth of photos and videos.

    python -m depth_anything_jax.app
    python -m depth_anything_jax.app --checkpoint \\
        depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf
    python -m depth_anything_jax.app --checkpoint runs/student --dtype bfloat16
    python -m depth_anything_jax.app --port 8000 --max-megapixels 100 --max-seconds 60
    python -m depth_anything_jax.app --host 0.0.0.0 --auth password.txt

Needs the extra [app]. The page is served to this machine only, or to others with --auth, a file
that holds user:password (or the variable DEPTH_ANYTHING_AUTH). Uploads and results are stored in a
private temporary folder, whose files are removed after a time and at the end. docs/app.md lists the
other security measures.
"""

import math
import signal
import sys
import threading
from typing import Any


def main() -> None:
    """The command line; see the module's docstring and --helpshort."""
    from absl import flags, logging

    from depth_anything_jax.checkpoints import weight_flags
    from depth_anything_jax.utils import command_line

    text, number, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    checkpoint = text("checkpoint", None, "hub id, file, folder or run; else V2-Small of the hub")
    dtype = flags.DEFINE_enum("dtype", "auto", ["auto", "float32", "bfloat16"], "computes in")
    host = text("host", "127.0.0.1", "address to listen at; beyond this machine only with --auth")
    port = number("port", 7860, "port to listen at", lower_bound=1, upper_bound=65535)
    auth = text("auth", None, "a file that holds user:password")
    megabytes = real("max_megabytes", 200, "of an upload", lower_bound=1e-3)
    megapixels = real("max_megapixels", 40, "of a photo", lower_bound=1e-3)
    seconds = real("max_seconds", 20, "of a video; the rest is left out", lower_bound=0.1)
    waiting = number("max_waiting", 16, "requests in the queue", lower_bound=1)
    gigabytes = real("max_gigabytes", 8, "of all uploads and results", lower_bound=1e-6)
    keep = real("keep_minutes", 60, "that uploads and results are kept", lower_bound=1e-3)
    for flag in (megabytes, megapixels, seconds, waiting, gigabytes, keep):
        flags.DEFINE_alias(flag.name.replace("_", "-"), flag.name)
        flags.register_validator(flag.name, math.isfinite, "must be a finite number")
    load, of_weights = weight_flags.define()

    def run(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            _main(
                checkpoint.value,
                {"dtype": dtype.value, **load()},
                host=host.value,
                port=port.value,
                auth=auth.value,
                keep=60 * keep.value,
                room=int(1e9 * gigabytes.value),
                limits={
                    "bytes": int(1e6 * megabytes.value),
                    "pixels": int(1e6 * megapixels.value),
                    "seconds": seconds.value,
                    "waiting": waiting.value,
                },
            )
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            sys.exit(command_line.told(error))

    groups = {
        "Model": [checkpoint, dtype, *of_weights],
        "Server": [host, port, auth, waiting, keep],
        "Limits": [megabytes, gigabytes, megapixels, seconds],
    }
    command_line.start(run, doc=__doc__ or "", groups=groups)


def _main(
    checkpoint: str | None,
    load: dict[str, Any],
    *,
    host: str,
    port: int,
    auth: str | None,
    keep: float,
    room: int,
    limits: dict[str, Any],
) -> None:
    from depth_anything_jax.inference.model import DEFAULT, DepthAnything
    from depth_anything_jax.web import handlers, http_server, upload_folder
    from depth_anything_jax.web import login as passwords

    login = passwords.credentials(host, auth)  # before minutes are spent on loading
    _find_gradio()
    model = DepthAnything.from_pretrained(checkpoint or DEFAULT, **load)
    ended = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), lambda *_: ended.set())
    with upload_folder.Folder(keep, room).open() as private:
        behind = handlers.Work(model, private, handlers.Limits(**limits))
        server = http_server.start(behind, host=host, port=port, login=login)
        print(f"{model!r}\n{server.local_url}  (Ctrl-C ends it)", flush=True)
        if login is not None and not passwords.is_loopback(host):
            print("passwords and photos cross the network in the clear: put HTTPS in front of it")
        ended.wait()
        server.close()


def _find_gradio() -> None:
    import importlib.util

    if importlib.util.find_spec("gradio") is None:
        raise ImportError("the page needs Gradio: pip install 'depth_anything_jax[app]'")


if __name__ == "__main__":
    main()
