"""`inkstone doctor`: what a bug report needs."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from ..arg_types import command


def facts() -> dict[str, str]:
    """Versions, devices, and the backends chosen here with their reasons."""
    import torch

    from ... import __version__
    from ...host.api import versions
    from ...kernels import attention
    from ...kernels.linear import best_dtype
    from ...kernels.memory import available_ram
    from ...loaders.models.load import EMBEDDED_FOLDER

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, reason = best_dtype(device.type)
    threads, simd = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    found = {
        "inkstone": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": f"{os.cpu_count()} logical, {threads} threads, {simd}",
        "memory free": f"{available_ram() / 1e9:.1f} GB",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "compute type": f"{str(dtype).removeprefix('torch.')} ({reason})",
        "attention": " ".join(attention.backend(device)),
        "host": versions(),
        "embedded model": "present" if EMBEDDED_FOLDER.is_dir() else "missing",
    }
    for name in ("torch", "tokenizers", "numpy", "pillow"):
        found[name] = importlib.metadata.version(name)
    return found


def _add_doctor(commands) -> None:
    p = command(
        commands,
        "doctor",
        "versions, devices and backends: what a bug report needs",
        "inkstone doctor",
    )
    p.add_argument("--json", action="store_true", help="print facts as JSON")
