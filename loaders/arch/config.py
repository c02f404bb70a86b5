"""Network configs from tensor shapes; a folder's config.json only adds what shapes do not show.

Where both give a number, they must agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ...errors import InkstoneError
from ...kernels.configs import (
    QWEN3_VL_TEXT,
    QWEN_VL_TEXT,
    MMDiTConfig,
    SingleStreamConfig,
    TextConfig,
    VAEConfig,
)
from .dims import (
    MMDIT_SIZES,
    QK_NORM,
    SINGLE_STREAM_SIZES,
    TEXT_SIZES,
    Shapes,
    mmdit_sizes,
    single_stream_sizes,
    text_heads,
    text_sizes,
    vae_sizes,
)
from .family import Family

Config = Mapping[str, object]  # of a config.json


def _require(sizes: Mapping[str, int], table: Mapping[str, tuple[str, int]], model: str) -> None:
    """Raises for the first size that no tensor gives, with the tensor that should."""
    unknown = [tensor for key, (tensor, _) in table.items() if not sizes[key]]
    if unknown:
        raise InkstoneError(
            f"The {model} cannot be built: tensor {unknown[0]} gives its size, and it is missing "
            "or empty. The file is incomplete or of another model: check it with "
            "`inkstone inspect`."
        )


def mmdit_config(shapes: Shapes, family: Family, extra: Config) -> MMDiTConfig:
    """From img_in, txt_norm, norm_q and block 0; rope axes from config.json or the family."""
    sizes = mmdit_sizes(shapes)
    _require(sizes, MMDIT_SIZES, "diffusion model")
    heads = _heads(sizes, extra)
    return MMDiTConfig(
        layers=sizes["layers"],
        heads=heads,
        head_dim=sizes["head_dim"],
        channels=sizes["channels"],
        joint=sizes["joint"],
        ff=sizes["ff"],
        axes=rope_axes(extra, family, sizes["head_dim"]),
    )


def single_stream_config(shapes: Shapes, family: Family, extra: Config) -> SingleStreamConfig:
    """From img_in, text_norm, norm_q and block 0; rope axes from config.json or the family."""
    sizes = single_stream_sizes(shapes)
    _require(sizes, SINGLE_STREAM_SIZES, "diffusion model")
    heads = _heads(sizes, extra)
    if extra.get("causal_condition", True) is not True:
        raise InkstoneError(
            "transformer/config.json says causal_condition = "
            f"{extra['causal_condition']}: expected true, as every published Qwen-Image-2.1 has "
            "it. Get the publisher's file again."
        )
    return SingleStreamConfig(
        layers=sizes["layers"],
        heads=heads,
        head_dim=sizes["head_dim"],
        channels=sizes["channels"],
        joint=sizes["joint"],
        ff=sizes["ff"],
        axes=rope_axes(extra, family, sizes["head_dim"]),
    )


def _heads(sizes: Mapping[str, int], extra: Config) -> int:
    """Heads of a diffusion model; config.json must agree with the tensors."""
    width, head = sizes["width"], sizes["head_dim"]
    if width % head:
        raise InkstoneError(
            f"The diffusion model's width {width} is not a multiple of its head size {head}. "
            "The file mixes models or is damaged: download it again."
        )
    heads = width // head
    _agree(extra, {"num_layers": sizes["layers"], "num_attention_heads": heads}, "transformer")
    return heads


def rope_axes(extra: Config, family: Family, head: int) -> tuple[int, int, int]:
    """Parts of a head that are rotated by frame, row and column."""
    axes = extra.get("axes_dims_rope") or family.axes(head)
    numbers = [a for a in axes if type(a) is int] if isinstance(axes, list | tuple) else []
    even = isinstance(axes, list | tuple) and len(axes) == len(numbers) == 3
    if not even or any(a % 2 for a in numbers) or sum(numbers) != head:
        raise InkstoneError(
            f"Rope axes {axes} do not fit heads of {head}: expected three even numbers that sum "
            f"to {head}. Check axes_dims_rope in the transformer's config.json."
        )
    frame, row, column = numbers
    return frame, row, column


def vae_config(shapes: Shapes, unused: Iterable[str] = ()) -> VAEConfig:
    """From the convolutions and the numbers of blocks (diffusers names); unused: the names of a
    still's unused tensors.
    """
    config = vae_sizes(shapes, unused)
    if not (config.z and config.channels and all(config.mult)):
        raise InkstoneError(
            f"The VAE cannot be built: its tensors give {vars(config)}, where no size may be 0. "
            "The file is incomplete or of another model: check it with `inkstone inspect`."
        )
    return config


def text_config(shapes: Shapes, extra: Config) -> TextConfig:
    """From layer 0; head size from config.json (nested text_config or flat), else 128. Norms of q
    and k mark Qwen3-VL, which also differs in what no tensor shows.
    """
    sizes = text_sizes(shapes)
    _require(sizes, TEXT_SIZES, "text encoder")
    heads = text_heads(sizes, extra)
    if heads is None:
        raise InkstoneError(
            f"The text encoder's projections of {sizes['queries']} and {sizes['keys']} rows cannot "
            "be cut into heads. Its config.json has the head size (num_attention_heads, "
            "head_dim): put the publisher's config.json next to the file."
        )
    inner = extra.get("text_config")
    extra = {**extra, **inner} if isinstance(inner, dict) else extra
    _agree(extra, {"num_hidden_layers": sizes["layers"]}, "text_encoder")
    rope = extra.get("rope_parameters")
    theta = extra.get("rope_theta") or (rope.get("rope_theta") if isinstance(rope, dict) else None)
    published = QWEN3_VL_TEXT if QK_NORM in shapes else QWEN_VL_TEXT
    return replace(
        published,
        layers=sizes["layers"],
        width=sizes["width"],
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=heads[2],
        ff=sizes["ff"],
        vocab=sizes["vocab"],
        theta=_number(theta, "rope_theta", published.theta),
        eps=_number(extra.get("rms_norm_eps"), "rms_norm_eps", 1e-6),
        sections=_sections(rope or extra.get("rope_scaling"), heads[2]),
    )


def with_family(config: TextConfig, family: Family) -> TextConfig:
    """The config with what neither tensors nor numbers of the file show: a packed copy has no
    config.json."""
    below = family.condition_layers
    return replace(
        config,
        sections=config.sections or family.rope_sections,
        condition_layers=below if below is not None and below < config.layers else None,
    )


def _sections(rope: object, head: int) -> tuple[int, int, int] | None:
    """Frequencies that follow time, row and column; None where config.json does not name them."""
    sections = rope.get("mrope_section") if isinstance(rope, dict) else None
    if sections is None:
        return None
    whole = isinstance(sections, list) and all(type(n) is int and n >= 0 for n in sections)
    if not whole or len(sections) != 3 or 2 * sum(sections) != head:
        raise InkstoneError(
            f"text_encoder/config.json: mrope_section is {sections!r}, expected three numbers that "
            f"sum to {head // 2}. Get the publisher's file again."
        )
    time, row, column = sections
    return time, row, column


def _number(value: object, key: str, default: float) -> float:
    """A positive number of a config.json, or the published one where it has none."""
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        raise InkstoneError(
            f"text_encoder/config.json: {key} is {value!r}, expected a positive number. "
            "Get the publisher's file again."
        )
    return float(value)


def _agree(extra: Config, numbers: Mapping[str, int], part: str) -> None:
    for key, value in numbers.items():
        if key in extra and extra[key] != value:
            raise InkstoneError(
                f"{part}/config.json says {key} = {extra[key]}, the tensors say {value}. "
                "The folder mixes files of two models: download it again."
            )
