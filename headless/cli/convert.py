"""`inkstone convert`: a workflow file as the page saves it -> the API graph that it would send."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from ...errors import InkstoneError
from ...files.paths import check_output
from ..arg_types import Commands, command, file_path
from ..node_types import Json
from .shared import add_graph

if TYPE_CHECKING:
    from ..workflow.load import GraphFile
    from ..workflow.node_info import Interface

_ADVICE = (
    "Pass the node list of a server that has them: --object-info http://127.0.0.1:8188, or a file "
    "with its /object_info."
)


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "convert",
        "convert a ComfyUI workflow (UI JSON or PNG) to an API graph, as ComfyUI's page does",
        "inkstone convert text_to_image_embedded -o api.json\n"
        "  inkstone convert other.json --object-info http://127.0.0.1:8188 -o api.json\n"
        "  inkstone convert official.json --to-inkstone -o with_inkstone.json",
    )
    add_graph(p)
    p.add_argument(
        "-o", "--out", type=file_path, metavar="API.json", help="write here (default: print it)"
    )
    p.add_argument(
        "--object-info",
        metavar="FILE_OR_URL",
        help="definitions of node classes that are not ours: a saved /object_info, or the "
        "address of a server on this machine",
    )
    p.add_argument(
        "--to-inkstone",
        action="store_true",
        help="replace core's Qwen-Image loaders with ours; a UI graph stays a UI graph",
    )
    p.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Convert; write the graph or print it."""
    from ...files.atomic import write_text
    from ..workflow.load import find_graph, read_graph_file

    if args.out is not None:
        check_output(args.out)
    file = read_graph_file(find_graph(args.graph))
    if args.to_inkstone:
        graph, notes = _exchanged(file)
        for note in notes:
            print(note, file=sys.stderr)
    else:
        graph = _as_api(file, args.object_info)
    text = json.dumps(graph, ensure_ascii=False, indent=2) + "\n"
    if args.out is None:
        sys.stdout.write(text)
    else:
        write_text(args.out, text)
        print(args.out)
    return 0


def _as_api(file: GraphFile, object_info: str | None) -> dict[str, Json]:
    from ..workflow.to_api import UnknownClasses

    try:
        return file.as_api(_classes(object_info), ran=False)
    except UnknownClasses as error:
        raise InkstoneError(f"{error} {_ADVICE}") from error


def _exchanged(file: GraphFile) -> tuple[dict[str, Json], list[str]]:
    from ..workflow.to_inkstone import to_inkstone

    return to_inkstone(file.ui if file.ui is not None else file.api or {})


def _classes(source: str | None) -> dict[str, Interface]:
    """Our classes and the stand-ins; a server's description of a class takes precedence."""
    from ..core_nodes.registry import node_classes
    from ..workflow.load import interfaces
    from ..workflow.node_info import read_interfaces

    ours = interfaces(node_classes())
    return ours if source is None else ours | read_interfaces(source)
