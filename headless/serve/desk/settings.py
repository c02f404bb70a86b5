"""The options of a server and its limits; light, the command line reads them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ....errors import CallError
from ...node_types import Json

HOST, PORT = "127.0.0.1", 8190
KEEP = 3600.0  # seconds that results are kept
RESPONSE_FORMATS = ("b64_json", "url")


@dataclass(frozen=True)
class Limits:
    """What a request may ask for."""

    queue: int = 32  # jobs that wait, of all keys
    per_key: int = 16  # jobs of one key that wait or run
    pixels: int = 2400 * 1792  # of one that is drawn or sent: the largest size of Qwen-Image-2.1
    steps: int = 100
    pictures: int = 10  # n, as OpenAI
    prompt: int = 32_000  # characters, as OpenAI
    seconds: int = 1800  # that a job may run
    upload: int = 64 << 20  # bytes of a request
    wait: float = 20.0  # seconds until the next part of a request comes
    request: float = 120.0  # seconds until a request is whole

    @property
    def enlarged(self) -> int:
        """Pixels of what `upscale` makes of a drawing: only tiles of it are drawn at a time."""
        return 4 * self.pixels


@dataclass(frozen=True)
class RayCall:
    """A cluster. workers: the fewest and the most replicas, None = one per GPU; retries: of a job
    whose replica was lost.
    """

    address: str
    workers: tuple[int, int] | None = None
    retries: int = 1


@dataclass(frozen=True)
class ServeCall:
    """The options of `inkstone serve`. defaults: values of DrawCall that all requests share."""

    host: str = HOST
    port: int = PORT
    models: Path = Path("models")
    names: tuple[str, ...] = ()  # further ones of the default model
    defaults: Mapping[str, Json] = field(default_factory=dict)
    api_key_file: Path | None = None
    state: Path | None = None
    keep: float = KEEP
    response_format: str = RESPONSE_FORMATS[0]  # of image requests that name none
    graphs: bool = False  # clients may send graphs
    cache_results: bool = False  # the same request of a key is answered with the same files
    limits: Limits = Limits()
    ray: RayCall | None = None


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_binding(call: ServeCall) -> None:
    """Raises CallError where others could reach a server that asks for no key."""
    if call.api_key_file is None and not is_loopback(call.host):
        raise CallError(
            f"--host {call.host}: other machines could reach this server, and it asks for no key. "
            "Give --api-key-file F, a file with one key a line, or keep --host 127.0.0.1."
        )
