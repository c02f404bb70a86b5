"""`inkstone serve`: a server with OpenAI's image routes, a queue and a page."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from ...errors import CallError
from ..arg_types import Commands, between, command, file_path, workers_range
from ..draw.options import add_machine
from ..serve.desk.settings import HOST, KEEP, PORT, RESPONSE_FORMATS, Limits, RayCall, ServeCall
from .shared import add_ray

_SHARED = ("model", "text_encoder", "vae", "lora", "dtype", "memory", "device")
_LIMITS = {  # field of Limits -> (most, help)
    "queue": (10_000, "jobs that wait, of all keys"),
    "per_key": (10_000, "jobs of one key that wait or run"),
    "pixels": (
        1 << 26,
        "pixels of a picture that is drawn or sent; enlarged by `upscale`, four times as many",
    ),
    "steps": (1000, "steps of a drawing"),
    "pictures": (64, "pictures of a request"),
    "seconds": (1_000_000, "seconds that a job may run"),
    "upload": (1 << 31, "bytes of a request"),
}


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "serve",
        "serve OpenAI's image routes, a queue of jobs and a page to draw with",
        "inkstone serve --models models --state jobs\n"
        "  then OpenAI(base_url='http://127.0.0.1:8190/v1', api_key='none').images.generate(...)",
    )
    _add_address(p)
    _add_models(p)
    _add_jobs(p)
    _add_limits(p)
    add_ray(p, "auto, HOST:PORT")
    p.add_argument(
        "--workers",
        type=workers_range,
        metavar="N|MIN:MAX",
        help="with --ray: number of workers, or the fewest and the most: more are started while "
        "jobs wait (default: one per GPU, or one without a GPU)",
    )
    add_machine(p)
    p.set_defaults(handler=run)


def _add_address(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--host", default=HOST, metavar="H", help=f"address to serve at (default {HOST})"
    )
    p.add_argument(
        "--port",
        type=between(0, 65535, int),
        default=PORT,
        metavar="N",
        help=f"port; 0 = a free one (default {PORT})",
    )
    p.add_argument(
        "--api-key-file",
        type=file_path,
        metavar="F",
        help="file with one API key a line; without it the server answers this machine only",
    )


def _add_models(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--models",
        type=file_path,
        metavar="DIR",
        help="models folder, laid out as ComfyUI's: what is in it is offered by name "
        "(default models)",
    )
    for name, text in (
        ("--model", "diffusion model file, checkpoint or model folder that is drawn with where a "
         "request names none (default: the embedded model)"),
        ("--text-encoder", "text encoder file or folder"),
        ("--vae", "VAE file or folder"),
    ):  # fmt: skip
        p.add_argument(name, type=file_path, metavar="F", help=text)
    p.add_argument(
        "--model-name",
        action="append",
        type=_name,
        metavar="NAME",
        help="a further name of the model that is drawn with where a request names none, such as "
        "gpt-image-1 or dall-e-3, for clients with a fixed list; may be repeated",
    )


def _name(text: str) -> str:
    if not text.strip() or text != text.strip() or not text.isprintable() or len(text) > 120:
        raise argparse.ArgumentTypeError(
            f"{text[:130]!r}: expected a name of 1 to 120 letters, such as gpt-image-1"
        )
    return text


def _add_jobs(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--state",
        type=file_path,
        metavar="DIR",
        help="folder for accepted jobs and results: a job of /v1/jobs survives a restart or a kill",
    )
    p.add_argument(
        "--keep",
        type=between(1, 1e7, float),
        default=KEEP,
        metavar="SECONDS",
        help=f"how long results are kept (default {KEEP:g})",
    )
    p.add_argument(
        "--response-format",
        choices=RESPONSE_FORMATS,
        default=RESPONSE_FORMATS[0],
        help="what an image request gets that does not say it: url for clients that were written "
        "for DALL-E and read data[0].url (default b64_json)",
    )
    p.add_argument(
        "--cache-results",
        action="store_true",
        help="answer a request that a key has sent before, its seed included, with the same files "
        "while they are kept",
    )
    p.add_argument(
        "--graphs",
        action="store_true",
        help="take graphs of ComfyUI too: sizes that a graph computes are bounded by memory and "
        "--max-seconds only",
    )


def _add_limits(p: argparse.ArgumentParser) -> None:
    usual = Limits()
    for field, (most, text) in _LIMITS.items():
        p.add_argument(
            f"--max-{field.replace('_', '-')}",
            type=between(1, most, int),
            default=getattr(usual, field),
            metavar="N",
            help=f"limit: {text} (default {getattr(usual, field)})",
        )


def run(args: argparse.Namespace) -> int:
    """Serve until it is stopped."""
    from ..draw.request import DrawCall, check_call
    from ..serve.run import serve

    if args.models is not None and not args.models.is_dir():
        raise CallError(
            f"--models {args.models}: there is no such folder. Expected one laid out as ComfyUI's "
            "models folder; without the option it is models, if that is there."
        )
    shared = {name: getattr(args, name, None) for name in _SHARED}
    defaults = {name: value for name, value in shared.items() if value is not None}
    check_call(DrawCall("", **defaults))
    limits = {field: getattr(args, f"max_{field}") for field in _LIMITS}
    serve(
        ServeCall(
            host=args.host,
            port=args.port,
            models=args.models or Path("models"),
            names=tuple(args.model_name or ()),
            defaults=defaults,
            api_key_file=args.api_key_file,
            state=args.state,
            keep=args.keep,
            response_format=args.response_format,
            graphs=args.graphs,
            cache_results=args.cache_results,
            limits=dataclasses.replace(Limits(), **limits),
            ray=_ray(args),
        )
    )
    return 0


def _ray(args: argparse.Namespace) -> RayCall | None:
    if args.ray is not None:
        return RayCall(args.ray, args.workers, args.retries)
    if args.workers is not None:
        raise CallError("--workers is for --ray: without it one worker draws, this process.")
    return None
