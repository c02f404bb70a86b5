"""`inkstone check`: checks whether a graph will run here, lists missing files, estimates memory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CallError, InkstoneError
from ...files.paths import check_output
from ..arg_types import Commands, add_device, command, file_path
from .shared import add_folders, add_graph, add_json, as_text

if TYPE_CHECKING:
    from ..workflow.check import Verdict


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "check",
        "check whether a graph will run here, and list what is missing",
        "inkstone check shared.json --models models --memory\n"
        "  inkstone check mine.json --pin -o mine_pinned.json",
    )
    add_graph(p)
    add_folders(p, "models", "input")
    p.add_argument(
        "--memory", action="store_true", help="also print the memory plan of each canvas"
    )
    add_device(p)
    p.add_argument(
        "--pin",
        action="store_true",
        help="write a copy that names each model file with its hash and size",
    )
    p.add_argument("-o", "--out", type=file_path, metavar="OUT.json", help="where --pin writes")
    add_json(p)
    p.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Print the verdict: 0 the graph will run here, 1 it will not."""
    from ...host.headless import HeadlessHost, using
    from ..workflow.check import check_file
    from ..workflow.load import find_graph, read_graph_file
    from ..workflow.memory_estimate import memory_lines
    from ..workflow.pin import write_pinned

    path = find_graph(args.graph)
    if args.pin != (args.out is not None):
        raise CallError("--pin and -o OUT.json go together: the copy is written there.")
    if args.out is not None:
        check_output(args.out)
    host = HeadlessHost(models=(args.models,), input=args.input, device=args.device)
    file = read_graph_file(path)
    with using(host):
        verdict, graph = check_file(file)
        if args.memory and graph is not None and not verdict.missing:
            try:
                verdict.memory = memory_lines(graph)
            except InkstoneError as error:
                verdict.faults.append(str(error))
        if args.pin:
            write_pinned(file, graph, args.out)
    if args.json:
        print(as_text({"runs": verdict.runs(), **vars(verdict)}))
    else:
        sys.stdout.write(_lines(path, verdict))
    return 0 if verdict.runs() else 1


def _lines(path: Path, verdict: Verdict) -> str:
    lines = [f"{path}: {'will run here' if verdict.runs() else 'will not run here'}"]
    lines += [f"  fault: {text}" for text in verdict.faults]
    lines += [f"  missing: {entry['said']}" for entry in verdict.missing]
    lines += [f"  model: {entry['name']} -> {entry['path']}" for entry in verdict.models]
    lines += [f"  note: {text}" for text in verdict.notes]
    lines += [f"  memory at {text}" for text in verdict.memory]
    return "\n".join(lines) + "\n"
