"""`inkstone quantize`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..arg_types import command
from .progress import ProgressLine


def _quantize(args: argparse.Namespace) -> int:
    from ...pipeline.quantize import quantize
    from ...pipeline.quantize_request import QuantizeCall

    names = QuantizeCall.__dataclass_fields__
    call = QuantizeCall(**{k: v for k, v in vars(args).items() if k in names})
    facts = quantize(call, ProgressLine(args.quiet))
    print(json.dumps(facts, ensure_ascii=False, indent=1) if args.json else facts["file"])
    return 0


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
