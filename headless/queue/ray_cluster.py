"""A Ray cluster: connecting to one or starting one on this machine, and how workers share it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import ModuleType

from ...errors import CallError, InkstoneError

LOCAL = "local"
_STORE_BYTES = 256 << 20  # for results in transit, if we start the cluster


def connect(address: str, workers: int | None) -> tuple[ModuleType, bool]:
    """(ray, whether we connected), with the signal handlers unchanged. Raises InkstoneError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 yields to everything else
        # Ray Serve looks ten times a second otherwise, on a core that draws
        os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "1")
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # its ports listen on all addresses
    try:
        import ray
    except ImportError:
        raise CallError("--ray needs Ray: pip install 'inkstone[ray]'.") from None
    if ray.is_initialized():
        return ray, False
    main = threading.current_thread() is threading.main_thread()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    # output of workers would appear on our stdout
    quiet = {"logging_level": logging.WARNING, "log_to_driver": False}
    try:
        if address == LOCAL:
            cores = max(_cores(), workers or 1)
            ray.init(
                num_cpus=cores, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise InkstoneError(
            f"--ray {address}: no cluster at this address ({error}). Expected auto, HOST:PORT, or "
            "local to start one on this machine. A cluster with a token needs RAY_AUTH_MODE=token."
        ) from None
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return ray, True


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(
    ray: ModuleType, workers: int | None, device: str | None, most: int = 0
) -> tuple[int, dict[str, int]]:
    """(number of workers, what each needs of the cluster). workers: None = one per GPU, or one;
    most: that there may be later. Raises CallError where the cluster has less.
    """
    resources = ray.cluster_resources()
    cards, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    count = workers or max(cards, 1)
    on_cards = cards and device != "cpu"
    if count > (cards if on_cards else cores):
        raise CallError(
            f"--workers {count}: the cluster has {cards} GPUs and {cores} CPU cores. Request "
            f"at most {cards if on_cards else cores}."
        )
    each = cores // max(count, most)
    if on_cards:
        return count, {"num_gpus": 1, "num_cpus": min(1, each)}
    return count, {"num_cpus": max(1, each)}
