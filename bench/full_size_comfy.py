"""The peer ComfyUI with ComfyUI-GGUF for `full_size.py`: a process of their own environment.

Nothing of them is in this repository: the caller names a source tree of ComfyUI, one of
city96/ComfyUI-GGUF and a Python that has what both import. Only the diffusion model is loaded (text
states are random), so its peak counts no text encoder and no VAE: a figure in the peer's favour.

PYTHON bench/full_size_comfy.py --comfyui TREE --pack TREE --model FILE.gguf --size 256x256
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import sys
import time
from pathlib import Path

SIDE = "ComfyUI + ComfyUI-GGUF"


def pack_nodes(folder: Path) -> object:
    """The node module of ComfyUI-GGUF."""
    spec = importlib.util.spec_from_file_location(
        "comfyui_gguf", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_gguf"] = module
    spec.loader.exec_module(module)
    return importlib.import_module("comfyui_gguf.nodes")


def ran(args: argparse.Namespace) -> dict:
    """Opens the file with the pack's loader node and samples with core's Euler."""
    sys.path.insert(0, str(args.comfyui))
    sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sample
    import folder_paths
    import torch

    torch.set_num_threads(args.threads)
    folder_paths.add_model_folder_path("diffusion_models", str(args.model.parent))
    nodes = pack_nodes(args.pack)
    width, height = map(int, args.size.split("x"))
    marks = []
    with torch.inference_mode():
        start = time.perf_counter()
        (model,) = nodes.UnetLoaderGGUF().load_unet(args.model.name)
        opened = time.perf_counter()
        latent = torch.zeros(1, 16, 1, height // 8, width // 8)
        text = [[torch.randn(1, 10, 3584, generator=torch.Generator().manual_seed(1)), {}]]
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
        begun = time.perf_counter()
        comfy.sample.sample(
            model,
            noise,
            args.steps,
            1.0,
            "euler",
            "simple",
            text,
            text,
            latent,
            callback=lambda *_: marks.append(time.perf_counter()),
            disable_pbar=True,
        )
    steps = [b - a for a, b in zip([begun, *marks], marks)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "side": SIDE,
        "opened": opened - start,
        "prompt": 0.0,
        "steps": steps,
        "vae": 0.0,
        "peak": peak,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--comfyui", type=Path, required=True)
    p.add_argument("--pack", type=Path, required=True)
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--size", default="256x256")
    p.add_argument("--steps", type=int, default=2)
    p.add_argument("--threads", type=int, default=2)
    print("RESULT " + json.dumps(ran(p.parse_args())))


if __name__ == "__main__":
    main()
