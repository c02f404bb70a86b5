"""`inkstone doctor`: versions, devices and backends, for a bug report."""

from __future__ import annotations

import argparse
import json
import os
import platform

from ..arg_types import Commands, command
from .shared import add_json

_PACKAGES = ("torch", "tokenizers", "numpy", "pillow")


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "doctor",
        "print versions, devices and backends, for a bug report",
        "inkstone doctor",
    )
    add_json(p)
    p.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Print the facts, one a line."""
    facts = machine_facts()
    lines = "\n".join(f"{name}: {value}" for name, value in facts.items())
    print(json.dumps(facts, indent=1) if args.json else lines)
    return 0


def machine_facts() -> dict[str, str]:
    """Versions, devices, and the backends chosen here with their reasons."""
    import importlib.metadata  # as slow to import as the whole parser

    import torch

    from ... import __version__
    from ...host.api import versions
    from ...kernels import attention
    from ...kernels.compute_type import best_dtype, int8_refusal
    from ...kernels.memory import available_ram
    from ...loaders.models.load import EMBEDDED_FOLDER
    from ...quant.native.build import library

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, reason = best_dtype(device.type)
    threads, simd = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    facts = {
        "inkstone": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": f"{os.cpu_count()} logical, {threads} threads, {simd}",
        "memory free": f"{available_ram() / 1e9:.1f} GB",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "compute type": f"{str(dtype).removeprefix('torch.')} ({reason})",
        "int8 products": int8_refusal(device.type, dtype) or "faster here, with --dtype int8",
        "unpacking": f"{'compiled' if library()[0] else 'torch'} ({library()[1]})",
        "attention": " ".join(attention.backend(device)),
        "host": versions(),
        "embedded model": "present" if EMBEDDED_FOLDER.is_dir() else "missing",
    }
    return facts | {name: importlib.metadata.version(name) for name in _PACKAGES}
