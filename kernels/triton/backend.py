"""The Triton backend of packed products: whether it works on this device and why not, and its use.

Unusual: before its first use each type is tried on the card itself with a small weight, against
torch's own unpacking. So a kernel that does not compile there, or gives other numbers, never
reaches a picture: the linear door then takes another backend, logs one line, and does not try
Triton again in this process.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import subprocess
from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InkstoneError
from ...quant.gguf_storage import GGUFStorage
from ...quant.gguf_types import BY_NAME
from ...quant.storage import Storage
from .tiles import choose

log = logging.getLogger(__name__)

MIN_CAPABILITY = (7, 5)
TYPES = (
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "IQ4_NL",
    "IQ4_XS",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

_given_up: list[str] = []  # the reason, once a kernel failed in this process


def refusal(storage: Storage, device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason against Triton's kernels for this weight on this device; None where they work."""
    if _given_up:
        return _given_up[0]
    if not isinstance(storage, GGUFStorage) or storage.format not in TYPES or storage.factor != 1:
        return f"no Triton kernel unpacks {storage.format}"
    return _missing(device, dtype) or _trial(storage.format, device, dtype)


@functools.cache
def _missing(device: torch.device, dtype: torch.dtype) -> str | None:
    """The part of card or software that is missing."""
    if device.type != "cuda":
        return f"Triton's kernels are for CUDA, not {device.type}"
    if torch.version.hip:
        return "Triton's kernels are untested on AMD cards"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton; on Windows triton-windows)"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < MIN_CAPABILITY:
        return f"Triton needs compute capability 7.5, this card has {major}.{minor}"
    return None if dtype in TOLERANCE else f"Triton's kernels do not give {dtype}"


@functools.cache
def _trial(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        problem = trial(name, device, dtype)
    except torch.OutOfMemoryError:
        raise
    except _failures() as error:
        problem = _one_line(error)
    if problem:
        log.warning("%s is not unpacked by Triton here: %s", name, problem)
    return problem


def trial(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Compare small products with a weight of this type with torch's own: the problem, or None."""
    gemm = kernels()
    storage = random_weight(name, 40, 3 * BY_NAME[name].block).to(device)
    want = storage.dequantize(dtype)
    if not torch.equal(gemm.unpack_weight(storage, dtype), want):
        return f"its {name} weights are not those of torch"
    if choose(name, dtype, 1, device)[0] != "fused":
        return None
    x = torch.linspace(-1, 1, 5 * want.shape[1], device=device).view(5, -1).to(dtype)
    got, want = gemm.fused_product(x, storage).float(), F.linear(x.float(), want.float())
    error = ((got - want).norm() / want.norm()).item()
    return None if error < TOLERANCE[dtype] else f"its {name} product is off by {error:.2g}"


def random_weight(name: str, rows: int, width: int, seed: int = 0) -> GGUFStorage:
    """A weight [rows, width] of random blocks with plausible scales, on the CPU."""
    kind, dice = BY_NAME[name], torch.Generator().manual_seed(seed)
    size = rows * width // kind.block, kind.bytes
    raw = torch.randint(0, 256, size, dtype=torch.uint8, generator=dice)
    for at in kind.scales:
        scale = torch.randn(size[0], 1, generator=dice).mul_(0.02).half()
        raw[:, at : at + 2] = scale.view(torch.uint8)
    return GGUFStorage(raw.view(rows, -1), kind, (rows, width))


def kernels() -> ModuleType:
    """The module of the kernels, which imports triton."""
    if importlib.util.find_spec("triton") is None:
        raise InkstoneError(
            "Triton's kernels need triton, which is not installed. Run `pip install triton`, or "
            "use another backend for packed weights."
        )
    from . import gemm

    return gemm


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions of a kernel that cannot be built or launched: there is no common class."""
    from triton.errors import TritonError

    tools = (OSError, subprocess.SubprocessError, ImportError)  # it calls a C compiler and ptxas
    return (TritonError, RuntimeError, TypeError, ValueError, AttributeError, *tools)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def triton_products(
    xs: Sequence[Tensor], storage: Storage, bias: Tensor | None, must: bool
) -> list[Tensor] | None:
    """Each x [...,K], a packed weight [N,K] -> x W^T + b [...,N]. Those that need the unpacked
    weight share it.

    None if a kernel failed, which is then logged and ends Triton's use in this process; with `must`
    the error is raised instead.
    """
    gemm = kernels()
    weight: Tensor | None = None
    ys = []
    try:
        for x in xs:
            if _fuses(x, storage, bias):
                ys.append(gemm.fused_product(x, storage, bias))
                continue
            weight = gemm.unpack_weight(storage, x.dtype) if weight is None else weight
            ys.append(F.linear(x.contiguous(), weight, bias))
        return ys
    except (InkstoneError, torch.OutOfMemoryError):
        raise
    except _failures() as error:
        if must:
            raise
        _given_up.append(f"a Triton kernel failed ({_one_line(error)})")
        log.warning(
            "%s; from now on packed weights are unpacked by torch in this process", _given_up[0]
        )
        return None


def _fuses(x: Tensor, storage: Storage, bias: Tensor | None) -> bool:
    """x is multiplied by the packed weight itself."""
    gradient = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, bias))
    how, _ = choose(storage.format, x.dtype, x.shape[:-1].numel(), x.device, gradient)
    return how == "fused"
