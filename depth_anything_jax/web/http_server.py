"""Starts the Gradio server of the page with secure settings."""

from __future__ import annotations

import os
from typing import Any

from depth_anything_jax.web import appearance, page, security
from depth_anything_jax.web.handlers import Work
from depth_anything_jax.web.login import is_loopback
from depth_anything_jax.web.upload_folder import Folder


def set_environment(folder: Folder) -> None:
    """Sets the process's environment variables; must be called before Gradio is imported.

    Variables such as GRADIO_SHARE or GRADIO_ALLOWED_PATHS would override the settings made here;
    proxy variables would redirect Gradio's calls to its own server.
    """
    for name in [n for n in os.environ if n.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder.files)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"


def settings(work: Work, *, host: str, port: int, login: tuple[str, str] | None) -> dict[str, Any]:
    """Returns the arguments of `Blocks.launch`.

    Raises:
      ValueError: other machines would be served without a password.
    """
    from starlette.middleware import Middleware

    local, bare = is_loopback(host), host.strip("[]")
    if not (local or login):
        raise ValueError(f"host={host}: serving other machines requires a password")
    request_filter = Middleware(
        security.RequestFilter,  # type: ignore[arg-type]
        folder=work.folder,
        max_bytes=work.limits.bytes,
        local=local,
    )
    return {
        "server_name": f"[{bare}]" if ":" in bare else bare,
        "server_port": port,
        "auth": login,
        "share": False,
        "allowed_paths": [],
        "blocked_paths": [],
        "max_file_size": work.limits.bytes,
        "max_threads": 8,
        "state_session_capacity": 256,
        "show_error": False,  # only Problems are shown
        "strict_cors": True,
        "enable_monitoring": False,
        "run_history": False,
        "mcp_server": False,
        "ssr_mode": False,
        "pwa": False,
        "num_workers": 0,
        "inbrowser": False,
        "quiet": True,
        "prevent_thread_lock": True,
        "app_kwargs": {
            "middleware": [request_filter],
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
        },
        **appearance.of_launch(),
    }


def start(work: Work, *, host: str, port: int, login: tuple[str, str] | None) -> Any:
    """Starts the server in a thread; returns the Blocks, which has `local_url` and `close`.

    Raises:
      OSError: the port is in use.
    """
    set_environment(work.folder)
    blocks = page.build(work)
    blocks.queue(max_size=work.limits.waiting, api_open=False, default_concurrency_limit=1)
    try:
        blocks.launch(**settings(work, host=host, port=port, login=login))
    except OSError as error:
        raise OSError(f"cannot listen at port {port} of {host}: give another --port") from error
    return blocks
