"""`inkstone convert`: a workflow file as the page saves it -> the API graph that it would send."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ...errors import CallError, InkstoneError
from ...files.atomic import write_text
from ..arg_types import command
from ..workflow.load import interfaces, read_graph_file
from ..workflow.node_info import Interface, read_interfaces
from ..workflow.to_api import UnknownClasses

_ADVICE = (
    "Give the list of a server that has them: --object-info http://127.0.0.1:8188, or a file "
    "of its /object_info."
)


def add_convert(commands) -> None:
    """`inkstone convert`."""
    p = command(
        commands,
        "convert",
        "turn a workflow of ComfyUI's page (UI JSON or PNG) into an API graph, as the page does",
        "inkstone convert workflows/text_to_image_embedded.json -o api.json\n"
        "  inkstone convert other.json --object-info http://127.0.0.1:8188 -o api.json\n"
        "  inkstone convert official.json --to-inkstone -o with_inkstone.json",
    )
    p.add_argument("graph", type=Path, metavar="GRAPH", help="UI or API JSON, or a PNG with one")
    p.add_argument(
        "-o", "--out", type=Path, metavar="API.json", help="write here (default: print it)"
    )
    p.add_argument(
        "--object-info",
        metavar="FILE_OR_URL",
        help="classes that are not ours: a file of a server's /object_info, or the address of a "
        "server on this machine",
    )
    p.add_argument(
        "--to-inkstone",
        action="store_true",
        help="exchange core Qwen-Image loaders for ours; a UI graph stays one",
    )


def run_convert(args: argparse.Namespace) -> int:
    """The handler; returns the exit status."""
    import sys

    if not args.graph.is_file():
        raise CallError(f"{args.graph}: no such graph file. Check the path.")
    file = read_graph_file(args.graph)
    if args.to_inkstone:
        made, notes = _exchanged(file)
        for note in notes:
            print(note, file=sys.stderr)
    else:
        try:
            made = file.as_api(_classes(args.object_info), ran=False)
        except UnknownClasses as error:
            raise InkstoneError(f"{error} {_ADVICE}") from error
    text = json.dumps(made, ensure_ascii=False, indent=2) + "\n"
    if args.out is None:
        sys.stdout.write(text)
    else:
        write_text(args.out, text)
        print(args.out)
    return 0


def _exchanged(file: Any) -> tuple[dict[str, Any], list[str]]:
    from ..workflow.to_inkstone import to_inkstone

    return to_inkstone(file.ui if file.ui is not None else file.api)


def _classes(source: str | None) -> dict[str, Interface]:
    """Ours and the stand-ins, and those of a server: what a server says of a class is used."""
    from ..core_nodes.registry import node_classes

    ours = interfaces(node_classes())
    return ours if source is None else ours | read_interfaces(source)
