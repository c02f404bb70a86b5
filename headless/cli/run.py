"""`inkstone run`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...errors import CallError
from ..arg_types import command, device
from .progress import ProgressLine


def _run(args: argparse.Namespace) -> int:
    from ...host.headless import HeadlessHost
    from ..workflow.run import run_file

    if not args.graph.is_file():
        raise CallError(f"{args.graph}: no such graph file. Check the path.")
    host = HeadlessHost(
        models=(args.models,), input=args.input, output=args.output, device=args.device
    )
    facts = run_file(args.graph, args.set, host, ProgressLine(args.quiet))
    print(
        json.dumps(facts, ensure_ascii=False, indent=1) if args.json else "\n".join(facts["files"])
    )
    return 0


def _add_run(commands) -> None:
    p = command(
        commands,
        "run",
        "run a workflow (UI or API JSON, or a PNG with one) without a server",
        "inkstone run workflows/api/text_to_image_embedded.json --output out",
    )
    p.add_argument("graph", type=Path, metavar="GRAPH")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="change an input; node by id (5:3 in a subgraph) or title",
    )
    p.add_argument(
        "--models",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="models folder laid out as ComfyUI's (default models)",
    )
    p.add_argument(
        "--input",
        type=Path,
        default=Path("input"),
        metavar="DIR",
        help="folder of input pictures (default input)",
    )
    p.add_argument(
        "--output",
        type=Path,
        default=Path("output"),
        metavar="DIR",
        help="folder for results (default output)",
    )
    p.add_argument("--device", type=device, metavar="D", help="cpu, cuda, cuda:1")
    p.add_argument("--json", action="store_true", help="print facts as JSON")
