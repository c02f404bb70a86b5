"""What the command `inkstone` accepts: every subcommand, option, range and default.

Nothing heavy is imported here; wrong values are refused in words with exit status 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import between, command, device
from .batch_options import add_batch
from .check import add_check
from .convert import add_convert
from .draw_options import add_draw, add_plan
from .preprocess_options import add_preprocess


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from .. import __version__

    parser = argparse.ArgumentParser(prog="inkstone", description="Qwen-Image on its own kernels.")
    parser.add_argument("--version", action="version", version=f"inkstone {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_draw(commands)
    add_plan(commands)
    _add_run(commands)
    add_batch(commands)
    add_convert(commands)
    add_check(commands)
    _add_inspect(commands)
    _add_quantize(commands)
    add_preprocess(commands)
    _add_train(commands)
    _add_doctor(commands)
    return parser


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


def _add_inspect(commands) -> None:
    p = command(
        commands,
        "inspect",
        "say what a weight file is",
        "inkstone inspect qwen_image_bf16.safetensors",
    )
    p.add_argument("files", nargs="+", type=Path, metavar="FILE")
    p.add_argument("--json", action="store_true", help="print facts as JSON")


def _add_quantize(commands) -> None:
    p = command(
        commands,
        "quantize",
        "write a model in fewer bits (resumes after a stop)",
        "inkstone quantize qwen_image_bf16.safetensors qwen-image-Q4_K_M.gguf --type Q4_K_M",
    )
    p.add_argument("source", type=Path, metavar="IN", help="a model file, index or folder")
    p.add_argument("out", type=Path, metavar="OUT", help=".gguf, or .safetensors for fp8_scaled")
    p.add_argument(
        "--type",
        required=True,
        metavar="T",
        help="Q2_K, Q3_K_S, Q3_K_M, Q4_0, Q4_1, Q4_K_S, Q4_K_M, Q5_0, Q5_1, Q5_K_S, Q5_K_M, Q6_K, "
        "Q8_0, F16, BF16 or fp8_scaled",
    )
    p.add_argument(
        "--imatrix", type=Path, metavar="F", help="importance matrix (GGUF or .dat) to weigh with"
    )
    p.add_argument(
        "--prompts",
        type=Path,
        metavar="F",
        help="text file, one prompt a line: the model draws them to find which inputs count",
    )
    p.add_argument(
        "--text-encoder", type=Path, metavar="F", help="for --prompts, where IN is a single file"
    )
    p.add_argument("--json", action="store_true", help="print facts as JSON")


def _add_train(commands) -> None:
    p = command(
        commands,
        "train",
        "train the embedded model again (resumes after a stop)",
        "inkstone train --out my-model",
    )
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="model folder to write; checkpoints go to FOLDER/checkpoints",
    )
    p.add_argument(
        "--start",
        type=Path,
        metavar="MODEL",
        help="a model folder that draws already: only edits and control are trained, its VAE is "
        "kept",
    )
    p.add_argument(
        "--only",
        choices=("control",),
        metavar="STAGE",
        help="with --start: train (or score) only this, and keep all else of the model; control",
    )
    p.add_argument(
        "--seed",
        type=between(0, 2**31, int),
        metavar="N",
        help="seed of weights and data (default: the shipped model's)",
    )
    p.add_argument(
        "--score", action="store_true", help="only score the model in FOLDER on unseen prompts"
    )
    p.add_argument(
        "--prompts",
        type=between(1, 10000, int),
        default=200,
        metavar="N",
        help="unseen prompts to score on (default 200)",
    )


def _add_doctor(commands) -> None:
    p = command(
        commands,
        "doctor",
        "versions, devices and backends: what a bug report needs",
        "inkstone doctor",
    )
    p.add_argument("--json", action="store_true", help="print facts as JSON")
