"""Options of `inkstone draw` and `inkstone plan`: models, canvas, pictures, sampling, machine."""

from __future__ import annotations

import argparse

from ...loaders.arch.variant import CHOICES
from ...sampling.geometry import FITS
from ...sampling.prefix_choices import KEEPS
from ...sampling.region_choices import EXAMPLE, USUAL_BASE
from ...sampling.region_choices import METHODS as REGION_METHODS
from ...sampling.step_cache_choices import METHODS
from ..arg_types import (
    Commands,
    add_device,
    between,
    command,
    file_path,
    lora,
    memory,
    region,
    region_method,
    size,
    step_cache,
)
from .control_option import control, kinds
from .upscale_option import add_upscale
from .variety_option import add_variety

# --schedule; in the order of the node Schedule
SCHEDULE_OPTIONS = (
    "model",
    "qwen-image",
    "lightning",
    "linear",
    "comfyui-2.1",
    "lightning-2.1",
    "turbo-2.1",
)


def add_for_all(p: argparse.ArgumentParser) -> None:
    """Adds the options that all jobs of a queue can share."""
    _add_model(p)
    _add_models(p)
    _add_canvas(p)
    _add_sampling(p)
    _add_variant(p)
    _add_control_model(p)
    _add_loras(p)
    add_machine(p)


def _add_model(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--model",
        type=file_path,
        metavar="FILE_OR_FOLDER",
        help="diffusion model file, checkpoint or whole model folder (default: the embedded model)",
    )


def _add_models(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--text-encoder", type=file_path, metavar="F", help="text encoder file or folder"
    )
    p.add_argument("--vae", type=file_path, metavar="F", help="VAE file or folder")


def _add_loras(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--lora",
        type=lora,
        action="append",
        default=[],
        metavar="F[:STRENGTH]",
        help="LoRA file and its strength (default 1); may be repeated",
    )


def _add_canvas(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--size",
        type=size,
        metavar="WxH",
        help="picture size, multiples of 16, with Qwen-Image-2.1 of 32, or auto: the model's, of "
        "an edit that of Picture 1 (default: auto)",
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


def add_machine(p: argparse.ArgumentParser, draws: bool = True) -> None:
    """Options of where and how exactly to compute. draws: with a diffusion model."""
    int8 = "; int8: its products in the blocks of the diffusion model, on CPUs with VNNI"
    p.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", *(("int8",) if draws else ())),
        help=f"compute type (default: the fastest safe one{int8 if draws else ''})",
    )
    p.add_argument(
        "--memory",
        type=memory,
        metavar="12GB",
        help="memory limit of the whole process; weights that do not fit are streamed from the "
        "file (default: the free memory)",
    )
    add_device(p)


def add_plan(commands: Commands) -> None:
    """`inkstone plan`."""
    p = command(
        commands,
        "plan",
        "print the memory plan of a drawing; only file headers are read",
        "inkstone plan qwen-image-Q4_K_M.gguf --size 1328x1328 --memory 12GB",
    )
    p.add_argument(
        "model",
        nargs="?",
        type=file_path,
        metavar="MODEL",
        help="diffusion model file, checkpoint or whole model folder (default: the embedded model)",
    )
    _add_models(p)
    _add_loras(p)
    _add_canvas(p)
    add_machine(p)
    p.add_argument("--json", action="store_true", help="print the plan as JSON, in bytes")


def add_draw(commands: Commands) -> None:
    """`inkstone draw`."""
    p = command(
        commands,
        "draw",
        "draw a picture from a prompt",
        "inkstone draw 'a red circle on a white background' -o circle.png",
    )
    p.add_argument(
        "prompt", metavar="PROMPT", help="description of the picture, or what to edit in --image"
    )
    p.add_argument(
        "-o",
        "--out",
        type=file_path,
        metavar="OUT.png",
        help="file to write (default inkstone.png, or the next free number)",
    )
    _add_model(p)
    _add_models(p)
    _add_canvas(p)
    _add_sampling(p)
    _add_pictures(p)
    _add_regions(p)
    add_upscale(p)
    _add_controls(p)
    _add_loras(p)
    add_machine(p)
    p.add_argument(
        "--save-latent",
        type=file_path,
        metavar="F.safetensors",
        help="also save the raw latents, key `samples`",
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
        "--schedule",
        choices=SCHEDULE_OPTIONS,
        metavar="NAME",
        help="noise levels of the steps: model (its own), qwen-image (shift by size), lightning "
        "(shift 3), linear, comfyui-2.1 (constant shift 0.69), lightning-2.1 (shift by size), "
        "turbo-2.1 (8 fixed) (default: the model's; of a distilled LoRA its own, if neither "
        "--steps nor --cfg is given)",
    )
    p.add_argument(
        "--reference-cache",
        choices=KEEPS,
        metavar="PLACE",
        help="where Qwen-Image-2.1 keeps what it computed of prompt and references for all steps: "
        "auto (where there is room), device, host (main memory), off (default: auto)",
    )
    p.add_argument(
        "--cache",
        type=step_cache,
        metavar="NAME[:THRESHOLD]",
        help="skip what changes little from step to step: "
        f"{', '.join(METHODS)}. A higher threshold is faster and farther from the picture without "
        "a cache; of taylorseer it is every how many steps one is computed. :force behind it "
        "allows Lightning, Turbo and few steps (default: off)",
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
        "--fast", action="store_true", help="the model's few-step preset: 8 steps, no CFG"
    )
    p.add_argument(
        "--enhance",
        action="store_true",
        help="let the text encoder rewrite the prompt in more detail first; text in quotes stays "
        "as it is",
    )
    add_variety(p)
    add_instructions(p)


def add_instructions(p: argparse.ArgumentParser) -> None:
    """How a prompt is enhanced."""
    p.add_argument(
        "--instructions",
        type=file_path,
        metavar="F.txt",
        help="text file that says how the prompt is rewritten, in place of Inkstone's instructions",
    )


def _add_pictures(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--image",
        type=file_path,
        action="append",
        default=[],
        metavar="F",
        help="input picture: reference image of an edit model (repeat for Picture 1, 2, 3), or the "
        "start of image-to-image with a text-to-image model (see --strength). The result has "
        "exactly the size of Picture 1; --size gives an edit a canvas of its own",
    )
    p.add_argument(
        "--mask",
        type=file_path,
        metavar="F",
        help="inpaint only this part of the picture: white pixels, also white paint on a "
        "transparent layer. In any other file with transparency: the transparent pixels. All other "
        "pixels keep their values",
    )
    p.add_argument(
        "--strength",
        type=between(0, 1, float),
        metavar="S",
        help="denoising strength: near 0 keeps the picture, 1 ignores it (default 0.6; with an "
        "edit model 1); 0 is for --upscale, which then enlarges the picture itself. The embedded "
        "model edits a picture; with --strength or --mask it starts "
        "from it",
    )
    p.add_argument(
        "--layers",
        type=between(1, 64, int),
        metavar="N",
        help="with Qwen-Image-Layered: number of layers to split the picture into (default 4)",
    )
    _add_variant(p)


def _add_regions(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--region",
        type=region,
        action="append",
        default=[],
        metavar="PROMPT:X,Y,W,H|MASK",
        help="a prompt for one part of the picture: a box in pixels or in percent, for example "
        f"'{EXAMPLE}' or 'a cat:50%%,0,50%%,100%%', or the file of a mask of any size, white where "
        "the part is ('a cat:mask.png'); may be repeated. The prompt itself is that of the whole "
        "picture",
    )
    p.add_argument(
        "--region-method",
        type=region_method,
        metavar="METHOD[:BASE][:START-END]",
        help=f"how regions act: {REGION_METHODS[0]} (any model; BASE, the share of the whole "
        f"picture in what a region sees, is usually {USUAL_BASE:g}) or {REGION_METHODS[1]} (with "
        f"the EliGen LoRA); START-END are fractions of the steps (default: {REGION_METHODS[0]})",
    )


def _add_variant(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--variant",
        choices=CHOICES,
        metavar="NAME",
        help="variant of the model, if its file does not name it: " + ", ".join(CHOICES),
    )


def _add_controls(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--control",
        type=control,
        action="append",
        default=[],
        metavar="TYPE:F[:STRENGTH[:START-END]]",
        help="control picture. TYPE is map (F is a control map), or how to make one from F: "
        f"{', '.join(kinds()[1:])}. Default strength 1; START-END are fractions of the steps. "
        "May be repeated. Without --size and --image the result has the size of the first",
    )
    _add_control_model(p)
    p.add_argument(
        "--control-fit",
        choices=FITS,
        help="a control picture of another aspect ratio than the result: crop (its middle is used, "
        "the default), stretch, pad (with black) or refuse",
    )


def _add_control_model(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--control-model",
        type=file_path,
        action="append",
        default=[],
        metavar="F",
        help="ControlNet file: one for all controls, or one for each; inpainting ones need --mask "
        "(default: the one in controlnet/ of the model folder)",
    )
