"""Options of `inkstone draw` and `inkstone plan`: models, canvas, pictures, sampling, machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...loaders.arch.variant import CHOICES
from ..arg_types import between, command, device, lora, memory, size
from .control_option import control, kinds


def add_for_all(p: argparse.ArgumentParser) -> None:
    """What all jobs of a queue can share."""
    _add_model(p)
    _add_models(p)
    _add_canvas(p)
    _add_sampling(p)
    _add_variant(p)
    _add_control_model(p)
    _add_loras(p)
    _add_machine(p)


def _add_model(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--model",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="diffusion model or whole model folder (default: the embedded model)",
    )


def _add_models(p: argparse.ArgumentParser) -> None:
    p.add_argument("--text-encoder", type=Path, metavar="F", help="text encoder file or folder")
    p.add_argument("--vae", type=Path, metavar="F", help="VAE file or folder")


def _add_loras(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--lora",
        type=lora,
        action="append",
        default=[],
        metavar="F[:STRENGTH]",
        help="LoRA file, with a strength of 1 unless given; may be repeated",
    )


def _add_canvas(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--size",
        type=size,
        metavar="WxH",
        help="picture size, multiples of 16 (default: the model's)",
    )
    p.add_argument(
        "--steps",
        type=between(1, 1000, int),
        metavar="N",
        help="denoising steps (default: the model's)",
    )
    p.add_argument(
        "--batch",
        type=between(1, 256, int),
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
        type=memory,
        metavar="12GB",
        help="memory that all of it may take; what does not fit is streamed from the file "
        "(default: what is free)",
    )
    p.add_argument(
        "--device",
        type=device,
        metavar="D",
        help="cpu, cuda, cuda:1 (default: cuda if there is one)",
    )


def add_plan(commands) -> None:
    """`inkstone plan`."""
    p = command(
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
    _add_loras(p)
    _add_canvas(p)
    _add_machine(p)
    p.add_argument("--json", action="store_true", help="print the plan as JSON, in bytes")


def add_draw(commands) -> None:
    """`inkstone draw`."""
    p = command(
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
    _add_model(p)
    _add_models(p)
    _add_canvas(p)
    _add_sampling(p)
    _add_pictures(p)
    _add_controls(p)
    _add_loras(p)
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


def _add_sampling(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--cfg",
        type=between(0, 100, float),
        metavar="S",
        help="guidance scale; 1 = off (default: the model's)",
    )
    p.add_argument(
        "--negative", metavar="TEXT", help="negative prompt (used when --cfg is above 1)"
    )
    p.add_argument(
        "--seed",
        type=between(0, 2**64 - 1, int),
        default=0,
        metavar="N",
        help="picture k of a batch uses seed + k (default 0)",
    )
    p.add_argument(
        "--fast", action="store_true", help="the model's few-step setting: 8 steps, no CFG"
    )


def _add_pictures(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        metavar="F",
        help="picture to start from. With an edit model several are Picture 1, 2, 3; with a "
        "text-to-image model one is changed by --strength. The result has exactly its size",
    )
    p.add_argument(
        "--mask",
        type=Path,
        metavar="F",
        help="repaint only this part of the picture: white, or where the file has alpha what is "
        "transparent. All else keeps its values",
    )
    p.add_argument(
        "--strength",
        type=between(0.001, 1, float),
        metavar="S",
        help="how much of the picture is drawn anew, 0 to 1 (default 0.6; with an edit model 1). "
        "The embedded model edits a picture without --strength and --mask, and starts from it with",
    )
    p.add_argument(
        "--layers",
        type=between(1, 64, int),
        metavar="N",
        help="with Qwen-Image-Layered: take the picture apart into so many layers (default 4)",
    )
    _add_variant(p)


def _add_variant(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--variant",
        choices=CHOICES,
        metavar="NAME",
        help="what the model is, for files that do not say: " + ", ".join(CHOICES),
    )


def _add_controls(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--control",
        type=control,
        action="append",
        default=[],
        metavar="TYPE:F[:STRENGTH[:START-END]]",
        help="control picture; TYPE is map (F is the map itself) or what is made of F: "
        f"{', '.join(kinds()[1:])}. Strength 1 unless given; START-END are fractions of the steps. "
        "May be repeated. Without --size and --image the result has the size of the first",
    )
    _add_control_model(p)


def _add_control_model(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--control-model",
        type=Path,
        action="append",
        default=[],
        metavar="F",
        help="control file: InstantX Union, or Inpainting (with --mask). One for all controls, or "
        "one for each (default: what the model's folder has in controlnet/)",
    )
