"""A port for a process that is started later."""

from __future__ import annotations

import random
import socket

_BELOW_EPHEMERAL = range(20_000, 32_000)
"""Ports that no system gives to a socket that asks for any: a free one of those (bind to 0) may be
given to another test before the process that it is for has started.
"""


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    for port in random.SystemRandom().sample(_BELOW_EPHEMERAL, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port among a hundred")
