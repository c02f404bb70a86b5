"""Network configs read from tensor shapes; a folder's config.json only adds what shapes do not say.

Where both speak, they must agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..kernels.errors import InkstoneError
from ..kernels.mmdit import MMDiTConfig
from ..kernels.text_encoder import TextConfig
from ..kernels.vae import VAEConfig
from .family import Family

Shapes = Mapping[str, tuple[int, ...]]  # our tensor names -> shapes
_MOST = 16 << 20  # bytes of a config.json that are still believable


def read_json(path: Path) -> dict:
    """A JSON object from a small file; {} where there is none."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MOST:
        raise InkstoneError(
            f"{path}: {path.stat().st_size} bytes is too large for a config file. Get it again."
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InkstoneError(
            f"{path}: not readable as JSON ({error}). Get the file again."
        ) from None
    if not isinstance(value, dict):
        raise InkstoneError(
            f"{path}: expected a JSON object, got {type(value).__name__}. Get the file again."
        )
    return value


def _count(shapes: Shapes, prefix: str, where: int) -> int:
    """1 + the largest number at position `where` of dotted names under `prefix`."""
    parts = (name.split(".") for name in shapes if name.startswith(prefix))
    numbers = [int(p[where]) for p in parts if len(p) > where and p[where].isdigit()]
    return max(numbers) + 1 if numbers else 0


def _at(shapes: Shapes, name: str, what: str, rank: int = 1) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) < rank or 0 in shape:
        got = "it is missing" if shape is None else f"it has shape {list(shape)}"
        raise InkstoneError(
            f"The {what} cannot be built: tensor {name} tells its size, and {got}. "
            "The file is incomplete or of another model: check it with `inkstone inspect`."
        )
    return shape


def mmdit_config(shapes: Shapes, family: Family, extra: dict) -> MMDiTConfig:
    """From img_in, txt_in, norm_q and block 0; rope axes from config.json or the family's rule."""
    what = "diffusion model"
    width, channels = _at(shapes, "img_in.weight", what, 2)[:2]
    head = _at(shapes, "transformer_blocks.0.attn.norm_q.weight", what)[0]
    if width % head:
        raise InkstoneError(
            f"The {what}'s width {width} is not a multiple of its head size {head}."
        )
    axes = tuple(extra.get("axes_dims_rope") or family.axes(head))
    if len(axes) != 3 or sum(axes) != head or any(a % 2 for a in axes):
        raise InkstoneError(
            f"Rope axes {list(axes)} do not fit heads of {head}: expected three even numbers summing to {head}. "
            "Check axes_dims_rope in the transformer's config.json."
        )
    config = MMDiTConfig(
        layers=_count(shapes, "transformer_blocks.", 1),
        heads=width // head,
        head_dim=head,
        channels=channels,
        joint=_at(shapes, "txt_in.weight", what, 2)[1],
        ff=_at(shapes, "transformer_blocks.0.img_mlp.net.0.proj.weight", what, 2)[0],
        axes=axes,
    )
    _agree(extra, {"num_layers": config.layers, "num_attention_heads": config.heads}, "transformer")
    return config


def vae_config(shapes: Shapes) -> VAEConfig:
    """From the decoder's convolutions and the numbers of blocks (diffusers names)."""
    what = "VAE"
    ups = _count(shapes, "decoder.up_blocks.", 2)
    widths = [
        _at(shapes, f"decoder.up_blocks.{i}.resnets.0.conv1.weight", what, 4)[0]
        for i in reversed(range(ups))
    ]
    base = _at(shapes, "encoder.conv_in.weight", what, 4)[0]
    if not widths or any(w % base for w in widths):
        raise InkstoneError(
            f"The VAE's widths {widths} are no multiples of its base {base}: not a Wan 2.1 VAE."
        )
    return VAEConfig(
        base=base,
        mult=tuple(w // base for w in widths),
        res_blocks=_count(shapes, "decoder.up_blocks.0.resnets.", 4) - 1,
        z=_at(shapes, "decoder.conv_in.weight", what, 4)[1],
        channels=_at(shapes, "encoder.conv_in.weight", what, 4)[1],
    )


def text_config(shapes: Shapes, extra: dict) -> TextConfig:
    """From layer 0; head size from config.json (nested text_config or flat), else 128."""
    what = "text encoder"
    extra = {**extra, **extra.get("text_config", {})}
    vocab, width = _at(shapes, "embed_tokens.weight", what, 2)
    q = _at(shapes, "layers.0.self_attn.q_proj.weight", what, 2)[0]
    kv = _at(shapes, "layers.0.self_attn.k_proj.weight", what, 2)[0]
    heads = extra.get("num_attention_heads") or max(1, q // 128)
    head = extra.get("head_dim") or q // heads
    if q % head or kv % head:
        raise InkstoneError(
            f"The text encoder's projections {q} and {kv} are no multiples of its heads of {head}."
        )
    rope = extra.get("rope_parameters") or {}
    return TextConfig(
        layers=_count(shapes, "layers.", 1),
        width=width,
        heads=q // head,
        kv_heads=kv // head,
        head_dim=head,
        ff=_at(shapes, "layers.0.mlp.gate_proj.weight", what, 2)[0],
        vocab=vocab,
        theta=float(extra.get("rope_theta") or rope.get("rope_theta") or 1e6),
        eps=float(extra.get("rms_norm_eps") or 1e-6),
    )


def _agree(extra: dict, numbers: dict[str, int], part: str) -> None:
    for key, value in numbers.items():
        if key in extra and extra[key] != value:
            raise InkstoneError(
                f"{part}/config.json says {key} = {extra[key]}, the tensors say {value}. "
                "The folder mixes files of two models: download it again."
            )
