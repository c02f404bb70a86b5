"""`inkstone serve`: one process, uvicorn in it, and what draws: a thread, or a cluster."""

from __future__ import annotations

import importlib.util
import logging
import socket
import threading

from ...errors import CallError
from ...kernels.interrupt import stoppable
from .api.keys import Keys, read_keys
from .desk.desk import Desk
from .desk.hand import Hands, one_here
from .desk.quiet_log import WithoutPrompts
from .desk.settings import ServeCall, check_binding

log = logging.getLogger(__name__)

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_DRAIN = 30.0  # seconds for the job under way once the server is asked to stop
_LAST_ANSWERS = 5  # seconds for the answers that are still being sent then


def serve(call: ServeCall) -> None:
    """Serves until it is stopped. Raises CallError where it cannot start."""
    check_extra()
    check_binding(call)
    keys = read_keys(call.api_key_file)
    for handler in logging.getLogger().handlers:
        handler.addFilter(WithoutPrompts())
    address = _socket(call)
    desk = None
    try:
        desk = _desk(call)
        desk.start()
        _run(desk, keys, address)
    finally:
        address.close()
        if desk is not None:
            desk.close(_DRAIN)


def _desk(call: ServeCall) -> Desk:
    try:
        return Desk(call, _hands(call))
    except OSError as error:
        raise CallError(
            f"--state {call.state}: cannot be written to: {error.strerror or error}. Choose "
            "another folder."
        ) from None


def _hands(call: ServeCall) -> Hands:
    """What draws: this process, or a cluster."""
    if call.ray is None:
        return one_here
    from .replicas.ray_replicas import ray_hands

    return ray_hands(call.ray, call.limits)


def check_extra() -> None:
    """Raises CallError where the packages of the extra are not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CallError(
            f"serve needs packages that are not installed: {', '.join(missing)}. Install them with "
            "pip install 'inkstone[serve]', or in a checkout pip install '.[serve]'."
        )


def _socket(call: ServeCall) -> socket.socket:
    """The address, taken before a model is opened."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            call.host, call.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, number)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        return taken
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CallError(
            f"--host {call.host} --port {call.port}: cannot be used: {reason}. Is a server running "
            "there already? Choose another --port."
        ) from None


def _run(desk: Desk, keys: Keys, address: socket.socket) -> None:
    """Serves in a thread until a signal comes; what is being drawn then still gets its answer."""
    import uvicorn

    from .api.app import build_app
    from .api.wire import server_config

    config = server_config(build_app(desk, keys), timeout_graceful_shutdown=_LAST_ANSWERS)
    host, port = address.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address]}, daemon=True)
    with stoppable() as stop:
        thread.start()
        log.info(
            "serving at http://%s:%s (OpenAI base_url: http://%s:%s/v1)", shown, port, shown, port
        )
        try:
            while not stop.wait(1.0) and thread.is_alive():
                pass
            desk.drain(_DRAIN)
        finally:
            server.should_exit = True
            thread.join(_LAST_ANSWERS + 1)
