"""`inkstone run`: executes a workflow file without a server."""

from __future__ import annotations

import argparse

from ..arg_types import Commands, add_device, command
from .progress import ProgressLine
from .shared import add_folders, add_graph, add_json, print_files


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "run",
        "run a workflow (UI or API JSON, or a PNG that contains one) without a server",
        "inkstone run text_to_image_embedded --output out\n"
        '  inkstone run mine.json --set 3.seed=7 --set "Inkstone Sampler.steps=8"',
    )
    add_graph(p)
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="change an input; NODE is an id (5:3 in a subgraph) or a title; may be repeated",
    )
    add_folders(p, "models", "input", "output")
    add_device(p)
    add_json(p)
    p.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the graph; print the files that it saved."""
    from ...host.headless import HeadlessHost
    from ..workflow.load import find_graph
    from ..workflow.run import run_file

    path = find_graph(args.graph)
    host = HeadlessHost(
        models=(args.models,),
        input=args.input,
        output=args.output,
        temp=args.output / "temp",
        device=args.device,
        own_paths=frozenset(setting.partition("=")[2] for setting in args.set),
    )
    print_files(run_file(path, args.set, host, ProgressLine(args.quiet)), args.json)
    return 0
