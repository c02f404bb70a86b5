"""The replicas of a server on Ray Serve: an application of one deployment, without an HTTP route.

Jobs go by the deployment's handle; what serves HTTP is this process only. The application is this
server's own and ends with it: where this process was killed, its replicas see that its actor
`Pulse` has gone, and delete the application.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from .... import __version__
from ....errors import CallError, InkstoneError
from ...draw.request import DrawCall
from ...queue.away import with_paths
from ...queue.jobs import Job
from ...queue.ray_cluster import LOCAL, connect, shares
from ...queue.worker import Places
from ..desk.deadline import job_named
from ..desk.hand import Hand, Hands
from ..desk.settings import Limits, RayCall
from .parcel import Finished, Parcel, Progress
from .pulse import Pulse, follow
from .ray_hand import Lost, RayHand
from .replica import Replica

log = logging.getLogger(__name__)

DRAWS_HERE = "Drawing"  # the deployment
_LOOK = 2.0  # seconds between two looks at the replicas
_STALE = 30.0  # seconds after which the last look says nothing
_END = 20.0  # seconds for the end of all
_READY = 120.0  # seconds for the answers of replicas that have started
_MODELS = 4  # that a replica is remembered to have loaded
_SCALE = {"target_ongoing_requests": 1, "upscale_delay_s": 5, "downscale_delay_s": 300}


def ray_hands(call: RayCall, limits: Limits) -> Hands:
    """Hands on a cluster, which is connected to when they are made."""

    def hands(work: Path, places: Places) -> Sequence[Hand]:
        replicas = RayReplicas(call, limits, places)
        return [RayHand(replicas, k, call.retries, work, places) for k in range(replicas.most)]

    return hands


class RayReplicas:
    """As `Replicas` of ray_hand.py says. Raises InkstoneError where there is no such cluster."""

    def __init__(self, call: RayCall, limits: Limits, places: Places) -> None:
        if call.address.startswith("ray://"):
            raise CallError(
                f"--ray {call.address}: progress cannot come through Ray's client. Run the server "
                "on a machine of the cluster, with --ray auto; that machine needs no GPU."
            )
        least, most = call.workers or (None, 0)
        self._ray, self._connected_here = connect(call.address, most or None)
        self._serve = _serve_of(self._ray)
        self.least, self._needs = shares(self._ray, least, places.device, most)
        self.most = max(self.least, most)
        self._call, self._limits = call, limits
        self._places = replace(places, models=places.models.absolute())
        self._app = f"inkstone-{secrets.token_hex(8)}"
        self._handle: Any = None  # Ray's own types are not known where it is not installed
        self._pulse: Any = None
        self._starts_serve = False  # on a cluster that stays
        self._running, self._looked = 0, time.monotonic()
        self._closing = threading.Event()

    def open(self, default: DrawCall) -> None:
        """Starts the replicas and waits until the fewest run."""
        if self._handle is not None:
            return
        default_job = with_paths(job_named("default", call=default), Path.absolute)
        log.info("starting %d to %d replicas on %s", self.least, self.most, self._call.address)
        self._starts_serve = self._call.address != LOCAL and not self._apps()
        self._serve.start(proxy_location="Disabled")
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        pulse = self._ray.remote(num_cpus=0, max_restarts=-1)(Pulse)
        self._pulse = pulse.options(name=self._app).remote()
        space = self._ray.get_runtime_context().namespace
        deployed = _deployment(self._serve).options(**self._options())
        bound = deployed.bind(self._places, default_job.call, (self._app, space))
        try:
            self._handle = self._serve.run(bound, name=self._app, route_prefix=None)
        except RuntimeError as error:
            raise InkstoneError(
                f"A replica cannot start: {error} Install the same version of Inkstone on every "
                "machine of the cluster."
            ) from None
        self._check()
        threading.Thread(target=self._watch, name="inkstone-replicas", daemon=True).start()

    def _options(self) -> dict[str, Any]:
        """Of the deployment."""
        count: dict[str, Any] = {"num_replicas": self.least}
        if self.most > self.least:
            scale = {"min_replicas": self.least, "max_replicas": self.most, **_SCALE}
            count = {"autoscaling_config": scale}
        return count | {
            "name": DRAWS_HERE,
            "max_ongoing_requests": 1,
            "ray_actor_options": self._needs,
            # one that is not needed any more finishes what it draws
            "graceful_shutdown_timeout_s": float(self._limits.seconds),
            "graceful_shutdown_wait_loop_s": 0.2,
        }

    def _check(self) -> None:
        """Raises InkstoneError where the replicas are not as this process is, or cannot open the
        default model.
        """
        answers = [self._handle.ready.remote() for _ in range(self.least)]
        for answer in answers:
            version, fault = answer.result(timeout_s=_READY)
            if version != __version__:
                raise InkstoneError(
                    f"A machine of the cluster has Inkstone {version}, this one {__version__}. "
                    "Install the same version on all."
                )
            if fault is not None:
                raise InkstoneError(f"On a machine of the cluster: {fault}")

    def running(self) -> int:
        """How many can draw now."""
        return self._running if time.monotonic() - self._looked < _STALE else 0

    def send(self, parcel: Parcel) -> _Answer:
        """Gives a job to one of them, rather to one that has its models loaded."""
        handle = self._handle.options(stream=True, multiplexed_model_id=_models(parcel.job))
        return _Answer(self._ray, handle, parcel)

    def close(self) -> None:
        """Ends the replicas, and what was started for them. A cluster that does not answer is
        left.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        end = threading.Thread(target=self._end, daemon=True)
        end.start()
        end.join(_END)
        if end.is_alive():
            log.warning("the cluster does not answer: its replicas end by themselves")
        if self._connected_here:
            self._ray.shutdown()

    def _end(self) -> None:
        try:
            if self._pulse is not None:
                self._serve.delete(self._app)
                self._ray.kill(self._pulse)
            if self._starts_serve and not self._apps():
                self._serve.shutdown()
        except Exception as error:  # a cluster that fails fails in many ways
            log.warning("the replicas were not ended: %s", error)

    def _apps(self) -> dict[str, Any]:
        """The applications of the cluster by name."""
        return dict(self._serve.status().applications)

    def _watch(self) -> None:
        """Counts the replicas that run, until the end."""
        while True:
            try:
                app = self._apps().get(self._app)
                states = app.deployments[DRAWS_HERE].replica_states if app else {}
                count = sum(n for state, n in states.items() if _name(state) == "RUNNING")
                if count != self._running:
                    log.info("%d of %d to %d replicas run", count, self.least, self.most)
                self._running, self._looked = count, time.monotonic()
            except Exception as error:
                log.debug("the replicas cannot be counted: %s", error)
            if self._closing.wait(_LOOK):
                return


class _Answer:
    """The stream of a job, with Ray's errors as ours."""

    def __init__(self, ray: ModuleType, handle: Any, parcel: Parcel) -> None:
        self._ray, self._response = ray, handle.run.remote(parcel)

    def __iter__(self) -> Iterator[Progress | Finished]:
        from ray.serve.exceptions import RayServeException

        try:
            yield from self._response
        except self._ray.exceptions.RayTaskError:
            raise  # a fault of ours there
        except (self._ray.exceptions.RayError, RayServeException) as error:
            raise Lost(str(error).strip().partition("\n")[0]) from None

    def cancel(self) -> None:
        """Ends the job there."""
        self._response.cancel()


def _serve_of(ray: ModuleType) -> ModuleType:
    """Ray Serve. Raises CallError where its packages are not installed."""
    try:
        from ray import serve
    except ImportError as error:
        raise CallError(
            f"--ray needs Ray Serve, and a package of it is missing: {error}. Install it with pip "
            "install 'inkstone[serve,ray]', or all that Ray names with pip install 'ray[serve]'."
        ) from None
    module: ModuleType = serve
    return module


def _name(state: object) -> str:
    return str(getattr(state, "value", state))


def _models(job: Job) -> str:
    """Equal for jobs that load the same models; "" where that is not known."""
    if job.call is None:
        return ""
    return hashlib.sha256(repr(job.group).encode()).hexdigest()[:16]


def _deployment(serve: ModuleType) -> Any:
    """The replica as Ray Serve runs it."""

    @serve.deployment
    class Deployed(Replica):
        def __init__(self, places: Places, default: DrawCall, pulse: tuple[str, str]) -> None:
            super().__init__(places, default, serve.get_replica_context().replica_tag)
            threading.Thread(target=self._follow, args=pulse, daemon=True).start()

        @serve.multiplexed(max_num_models_per_replica=_MODELS)
        async def loaded(self, models: str) -> str:
            """Lets the router know what is loaded here."""
            return models

        async def run(self, parcel: Parcel) -> AsyncGenerator[Progress | Finished, None]:
            models = serve.get_multiplexed_model_id()
            if models:
                await self.loaded(models)
            async with contextlib.aclosing(super().run(parcel)) as items:
                async for item in items:
                    yield item

        def _follow(self, name: str, space: str) -> None:
            """Ends the application once the server has gone."""
            follow(name, space)
            self.leave()
            serve.delete(name, _blocking=False)

        def __del__(self) -> None:
            self.close()

    return Deployed
