"""One optimizer step of a LoRA of rank 16 on a model of the real size, from packed weights.

Ours is the whole model: synthetic weights, all layers, forward and backward. Its floor is three
times the products of a forward at this CPU's measured speed: forward, the same again in the
backward pass, and the gradients of the inputs. The peer is diffusers with peft, bfloat16 weights
and gradient checkpointing, on two numbers of layers and scaled to all: the whole of it does not fit
into 40 GB.

python bench/train_step.py --folder /tmp/inkstone-cfg
python bench/train_step.py --folder /tmp/inkstone-cfg --memory 12GB --peer no
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from bench.cfg import LAYERS
from bench.synthetic import KINDS, config_20b, config_21, file_of, model_of
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.training.dataset.example import Example
from inkstone.training.lora.adapter import Adapter, AdapterSettings
from inkstone.training.lora.objective import Draws, Objective
from inkstone.training.lora.plan import Working, train_plan
from inkstone.training.lora.step import Trainer

TEXT = 40  # tokens of a caption


def example(side: int, joint: int) -> Example:
    """Random latents and states."""
    tokens = side // 16
    return Example(
        name="random",
        latents=torch.randn(tokens**2, 64),
        grids=((1, tokens, tokens),),
        text=torch.randn(TEXT, joint),
        dropped=torch.randn(8, joint),
    )


def ours(args: argparse.Namespace) -> dict[str, float]:
    """Seconds and bytes of our steps."""
    config = (config_21 if args.family == "2.1" else config_20b)(args.tiny)
    path = file_of(args.folder, args.kind, config)
    layers = args.layers or LAYERS[args.family]
    model = model_of(path, layers, LoadOptions(budget=args.memory))
    adapter = Adapter.create(model.network, AdapterSettings(rank=args.rank))
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4)
    one = example(args.side, model.network.config.joint)
    plan = train_plan(model, adapter, Working(len(one.latents), TEXT, sigmas=args.steps))
    print(plan.sentence(), flush=True)
    trainer = Trainer(model, adapter, Objective(), plan.kept)
    model.ready(plan.working)
    draws = [Draws(0.3 + 0.2 * step, step, False) for step in range(args.steps)]
    harness.resident()
    start = time.perf_counter()
    trainer.look_ahead(draws)
    table, seconds = time.perf_counter() - start, []
    for draw in draws:
        start = time.perf_counter()
        trainer.backward([one], [draw])
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
        print(f"step of {seconds[-1]:.1f} s", flush=True)
    flop = common.step_flop(config, len(one.latents), TEXT) * layers / config.layers
    floor = 3 * flop / common.product_rate(model.dtype)
    return {
        "table": table,
        "first": seconds[0],
        "step": seconds[-1],
        "floor": floor,
        "peak": harness.peak(),
        "plan": plan.peak,
        "layers": layers,
    }


def apart(call: Callable[..., float], *arguments: object) -> float:
    """The answer of a call in a process of its own, which leaves no memory behind."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def theirs(args: argparse.Namespace, layers: int) -> float:
    """Seconds of a step of diffusers and peft with some layers."""
    from diffusers import QwenImageTransformer2DModel
    from peft import LoraConfig

    torch.set_num_threads(args.threads)
    config = config_20b(args.tiny)
    with torch.device("meta"):
        network = QwenImageTransformer2DModel(
            num_layers=layers,
            attention_head_dim=config.head_dim,
            num_attention_heads=config.heads,
            joint_attention_dim=config.joint,
            axes_dims_rope=config.axes,
        )
    network = network.to(torch.bfloat16).to_empty(device="cpu").requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.02)
    network.pos_embed = type(network.pos_embed)(
        theta=10000, axes_dim=list(config.axes), scale_rope=True
    )
    network.enable_gradient_checkpointing()
    targets = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
    targets += ["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    network.add_adapter(LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=targets))
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    one, seconds = example(args.side, config.joint), []
    for _ in range(2):
        start = time.perf_counter()
        noise = torch.randn_like(one.latents)
        out = network(
            (0.5 * one.latents + 0.5 * noise).bfloat16()[None],
            encoder_hidden_states=one.text.bfloat16()[None],
            timestep=torch.tensor([0.5]),
            img_shapes=[list(one.grids)],
        ).sample[0]
        (out.float() - (noise - one.latents)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--folder", type=Path, required=True, help="where the weights are written, once")
    p.add_argument("--family", choices=LAYERS, default="20b", help="default: %(default)s")
    p.add_argument("--kind", choices=KINDS, default="Q4_K_M", help="default: %(default)s")
    p.add_argument("--side", type=int, default=512, help="of the picture; default: %(default)s")
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--layers", type=int, help="default: all of the model")
    p.add_argument("--memory", help="for the whole process, e.g. 12GB; default: what is free")
    p.add_argument("--steps", type=int, default=2, help="the first reads the file; %(default)s")
    p.add_argument("--peer", choices=("yes", "no"), default="yes")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--tiny", action="store_true", help="a narrow network: tries the script only")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    args.memory = None if args.memory is None else int(float(args.memory.upper()[:-2]) * 1e9)
    peer = None
    if args.peer == "yes" and args.family == "20b":
        few, more = (apart(theirs, args, layers) for layers in (1, 2))
        peer = common.of_all_layers((few, more), (1, 2), args.layers or LAYERS["20b"])
    own = ours(args)
    cells: common.Cells = [("", "ours", "ours / floor", "ours / peer")]
    step = own["step"]
    cells.append(
        ("step, s", f"{step:.1f}", common.ratio(step, own["floor"]), common.ratio(step, peer))
    )
    cells.append(("first step, s", f"{own['first']:.1f}", "", ""))
    cells.append((f"modulation of {args.steps} steps, s", f"{own['table']:.1f}", "", ""))
    cells.append(("peak, GB", f"{own['peak'] / 1e9:.2f}", "", ""))
    cells.append(("planned, GB", f"{own['plan'] / 1e9:.2f}", "", ""))
    title = f"{args.family} {args.kind}, {own['layers']} layers, {args.side}x{args.side}, LoRA of "
    print(common.report(f"{title}rank {args.rank}", cells, common.facts(args)))


if __name__ == "__main__":
    main()
