"""`inkstone quantize`: writes a model in fewer bits."""

from __future__ import annotations

import argparse

from ..arg_types import Commands, command, file_path
from .progress import ProgressLine
from .shared import add_json, as_text, fields_of


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "quantize",
        "write a model in fewer bits; the same command resumes after a stop",
        "inkstone quantize qwen_image_bf16.safetensors qwen-image-Q4_K_M.gguf --type Q4_K_M",
    )
    p.add_argument("source", type=file_path, metavar="IN", help="a model file, index or folder")
    p.add_argument(
        "out", type=file_path, metavar="OUT", help=".gguf, or .safetensors for fp8_scaled"
    )
    p.add_argument(
        "--type",
        required=True,
        metavar="T",
        help="Q2_K, Q3_K_S, Q3_K_M, Q4_0, Q4_1, Q4_K_S, Q4_K_M, Q5_0, Q5_1, Q5_K_S, Q5_K_M, Q6_K, "
        "Q8_0, F16, BF16 or fp8_scaled",
    )
    p.add_argument(
        "--imatrix",
        type=file_path,
        metavar="F",
        help="importance matrix (GGUF or .dat) that weights the rounding errors",
    )
    p.add_argument(
        "--prompts",
        type=file_path,
        metavar="F",
        help="text file, one prompt per line: the model draws them to measure which inputs matter",
    )
    p.add_argument(
        "--text-encoder",
        type=file_path,
        metavar="F",
        help="text encoder for --prompts, if IN is a single file",
    )
    add_json(p)
    p.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Quantize; print the file."""
    from ...pipeline.quantize import quantize
    from ...pipeline.quantize_request import QuantizeCall

    facts = quantize(QuantizeCall(**fields_of(QuantizeCall, args)), ProgressLine(args.quiet))
    print(as_text(facts) if args.json else facts["file"])
    return 0
