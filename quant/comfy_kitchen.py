"""Products on tensor cores in a weight's own format, by comfy-kitchen where it is installed.

The only file that knows that package (part of every current ComfyUI, else an extra). Such a product
rounds the input too, to the weight's format: faster, and a little less exact than unpacking. Where
it cannot run the answer is None and the reason; then rows are unpacked, which is always exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor

from .fp8 import E4M3, E4M3_MAX, Fp8Storage
from .int_quant import RowScaledStorage
from .microscaling import BlockFloatStorage
from .storage import Storage

Product = Callable[[Tensor, Tensor | None], Tensor]  # (x [..., K], bias [N]) -> [..., N]

# The lowest compute capability of a card whose tensor cores take the format.
LEAST: dict[str, tuple[int, int]] = {
    "fp8": (8, 9),
    "int8": (7, 5),
    "nvfp4": (10, 0),
    "mxfp8": (10, 0),
}
COMPILED_FOR = 13  # major CUDA version that the package's compiled kernels need
_E2M1_MAX = 6.0
_TINY = 1e-30  # the scale of an input of zeros


@cache
def _kitchen() -> tuple[ModuleType | None, str]:
    """The package, or why it cannot be used."""
    try:
        import comfy_kitchen
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "comfy_kitchen":
            return None, "comfy-kitchen is not installed"
        return None, f"comfy-kitchen cannot be imported ({error})"
    return comfy_kitchen, "comfy-kitchen"


def kind_of(storage: Storage) -> str | None:
    """The storage's key of LEAST, or None for a format without such a product."""
    if isinstance(storage, BlockFloatStorage):
        return storage.format
    if isinstance(storage, RowScaledStorage) and storage.bits == 8:
        return "int8"
    if isinstance(storage, Fp8Storage) and storage.kind == E4M3:
        return "fp8" if storage.scale is None or not storage.scale.dim() else None
    return None


def _refusal(storage: Storage) -> str:
    """The reason why a storage on its device cannot be multiplied as it is; "" when it can."""
    kind, device = kind_of(storage), storage.device
    if kind is None:
        return f"{storage.format} has no product of its own"
    if storage.full_precision:
        return "the file asks for products in full precision"
    rows, columns = storage.shape
    if kind == "fp8" and (rows % 16 or columns % 16):
        return f"{rows} x {columns} are not multiples of 16"
    if device.type != "cuda":
        return f"{device.type} has no tensor cores"
    if torch.version.hip is None:
        if torch.cuda.get_device_capability(device) < LEAST[kind]:
            return f"{kind} needs compute capability {'.'.join(map(str, LEAST[kind]))}"
        version = torch.version.cuda or "0"
        if kind in ("nvfp4", "mxfp8") and int(version.split(".")[0]) < COMPILED_FOR:
            return f"{kind} needs a build of torch for CUDA {COMPILED_FOR}, this is for {version}"
    elif kind != "int8":
        return f"{kind} is not tried on AMD cards"
    return ""


def matmul_of(storage: Storage) -> tuple[Product | None, str]:
    """A product that takes this storage as it is, or None; and the reason."""
    refusal = _refusal(storage)
    if refusal:
        return None, refusal
    kitchen, reason = _kitchen()
    return (product_of(storage, kitchen), reason) if kitchen else (None, reason)


def product_of(storage: Storage, kitchen: ModuleType) -> Product:
    """The product, whatever the device: `matmul_of` checks first whether it can run."""
    assert kind_of(storage) is not None, storage.format
    if isinstance(storage, BlockFloatStorage):
        return partial(_block, kitchen, storage)
    if isinstance(storage, RowScaledStorage):
        return partial(_int8, kitchen, storage)
    assert isinstance(storage, Fp8Storage), storage.format
    return partial(_fp8, kitchen, storage)


def _fp8(kitchen: ModuleType, storage: Fp8Storage, x: Tensor, bias: Tensor | None) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    scale = flat.abs().amax().float().div(E4M3_MAX).clamp_min(_TINY)
    codes = kitchen.quantize_per_tensor_fp8(flat, scale, E4M3)
    whole = torch.ones_like(scale) if storage.scale is None else storage.scale
    weight = storage.codes.view(E4M3).t()
    bias = None if bias is None else bias.to(x.dtype)
    y = torch._scaled_mm(codes, weight, scale_a=scale, scale_b=whole, bias=bias, out_dtype=x.dtype)
    return y.view(*x.shape[:-1], -1)


def _int8(kitchen: ModuleType, storage: RowScaledStorage, x: Tensor, bias: Tensor | None) -> Tensor:
    rotation = {"convrot": True, "convrot_groupsize": storage.rotated} if storage.rotated else {}
    return kitchen.int8_linear(x, storage.codes, storage.scale, bias, x.dtype, **rotation)


def _block(
    kitchen: ModuleType, storage: BlockFloatStorage, x: Tensor, bias: Tensor | None
) -> Tensor:
    """nvfp4 and mxfp8. Both sides are padded; the bias is added after the padding is cut off."""
    flat = x.reshape(-1, x.shape[-1])
    if storage.columns is not None:
        flat = flat * storage.columns.to(x.dtype)
    if storage.format == "nvfp4":
        scale = flat.abs().amax().float().div(E4M3_MAX * _E2M1_MAX).clamp_min(_TINY)
        codes, blocks = kitchen.quantize_nvfp4(flat, scale, pad_16x=True)
        y = kitchen.scaled_mm_nvfp4(
            codes,
            storage.codes,
            tensor_scale_a=scale,
            tensor_scale_b=storage.whole,
            block_scale_a=blocks,
            block_scale_b=storage.scale.view(E4M3),
            out_dtype=x.dtype,
        )
    else:
        codes, blocks = kitchen.quantize_mxfp8(flat, pad_32x=True)
        y = kitchen.scaled_mm_mxfp8(
            codes,
            storage.codes.view(E4M3),
            block_scale_a=blocks,
            block_scale_b=storage.scale.view(blocks.dtype),
            out_dtype=x.dtype,
        )
    y = y[: len(flat), : storage.shape[0]]
    return (y if bias is None else y + bias.to(y.dtype)).reshape(*x.shape[:-1], -1)
