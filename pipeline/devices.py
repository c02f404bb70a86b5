"""The device that a user names."""

from __future__ import annotations

from ..errors import CallError


def check_device(device: str | None) -> None:
    """Refuse a device that this torch does not have. Raises CallError."""
    import torch

    kind, _, index = (device or "cpu").partition(":")
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
