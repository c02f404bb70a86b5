"""How replicas of a server know that it lives; light, a process of the cluster has nothing else."""

from __future__ import annotations

import threading
import time


class Pulse:
    """An actor that the server owns: Ray ends it when the server's process ends."""

    def until_gone(self) -> None:
        """Never returns. It blocks: the event loop of an asynchronous actor wakes up 100 times a
        second, on a core that draws.
        """
        threading.Event().wait()


def follow(name: str, space: str) -> None:
    """Returns once the actor of this name and namespace has gone for good."""
    import ray

    while True:
        try:
            actor = ray.get_actor(name, namespace=space)
        except ValueError:
            return
        try:
            ray.get(actor.until_gone.remote())
        except ray.exceptions.RayError:
            time.sleep(1.0)  # it may be started again elsewhere: then the server lives
