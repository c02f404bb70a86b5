"""Options and output that several commands share, declared once."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from ..arg_types import between, file_path
from ..node_types import Json

FOLDERS = {
    "models": "models folder, laid out as ComfyUI's",
    "input": "folder of input pictures",
    "output": "folder for results",
}
GRAPH_HELP = (
    "UI or API JSON, a PNG that contains a graph, or the name of a shipped workflow, such as "
    "text_to_image_embedded"
)


def add_graph(parser: argparse.ArgumentParser) -> None:
    """The positional GRAPH."""
    parser.add_argument("graph", type=file_path, metavar="GRAPH", help=GRAPH_HELP)


def add_folders(parser: argparse.ArgumentParser, *names: str, prefix: str = "") -> None:
    """Options for folders of FOLDERS; each defaults to the folder of its own name."""
    for name in names:
        parser.add_argument(
            f"--{name}",
            type=file_path,
            default=Path(name),
            metavar="DIR",
            help=f"{prefix}{FOLDERS[name]} (default {name})",
        )


def add_json(parser: argparse.ArgumentParser, text: str = "print facts as JSON") -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help=text)


def add_ray(parser: argparse.ArgumentParser, addresses: str) -> None:
    """--ray, --retries. addresses: what --ray takes beside local."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help=f"run on a Ray cluster, one worker per GPU: {addresses}, or local to start one on "
        "this machine",
    )
    parser.add_argument(
        "--retries",
        type=between(0, 100, int),
        default=1,
        metavar="N",
        help="with --ray: how often a job is retried when its worker is lost (default 1)",
    )


def fields_of(record: type, args: argparse.Namespace) -> dict[str, Json]:
    """The arguments that are fields of a dataclass, for its constructor."""
    names = {field.name for field in dataclasses.fields(record)}
    return {name: value for name, value in vars(args).items() if name in names}


def print_files(facts: Mapping[str, Json], as_json: bool) -> None:
    """Print all facts as JSON, or else the paths in facts["files"], one a line."""
    print(as_text(facts) if as_json else "\n".join(facts["files"]))


def as_text(facts: object) -> str:
    """Indented JSON."""
    return json.dumps(facts, ensure_ascii=False, indent=1)
