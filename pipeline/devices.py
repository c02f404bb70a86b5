"""The device and the amount of memory that a user names."""

from __future__ import annotations

import re

from ..errors import CallError, InkstoneError

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


LEAST_MEMORY = 10**8  # bytes: less is a number without its unit


def parse_memory(text: str) -> int:
    """An amount of memory: 12GB -> bytes. Raises InkstoneError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or not 0 < float(match[1]) < 1e18:
        raise InkstoneError(f"{text!r} is not an amount of memory: write for example 12GB")
    amount = int(float(match[1]) * unit)
    if not match[2] and amount < LEAST_MEMORY:
        raise InkstoneError(
            f"{text.strip()} is {amount} bytes, less than any model needs: write the unit, for "
            f"example {amount}GB"
        )
    return amount


def parse_device(text: str) -> str:
    """A torch device name. Raises CallError."""
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", text):
        raise CallError(f"{text!r}: expected cpu, cuda, cuda:1, xpu or mps")
    return text


def check_device(device: str | None) -> None:
    """Refuse a device that this torch does not have. Raises CallError."""
    import torch

    kind, _, index = parse_device(device or "cpu").partition(":")
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "xpu": torch.xpu.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if int(index or 0) >= counts[kind]:
        raise CallError(
            f"--device {device}: this torch ({torch.__version__}) has {counts[kind]} {kind} "
            "devices. Use --device cpu, or install the torch build of your card."
        )
