"""A tiny model, LoRA files of every method for it, and what they do to a weight, in float64."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch.expected_tensors import mmdit_layout

from .oracle import save_file

CONFIG = MMDiTConfig(3, 2, 16, 64, 32, 128, (4, 6, 6))
Parts = dict[str, Tensor]  # end of a tensor's name -> tensor
SHAPES = {n[:-7]: s for n, s in mmdit_layout(CONFIG).items() if n.endswith(".weight") and s[1:]}
TABLE = [n for n in SHAPES if "_mod" in n or "norm_out" in n or "time_text" in n]


def write_model(folder: Path, state: Parts) -> Path:
    """A transformer folder of the tiny model."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "_class_name": "QwenImageTransformer2DModel",
        "num_layers": CONFIG.layers,
        "num_attention_heads": CONFIG.heads,
        "axes_dims_rope": CONFIG.axes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    return folder


def random_state(seed: int = 1) -> Parts:
    """Every tensor of the tiny model."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in mmdit_layout(CONFIG).items():
        flat = len(shape) == 1
        size = 0.1 if flat else shape[1] ** -0.5
        near_one = 1.0 if flat and "norm" in name and name.endswith("weight") else 0.0
        state[name] = torch.randn(shape, generator=g) * size + near_one
    return state


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape) * shape[-1] ** -0.5


def _magnitude(weight: Tensor, dim: int) -> Tensor:
    norm = weight.norm(dim=dim, keepdim=True)
    return norm * (1 + 0.3 * torch.randn_like(norm))


def low_rank(w: Tensor) -> Parts:
    n, k = w.shape
    return {
        "lora_down.weight": _randn(4, k),
        "lora_up.weight": _randn(n, 4),
        "alpha": torch.tensor(2.0),
    }


def peft(w: Tensor) -> Parts:
    n, k = w.shape
    return {"lora_A.weight": _randn(3, k), "lora_B.weight": _randn(n, 3)}


def peft_with_bias(w: Tensor) -> Parts:
    return peft(w) | {"lora_B.bias": torch.randn(w.shape[0]) * 0.1}


def lokr(w: Tensor) -> Parts:
    n, k = w.shape
    alpha = torch.tensor(5.0)  # not used: nothing is factored
    return {"lokr_w1": _randn(2, 4), "lokr_w2": _randn(n // 2, k // 4), "alpha": alpha}


def lokr_factored(w: Tensor) -> Parts:
    n, k = w.shape
    return {
        "lokr_w1": _randn(4, 2),
        "lokr_w2_a": _randn(n // 4, 3),
        "lokr_w2_b": _randn(3, k // 2),
        "alpha": torch.tensor(1.5),
    }


def lokr_both_factored(w: Tensor) -> Parts:
    n, k = w.shape
    return {
        "lokr_w1_a": _randn(8, 2),
        "lokr_w1_b": _randn(2, 4),
        "lokr_w2_a": _randn(n // 8, 3),
        "lokr_w2_b": _randn(3, k // 4),
        "alpha": torch.tensor(3.0),
    }


def loha(w: Tensor, rank: int = 3) -> Parts:
    n, k = w.shape
    factors = {
        f"hada_w{i}_{s}": _randn(*d)
        for i in (1, 2)
        for s, d in (("a", (n, rank)), ("b", (rank, k)))
    }
    return factors | {"alpha": torch.tensor(2.0 * rank)}


def loha_wide(w: Tensor) -> Parts:
    return loha(w, 12)


def dora_rows(w: Tensor) -> Parts:
    return low_rank(w) | {"dora_scale": _magnitude(w, 1)}


def dora_peft(w: Tensor) -> Parts:
    return peft(w) | {"lora_magnitude_vector": _magnitude(w, 1)[:, 0]}


def dora_columns(w: Tensor) -> Parts:
    return low_rank(w) | {"dora_scale": _magnitude(w, 0)}


def dora_lokr(w: Tensor) -> Parts:
    return lokr(w) | {"dora_scale": _magnitude(w, 1)}


def diff(w: Tensor) -> Parts:
    return {"diff": _randn(*w.shape) * 0.3, "diff_b": torch.randn(w.shape[0]) * 0.1}


METHODS = {
    f.__name__: f
    for f in (
        low_rank,
        peft,
        peft_with_bias,
        lokr,
        lokr_factored,
        lokr_both_factored,
        loha,
        loha_wide,
        dora_rows,
        dora_peft,
        dora_columns,
        dora_lokr,
        diff,
    )
}


def dense(parts: Parts) -> Tensor:
    """dW [N,K] of a layer at strength 1 by the definitions, float64."""
    p = {k.removesuffix(".weight"): v.double() for k, v in parts.items()}
    down, up = p.get("lora_down", p.get("lora_A")), p.get("lora_up", p.get("lora_B"))
    if down is not None:
        return up @ down * (p.get("alpha", len(down)) / len(down))
    if "diff" in p:
        return p["diff"]
    if "hada_w1_a" in p:
        one, two = (p[f"hada_w{i}_a"] @ p[f"hada_w{i}_b"] for i in (1, 2))
        return one * two * p["alpha"] / len(p["hada_w1_b"])
    sides = [p.get(s) if s in p else p[s + "_a"] @ p[s + "_b"] for s in ("lokr_w1", "lokr_w2")]
    factored = "lokr_w2_b" in p
    return torch.kron(*sides) * (p["alpha"] / len(p["lokr_w2_b"]) if factored else 1.0)


def merged(weight: Tensor, parts: Parts, strength: float) -> Tensor:
    """The weight with a layer's change merged in, float64."""
    w = weight.double()
    new = w + dense(parts)
    size = parts.get("dora_scale", parts.get("lora_magnitude_vector"))
    if size is not None:
        by_row = size.dim() == 1 or size.shape[1] == 1
        new = new / new.norm(dim=1 if by_row else 0, keepdim=True)
        new = new * (size.double().view(-1, 1) if by_row else size.double())
    return w + strength * (new - w)


def merged_state(state: Parts, files: list[tuple[dict[str, Parts], float]]) -> Parts:
    """A whole model with LoRAs merged in, each relative to the plain one."""
    out = {name: t.double() for name, t in state.items()}
    for layers, strength in files:
        for module, parts in layers.items():
            plain = state[f"{module}.weight"]
            out[f"{module}.weight"] += merged(plain, parts, strength) - plain.double()
            for end in ("diff_b", "lora_B.bias"):
                if end in parts:
                    out[f"{module}.bias"] += strength * parts[end].double()
    return {name: t.float() for name, t in out.items()}


def layers_for(method: str, state: Parts, modules: list[str] | None = None) -> dict[str, Parts]:
    """A LoRA of one method on these modules (None = every linear layer)."""
    return {m: METHODS[method](state[f"{m}.weight"]) for m in modules or SHAPES}


def write_lora(
    path: Path, layers: dict[str, Parts], prefix: str = "", metadata: dict | None = None
) -> Path:
    """Saves a LoRA with names PREFIX + MODULE + "." + END."""
    tensors = {
        f"{prefix}{module}.{end}": tensor.clone().contiguous()
        for module, parts in layers.items()
        for end, tensor in parts.items()
    }
    save_file(tensors, path, metadata)
    return path
