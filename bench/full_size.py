"""The real size on a small machine: a 20B Q4_K_M file of 13 GB, ours and peers in one run.

Writes once, into --folder, full-layout files of valid random blocks: the diffusion model (60
layers, the published type mix), the Qwen2.5-VL-7B text encoder (Q4_K, Q6_K) and the VAE (bf16).
Then every side draws from them in a process of its own: seconds to open and read, for the prompt,
per step, for the VAE, and the peak of the process, with the plan that ours printed before it began.
The numbers mean nothing as a picture; they are the work and the memory of the real model. `floor`
is a step's products alone at the speed of this CPU's largest ones.

python bench/full_size.py --folder /tmp/inkstone-full --size 256x256
python bench/full_size.py --folder /tmp/inkstone-full --size 512x512 --cfg 4 --sides ours
python bench/full_size.py --folder /tmp/inkstone-full --size 256x256 --memory 10GB --sides ours
python bench/full_size.py --folder /tmp/inkstone-full --size 512x512 --sides ours --int8
python bench/full_size.py --folder /tmp/inkstone-full --steps 20 --cache easycache --sides ours
python bench/full_size.py --folder /tmp/inkstone-full --comfyui PYTHON,COMFYUI,COMFYUI-GGUF
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from bench.full_size_files import MODEL, TEXT, VAE, prepare
from inkstone.loaders.models.diffusion_model import DiffusionModel

PROMPT = "a cat with a hat on a mat"


@dataclass
class Ran:
    """One side: seconds of each stage, peak bytes of the process, the sentence of its plan."""

    side: str
    opened: float
    prompt: float
    steps: list[float]
    vae: float
    peak: int
    planned: int = 0
    words: str = ""
    facts: dict = field(default_factory=dict)
    floor: float = 0.0  # seconds of a step's products alone


def ours(folder: Path, args: argparse.Namespace) -> Ran:
    """The functions that `inkstone draw` calls, timed one by one."""
    from inkstone.headless.arg_types import memory
    from inkstone.headless.draw.drawer import Drawer
    from inkstone.headless.draw.request import DrawCall
    from inkstone.sampling.geometry import parse_size
    from inkstone.sampling.request import Hooks, Request
    from inkstone.sampling.sampler import denoise
    from inkstone.sampling.schedule import sigmas
    from inkstone.sampling.step_cache_choices import parse_step_cache

    size = parse_size(args.size)
    call = DrawCall(
        PROMPT,
        model=folder / MODEL,
        text_encoder=folder / TEXT,
        vae=folder / VAE,
        size=size,
        steps=args.steps,
        cfg=args.cfg,
        memory=memory(args.memory) if args.memory else None,
        dtype="int8" if args.int8 else None,
        cache=parse_step_cache(args.cache) if args.cache else None,
    )
    start = time.perf_counter()
    loaded = Drawer(once=True).load(call)
    models = loaded.bundle
    memory_plan = Drawer(once=True).plan(call, loaded)
    opened = time.perf_counter()
    text = models.text_encoder.encode(PROMPT).states
    negative = models.text_encoder.encode(" ").states if args.cfg > 1 else None
    models.text_encoder.weights.park()  # as `inkstone draw` does
    encoded = time.perf_counter()
    marks = []
    tokens = size[0] * size[1] // 256
    table = sigmas(models.model.schedule, args.steps, tokens)
    models.model.modulation(table[:-1])
    tabled = time.perf_counter()
    models.model.ready(memory_plan.activations + memory_plan.modulation_table)
    ready = time.perf_counter()
    hooks = Hooks(on_step=lambda step: marks.append(time.perf_counter()))
    latents = denoise(models.model, text, negative, Request(*size, table, cfg=args.cfg), hooks)
    drawn = time.perf_counter()
    models.vae.decode(latents)
    steps = [b - a for a, b in zip([ready, *marks], marks)]
    facts = {
        "headers": opened - start,
        "table": tabled - encoded,
        "weights outside of blocks": ready - tabled,
        "first step": steps[0],
    }
    return Ran(
        "ours",
        opened - start + ready - tabled,
        encoded - opened,
        steps,
        time.perf_counter() - drawn,
        harness.peak(),
        memory_plan.peak,
        memory_plan.sentence(),
        facts,
        _floor(models.model, tokens, [text, *([] if negative is None else [negative])]),
    )


def _floor(model: DiffusionModel, tokens: int, texts: list[Tensor]) -> float:
    """Seconds of a step's products alone, at the speed of the largest ones."""
    config = model.network.config
    work = sum(common.step_flop(config, tokens, text.shape[1]) for text in texts)
    return work / common.product_rate(model.dtype)


def sd_cpp(folder: Path, args: argparse.Namespace) -> Ran:
    """stable-diffusion.cpp through stable-diffusion-cpp-python, its fastest CPU settings."""
    from stable_diffusion_cpp import StableDiffusion

    width, height = map(int, args.size.split("x"))
    start = time.perf_counter()
    model = StableDiffusion(
        diffusion_model_path=str(folder / MODEL),
        llm_path=str(folder / TEXT),
        vae_path=str(folder / VAE),
        n_threads=args.threads,
        diffusion_flash_attn=True,
        verbose=False,
    )
    opened = time.perf_counter()
    marks: list[float] = []
    model.generate_image(
        prompt=PROMPT,
        sample_steps=args.steps,
        cfg_scale=args.cfg,
        sample_method="euler",
        width=width,
        height=height,
        progress_callback=lambda *_: marks.append(time.perf_counter()),
    )
    ended = time.perf_counter()
    steps = [b - a for a, b in zip(marks, marks[1:])][: args.steps]
    return Ran(
        "stable-diffusion.cpp", opened - start, 0.0, steps, ended - marks[-1], harness.peak()
    )


SIDES = {"ours": ours, "sd.cpp": sd_cpp}


def lines(rows: list[Ran]) -> common.Cells:
    """Table cells; ratios refer to the fastest peer."""
    peers = [r for r in rows if r.side != "ours" and r.steps]
    peer = min(peers, key=lambda r: min(r.steps), default=None)
    out: common.Cells = [
        (
            "",
            "open s",
            "prompt s",
            "s / step",
            "/ floor",
            "VAE s",
            "peak GB",
            "planned",
            "step/",
            "peak/",
        )
    ]
    for r in rows:
        step = min(r.steps) if r.steps else 0.0
        out.append(
            (
                r.side,
                f"{r.opened:.2f}",
                f"{r.prompt:.1f}",
                f"{step:.1f}",
                common.ratio(step, r.floor),
                f"{r.vae:.1f}",
                f"{r.peak / 1e9:.2f}",
                f"{r.planned / 1e9:.2f}" if r.planned else "-",
                common.ratio(step, min(peer.steps) if peer and peer.steps else None),
                common.ratio(r.peak, peer.peak if peer else None),
            )
        )
    return out


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--folder", type=Path, required=True, help="where the 17 GB of files are kept")
    p.add_argument("--size", default="256x256")
    p.add_argument("--steps", type=int, default=2)
    p.add_argument("--cfg", type=float, default=1.0, help="above 1: both halves (not ComfyUI-GGUF)")
    p.add_argument("--memory", help="as in `inkstone draw` (ours only)")
    p.add_argument("--cache", help="as in `inkstone draw` (ours only)")
    p.add_argument("--int8", action="store_true", help="with dtype int8 (ours only)")
    p.add_argument(
        "--comfyui",
        metavar="PYTHON,TREE,PACK",
        help="ComfyUI-GGUF as a peer: a Python that has what both import, and their source trees",
    )
    args = p.parse_args()
    prepare(args.folder)
    torch.set_num_threads(args.threads)
    if args.one_side:
        print(harness.RESULT + json.dumps(asdict(SIDES[args.one_side](args.folder, args))))
        return
    names = args.sides.split(",") if args.sides else list(SIDES)
    own = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--one-side"]
    rows = [_child(name, [*own, name]) for name in names]
    if args.comfyui:
        rows.append(_child("ComfyUI-GGUF", comfyui(args)))
    facts = common.facts(args)
    limit = f", --memory {args.memory}" if args.memory else ""
    limit += f", --cache {args.cache}" if args.cache else ""
    limit += ", --int8" if args.int8 else ""
    title = f"Q4_K_M 20B, {args.size}, {args.steps} steps, CFG {args.cfg:g}{limit}"
    if args.json:
        print(json.dumps({"title": title, **facts, "rows": [asdict(r) for r in rows]}, indent=1))
        return
    print(common.report(title, lines(rows), facts))
    for r in rows:
        if r.words:
            print(
                f"{r.side}: {r.words}; " + ", ".join(f"{k} {v:.2f} s" for k, v in r.facts.items())
            )


def comfyui(args: argparse.Namespace) -> list[str]:
    """The call of `full_size_comfy.py` in the environment that was named."""
    python, tree, pack = args.comfyui.split(",")
    script = Path(__file__).resolve().with_name("full_size_comfy.py")
    return [
        python,
        str(script),
        "--comfyui",
        tree,
        "--pack",
        pack,
        "--size",
        args.size,
        "--model",
        str((args.folder / MODEL).resolve()),
        "--steps",
        str(args.steps),
        "--threads",
        str(args.threads),
    ]


def _child(side: str, call: list[str]) -> Ran:
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    line = next((x for x in done.stdout.splitlines() if x.startswith(harness.RESULT)), None)
    if line is None:
        raise SystemExit(f"Side '{side}' ended with status {done.returncode}, see above.")
    return Ran(**json.loads(line[len(harness.RESULT) :]))


if __name__ == "__main__":
    main()
