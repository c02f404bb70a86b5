"""What the command `inkstone` accepts: every subcommand, option, range and default.

Nothing heavy is imported here; wrong values are refused in words with exit status 2.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..kernels.errors import InkstoneError

LATER = {
    "--image": "editing and image-to-image",
    "--mask": "inpainting",
    "--strength": "image-to-image",
    "--control": "ControlNet",
    "--control-model": "ControlNet",
}
_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


class _Later(argparse.Action):
    """An option of the contract that this version does not have yet: refused in words, never
    ignored.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(
            f"{option_string}: {LATER[option_string]} is not part of this version of Inkstone"
        )


def _size(text: str) -> tuple[int, int]:
    from ..sampling.geometry import parse_size

    return _checked(parse_size, text)


def _checked(parse, text):
    try:
        return parse(text)
    except InkstoneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _memory(text: str) -> int:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if unit is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an amount of memory: write for example 12GB"
        )
    return int(float(match[1]) * unit)


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected cpu, cuda, cuda:1, xpu or mps")
    return text


def _lora(text: str) -> tuple[Path, float]:
    """F[:STRENGTH]. A path may hold colons itself (C:\\...): only a number at the end counts."""
    path, _, tail = text.rpartition(":")
    try:
        float(tail)
    except ValueError:
        return Path(text), 1.0
    if not path or Path(text).is_file():
        return Path(text), 1.0
    return Path(path), _range(-100, 100, float)(tail)


def _range(low: float, high: float, kind: type):
    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected a number from {low} to {high}"
            )
        return value

    return parse


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from .. import __version__

    parser = argparse.ArgumentParser(prog="inkstone", description="Qwen-Image on its own kernels.")
    parser.add_argument("--version", action="version", version=f"inkstone {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_draw(commands)
    _add_plan(commands)
    _add_run(commands)
    _add_inspect(commands)
    _add_quantize(commands)
    _add_train(commands)
    _add_doctor(commands)
    return parser


def _command(commands, name: str, text: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quiet", action="store_true", help="only errors on stderr")
    return parser


def _add_models(p: argparse.ArgumentParser) -> None:
    p.add_argument("--text-encoder", type=Path, metavar="F", help="text encoder file or folder")
    p.add_argument("--vae", type=Path, metavar="F", help="VAE file or folder")


def _add_canvas(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--size",
        type=_size,
        metavar="WxH",
        help="picture size, multiples of 16 (default: the model's)",
    )
    p.add_argument(
        "--steps",
        type=_range(1, 1000, int),
        metavar="N",
        help="denoising steps (default: the model's)",
    )
    p.add_argument(
        "--batch",
        type=_range(1, 256, int),
        default=1,
        metavar="N",
        help="pictures to draw (default 1)",
    )


def _add_machine(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="type to compute in (default: the fastest safe one)",
    )
    p.add_argument(
        "--memory",
        type=_memory,
        metavar="12GB",
        help="memory that all of it may take; what does not fit is streamed from the file "
        "(default: what is free)",
    )
    p.add_argument(
        "--device",
        type=_device,
        metavar="D",
        help="cpu, cuda, cuda:1 (default: cuda if there is one)",
    )


def _add_plan(commands) -> None:
    p = _command(
        commands,
        "plan",
        "print what a draw will hold in memory, from file headers alone",
        "inkstone plan qwen-image-Q4_K_M.gguf --size 1328x1328 --memory 12GB",
    )
    p.add_argument(
        "model",
        nargs="?",
        type=Path,
        metavar="MODEL",
        help="diffusion model file or whole model folder (default: the embedded model)",
    )
    _add_models(p)
    _add_canvas(p)
    _add_machine(p)
    p.add_argument("--json", action="store_true", help="print the plan as JSON, in bytes")


def _add_draw(commands) -> None:
    p = _command(
        commands,
        "draw",
        "draw a picture from a prompt",
        "inkstone draw 'a red circle on a white background' -o circle.png",
    )
    p.add_argument("prompt", metavar="PROMPT")
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="OUT.png",
        help="file to write (default inkstone.png, or the next free number)",
    )
    p.add_argument(
        "--model",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="diffusion model or whole model folder (default: the embedded model)",
    )
    _add_models(p)
    _add_canvas(p)
    _add_sampling(p)
    p.add_argument(
        "--lora",
        type=_lora,
        action="append",
        default=[],
        metavar="F[:STRENGTH]",
        help="LoRA file, with a strength of 1 unless given; may be repeated",
    )
    _add_machine(p)
    p.add_argument(
        "--save-latent",
        type=Path,
        metavar="F.safetensors",
        help="also write the raw latents, key `samples`",
    )
    p.add_argument(
        "--plan", action="store_true", help="print the memory plan and stop; nothing is loaded"
    )
    p.add_argument("--json", action="store_true", help="print facts as JSON instead of file names")
    for option in LATER:
        p.add_argument(option, action=_Later, help=argparse.SUPPRESS)


def _add_sampling(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--cfg",
        type=_range(0, 100, float),
        metavar="S",
        help="guidance scale; 1 = off (default: the model's)",
    )
    p.add_argument(
        "--negative", metavar="TEXT", help="negative prompt (used when --cfg is above 1)"
    )
    p.add_argument(
        "--seed",
        type=_range(0, 2**64 - 1, int),
        default=0,
        metavar="N",
        help="picture k of a batch uses seed + k (default 0)",
    )
    p.add_argument(
        "--fast", action="store_true", help="the model's few-step setting: 8 steps, no CFG"
    )


def _add_run(commands) -> None:
    p = _command(
        commands,
        "run",
        "run a workflow (API JSON) without a server",
        "inkstone run workflows/api/text_to_image_embedded.json --output out",
    )
    p.add_argument("graph", type=Path, metavar="GRAPH")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="change an input; node by id or title",
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
    p.add_argument("--device", type=_device, metavar="D", help="cpu, cuda, cuda:1")
    p.add_argument("--json", action="store_true", help="print facts as JSON")


def _add_inspect(commands) -> None:
    p = _command(
        commands,
        "inspect",
        "say what a weight file is",
        "inkstone inspect qwen_image_bf16.safetensors",
    )
    p.add_argument("files", nargs="+", type=Path, metavar="FILE")
    p.add_argument("--json", action="store_true", help="print facts as JSON")


def _add_quantize(commands) -> None:
    p = _command(
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
    p = _command(
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
        "--seed",
        type=_range(0, 2**31, int),
        metavar="N",
        help="seed of weights and data (default: the shipped model's)",
    )
    p.add_argument(
        "--score", action="store_true", help="only score the model in FOLDER on unseen prompts"
    )
    p.add_argument(
        "--prompts",
        type=_range(1, 10000, int),
        default=200,
        metavar="N",
        help="unseen prompts to score on (default 200)",
    )


def _add_doctor(commands) -> None:
    p = _command(
        commands,
        "doctor",
        "versions, devices and backends: what a bug report needs",
        "inkstone doctor",
    )
    p.add_argument("--json", action="store_true", help="print facts as JSON")
