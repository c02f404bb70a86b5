"""Network configs from tensor shapes; a folder's config.json only adds what shapes do not say.

Where both speak, they must agree.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import InkstoneError
from ...kernels.configs import MMDiTConfig, TextConfig, VAEConfig
from .dims import MMDIT_SIZES, TEXT_SIZES, Shapes, mmdit_sizes, text_heads, text_sizes, vae_sizes
from .family import Family


def _require(told: Mapping[str, int], table: Mapping[str, tuple[str, int]], what: str) -> None:
    """Raises for the first size that the file does not tell, with the tensor that should."""
    unknown = [name for key, (name, _) in table.items() if not told[key]]
    if unknown:
        raise InkstoneError(
            f"The {what} cannot be built: tensor {unknown[0]} tells its size, and it is missing "
            "or empty. The file is incomplete or of another model: check it with "
            "`inkstone inspect`."
        )


def mmdit_config(shapes: Shapes, family: Family, extra: dict) -> MMDiTConfig:
    """From img_in, txt_norm, norm_q and block 0; rope axes from config.json or the family."""
    told = mmdit_sizes(shapes)
    _require(told, MMDIT_SIZES, "diffusion model")
    width, head = told["width"], told["head_dim"]
    if width % head:
        raise InkstoneError(
            f"The diffusion model's width {width} is not a multiple of its head size {head}. "
            "The file mixes models or is damaged: download it again."
        )
    heads = width // head
    _agree(extra, {"num_layers": told["layers"], "num_attention_heads": heads}, "transformer")
    return MMDiTConfig(
        layers=told["layers"],
        heads=heads,
        head_dim=head,
        channels=told["channels"],
        joint=told["joint"],
        ff=told["ff"],
        axes=_axes(extra, family, head),
    )


def _axes(extra: dict, family: Family, head: int) -> tuple[int, int, int]:
    axes = extra.get("axes_dims_rope") or family.axes(head)
    whole = isinstance(axes, list | tuple) and all(type(a) is int and a % 2 == 0 for a in axes)
    if not whole or len(axes) != 3 or sum(axes) != head:
        raise InkstoneError(
            f"Rope axes {axes} do not fit heads of {head}: expected three even numbers that sum "
            f"to {head}. Check axes_dims_rope in the transformer's config.json."
        )
    return tuple(axes)


def vae_config(shapes: Shapes) -> VAEConfig:
    """From the convolutions and the numbers of blocks (diffusers names)."""
    told = vae_sizes(shapes)
    config = VAEConfig(**told)
    if not (config.z and config.channels and all(config.mult)):
        raise InkstoneError(
            f"The VAE cannot be built: its tensors give {told}, where no size may be 0. The file "
            "is incomplete or of another model: check it with `inkstone inspect`."
        )
    return config


def text_config(shapes: Shapes, extra: dict) -> TextConfig:
    """From layer 0; head size from config.json (nested text_config or flat), else 128."""
    told = text_sizes(shapes)
    _require(told, TEXT_SIZES, "text encoder")
    heads = text_heads(told, extra)
    if heads is None:
        raise InkstoneError(
            f"The text encoder's projections of {told['queries']} and {told['keys']} rows cannot "
            "be cut into heads. Its config.json tells the head size (num_attention_heads, "
            "head_dim): put the publisher's config.json beside the file."
        )
    inner = extra.get("text_config")
    extra = {**extra, **inner} if isinstance(inner, dict) else extra
    _agree(extra, {"num_hidden_layers": told["layers"]}, "text_encoder")
    rope = extra.get("rope_parameters")
    theta = extra.get("rope_theta") or (rope.get("rope_theta") if isinstance(rope, dict) else None)
    return TextConfig(
        layers=told["layers"],
        width=told["width"],
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=heads[2],
        ff=told["ff"],
        vocab=told["vocab"],
        theta=_number(theta, "rope_theta", 1e6),
        eps=_number(extra.get("rms_norm_eps"), "rms_norm_eps", 1e-6),
        sections=_sections(rope or extra.get("rope_scaling"), heads[2]),
    )


def _sections(rope: object, head: int) -> tuple[int, int, int] | None:
    """How many frequencies follow time, row and column; None where config.json does not say."""
    told = rope.get("mrope_section") if isinstance(rope, dict) else None
    if told is None:
        return None
    whole = isinstance(told, list) and all(type(n) is int and n >= 0 for n in told)
    if not whole or len(told) != 3 or 2 * sum(told) != head:
        raise InkstoneError(
            f"text_encoder/config.json: mrope_section is {told!r}, expected three numbers that sum "
            f"to {head // 2}. Get the publisher's file again."
        )
    return tuple(told)


def _number(value: object, key: str, default: float) -> float:
    """A positive number of a config.json, or the published one where it has none."""
    if value is None:
        return default
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise InkstoneError(
            f"text_encoder/config.json: {key} is {value!r}, expected a positive number. "
            "Get the publisher's file again."
        )
    return float(value)


def _agree(extra: dict, numbers: dict[str, int], part: str) -> None:
    for key, value in numbers.items():
        if key in extra and extra[key] != value:
            raise InkstoneError(
                f"{part}/config.json says {key} = {extra[key]}, the tensors say {value}. "
                "The folder mixes files of two models: download it again."
            )
