"""All parts of bench/gpu_check.py, run one after the other in this process."""

from __future__ import annotations

import argparse
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch

from bench.gpu.card import Card
from bench.gpu.formats import formats
from bench.gpu.kernels import kernels, products
from bench.gpu.references import references
from bench.gpu.report import Part
from bench.gpu.run import Run, Work, one_line, scratch
from bench.gpu.sharing import cfg, streaming
from bench.gpu.steps import steps


def machine(run: Run, part: Part) -> None:
    """What the card can do: the floors of the other parts come from these."""
    card = run.card
    part.row(figure="pinned memory to the card", value=f"{card.upload / 1e9:.1f} GB/s")
    part.row(figure="ordinary memory to the card", value=f"{card.upload_pageable / 1e9:.1f} GB/s")
    part.row(figure="a copy within the card", value=f"{card.memory_rate / 1e9:.0f} GB/s")
    for dtype in (torch.float32,) if run.tiny else (torch.bfloat16, torch.float32):
        rate = card.products(dtype) / 1e12
        part.row(figure=f"the largest product, {str(dtype)[6:]}", value=f"{rate:.1f} TFLOP/s")


TITLES: Mapping[str, tuple[str, Callable[[Run, Part], None]]] = {
    "machine": ("The card", machine),
    "kernels": ("Triton kernels against torch", kernels),
    "steps": ("A step of the 20B model", steps),
    "streaming": ("Weights streamed from main memory", streaming),
    "cfg": ("Both halves of CFG", cfg),
    "references": ("Qwen-Image-2.1 with references", references),
    "products": ("One packed linear layer, ms", products),
    "formats": ("The embedded model from every storage format", formats),
}


def run_parts(
    args: argparse.Namespace, shares: Mapping[str, int], give: Callable[[dict], None]
) -> int:
    """Runs the parts that args.child names and gives each result; 1 where the card was lost."""
    logging.disable(logging.INFO)
    deadline = time.monotonic() + args.budget
    refuse(args.tiny)
    card = Card(args.tiny)
    give(card.facts)
    names = args.child.split(",")
    with scratch(args.folder) as folder:
        run = Run(card, args.quick, deadline, folder)
        for number, name in enumerate(names):
            title, work = TITLES[name]
            later = sum(shares[other] for other in names[number + 1 :])
            try:
                part = run.do(Work(name, title, shares[name], work), later)
            except Exception as error:  # of the card itself: nothing works here any more
                traceback.print_exc()
                run.part.faults.append(f"the card was lost: {one_line(error)}")
                give(asdict(run.part))
                return 1
            give(asdict(part))
    return 0


def refuse(tiny: bool) -> None:
    """Ends with a sentence where there is no card."""
    if not tiny and not torch.cuda.is_available():
        raise SystemExit(
            f"This check is for a card and torch {torch.__version__} sees no CUDA device here: run "
            "it on a machine with an NVIDIA card and a CUDA build of torch, or with --tiny, which "
            "runs the same script on the CPU."
        )
