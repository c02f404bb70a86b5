"""Every tensor name and shape of a published file, derived from config numbers alone.

Counts for the published configs: MMDiT 1933 tensors and 20,430,401,088 parameters (layered: one
tensor of 2 x 3072 more), Qwen-Image-2.1 297 (265 with fused MLPs) and 7,115,124,736, VAE 194 and
126,892,531, text encoder 729 with vision and lm_head (of Qwen-Image-2.1 750).
Names are ours (see key_maps.py). Shapes are those of the file: 3-D convolutions, unfolded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...kernels.configs import (
    DeepVisionConfig,
    MMDiTConfig,
    SingleStreamConfig,
    TextConfig,
    VisionConfig,
)

Layout = dict[str, tuple[int, ...]]

TIME_FREQUENCIES = 256  # width of the sinusoid of the timestep


def _linear(name: str, out: int, into: int, bias: bool = True) -> Layout:
    weight: Layout = {f"{name}.weight": (out, into)}
    return weight | {f"{name}.bias": (out,)} if bias else weight


def _mmdit_block(at: str, config: MMDiTConfig) -> Layout:
    width = config.width
    layout: Layout = {}
    for stream in ("img", "txt"):
        layout |= _linear(f"{at}.{stream}_mod.1", 6 * width, width)
        layout |= _linear(f"{at}.{stream}_mlp.net.0.proj", config.ff, width)
        layout |= _linear(f"{at}.{stream}_mlp.net.2", width, config.ff)
    for name in (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    ):
        layout |= _linear(f"{at}.attn.{name}", width, width)
    for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        layout[f"{at}.attn.{name}.weight"] = (config.head_dim,)
    return layout


def _mmdit_entry(config: MMDiTConfig) -> Layout:
    """Embeddings that the MMDiT and its ControlNets share."""
    width = config.width
    time = "time_text_embed.timestep_embedder"
    layout = _linear(f"{time}.linear_1", width, TIME_FREQUENCIES)
    layout |= _linear(f"{time}.linear_2", width, width)
    layout |= {"txt_norm.weight": (config.joint,)}
    layout |= _linear("img_in", width, config.channels)
    return layout | _linear("txt_in", width, config.joint)


def mmdit_layout(config: MMDiTConfig, layered: bool = False) -> Layout:
    """The MMDiT file; `layered` adds the embedding of the additional condition."""
    width, layout = config.width, _mmdit_entry(config)
    if layered:
        layout["time_text_embed.addition_t_embedding.weight"] = (2, width)
    for number in range(config.layers):
        layout |= _mmdit_block(f"transformer_blocks.{number}", config)
    layout |= _linear("norm_out.linear", 2 * width, width)
    return layout | _linear("proj_out", config.channels, width)


def _single_block(at: str, config: SingleStreamConfig) -> Layout:
    width, layout = config.width, dict[str, tuple[int, ...]]()
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        layout |= _linear(f"{at}.attn.{name}", width, width, bias=False)
    for name in ("norm_q", "norm_k"):
        layout[f"{at}.attn.{name}.weight"] = (config.head_dim,)
    for name in ("proj", "gate_layer"):
        layout |= _linear(f"{at}.img_mlp.{name}", config.ff, width, bias=False)
    return layout | _linear(f"{at}.img_mlp.out", width, config.ff, bias=False)


def single_stream_layout(config: SingleStreamConfig) -> Layout:
    """The file of Qwen-Image-2.1 in its split spelling, see `joined_layout`."""
    width, joint = config.width, config.joint
    layout: Layout = {"txt_in.text_norm.weight": (joint,)}
    for name, out, into in (
        ("time_text_embed.timestep_embedder.linear_1", width, TIME_FREQUENCIES),
        ("time_text_embed.timestep_embedder.linear_2", width, width),
        ("txt_in.in_layer", width, joint),
        ("txt_in.out_layer", width, width),
        ("img_in", width, config.channels),
        ("modulation.1", 4 * width, width),
        ("norm_out.linear", width, width),
        ("proj_out", config.channels, width),
    ):
        layout |= _linear(name, out, into, bias=False)
    for number in range(config.layers):
        layout |= _single_block(f"transformer_blocks.{number}", config)
    return layout


def joined_layout(layout: Layout, fused: Mapping[str, Sequence[str]]) -> Layout:
    """A layout with matrices in place of the parts that they consist of, see `fused_parts`."""
    joined = dict(layout)
    for whole, parts in fused.items():
        shapes = [joined.pop(part) for part in parts if part in joined]
        if shapes:
            joined[whole] = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return joined


def controlnet_layout(config: MMDiTConfig, condition: int = 64) -> Layout:
    """The InstantX ControlNet file; `condition` is 64 (union) or 68 (inpainting)."""
    width, layout = config.width, _mmdit_entry(config)
    for number in range(config.layers):
        layout |= _mmdit_block(f"transformer_blocks.{number}", config)
        layout |= _linear(f"controlnet_blocks.{number}", width, width)
    return layout | _linear("controlnet_x_embedder", width, condition)


def blockwise_layout(width: int, layers: int, condition: int = 64) -> Layout:
    """DiffSynth's blockwise control; `condition` is 64 (canny, depth) or 68 (inpainting)."""
    layout = _linear("img_in", width, condition)
    for number in range(layers):
        at = f"controlnet_blocks.{number}"
        layout |= {f"{at}.x_rms.weight": (width,), f"{at}.y_rms.weight": (width,)}
        layout |= _linear(f"{at}.input_proj", width, width)
        layout |= _linear(f"{at}.output_proj", width, width)
    return layout


def fun_layout(config: MMDiTConfig, condition: int = 132) -> Layout:
    """VideoX-Fun's control for Qwen-Image-2512, by our names (key_maps.FUN_NAMES)."""
    width = config.width
    layout: Layout = {}
    for number in range(config.layers):
        layout |= _mmdit_block(f"transformer_blocks.{number}", config)
        layout |= _linear(f"controlnet_blocks.{number}", width, width)
    layout |= _linear("before_proj", width, width)
    return layout | _linear("controlnet_x_embedder", width, condition)


def union_layout(config: SingleStreamConfig, condition: int = 129) -> Layout:
    """VideoX-Fun's control for Qwen-Image-2.1, by our names, in the split spelling."""
    width = config.width
    layout: Layout = {}
    for number in range(config.layers):
        layout |= _single_block(f"transformer_blocks.{number}", config)
        layout |= _linear(f"controlnet_blocks.{number}", width, width)
    layout |= _linear("before_proj", width, width)
    return layout | _linear("controlnet_x_embedder", width, condition)


def _text_layer(at: str, config: TextConfig) -> Layout:
    width = config.width
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layout = _linear(f"{at}.self_attn.q_proj", queries, width, config.bias)
    layout |= _linear(f"{at}.self_attn.k_proj", keys, width, config.bias)
    layout |= _linear(f"{at}.self_attn.v_proj", keys, width, config.bias)
    for name in ("q_norm", "k_norm") if config.qk_norm else ():
        layout[f"{at}.self_attn.{name}.weight"] = (config.head_dim,)
    layout |= _linear(f"{at}.self_attn.o_proj", width, queries, bias=False)
    for name in ("gate_proj", "up_proj"):
        layout |= _linear(f"{at}.mlp.{name}", config.ff, width, bias=False)
    layout |= _linear(f"{at}.mlp.down_proj", width, config.ff, bias=False)
    norms = ("input_layernorm", "post_attention_layernorm")
    return layout | {f"{at}.{name}.weight": (width,) for name in norms}


def vision_layout(vision: VisionConfig | DeepVisionConfig) -> Layout:
    """The vision tower under `visual.`."""
    width, joined = vision.width, vision.width * vision.merge**2
    kernel = (width, vision.channels, vision.frames, vision.patch, vision.patch)
    layout: Layout = {"visual.patch_embed.proj.weight": kernel}
    if isinstance(vision, DeepVisionConfig):
        return layout | _deep_tower(vision, width, joined)
    for number in range(vision.depth):
        at = f"visual.blocks.{number}"
        layout |= {f"{at}.{name}.weight": (width,) for name in ("norm1", "norm2")}
        layout |= _linear(f"{at}.attn.qkv", 3 * width, width)
        layout |= _linear(f"{at}.attn.proj", width, width)
        for name in ("gate_proj", "up_proj"):
            layout |= _linear(f"{at}.mlp.{name}", vision.ff, width)
        layout |= _linear(f"{at}.mlp.down_proj", width, vision.ff)
    layout["visual.merger.ln_q.weight"] = (width,)
    layout |= _linear("visual.merger.mlp.0", joined, joined)
    return layout | _linear("visual.merger.mlp.2", vision.out, joined)


def _norm(name: str, width: int) -> Layout:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _deep_tower(vision: DeepVisionConfig, width: int, joined: int) -> Layout:
    layout: Layout = {"visual.patch_embed.proj.bias": (width,)}
    layout["visual.pos_embed.weight"] = (vision.places, width)
    for number in range(vision.depth):
        at = f"visual.blocks.{number}"
        layout |= _norm(f"{at}.norm1", width) | _norm(f"{at}.norm2", width)
        layout |= _linear(f"{at}.attn.qkv", 3 * width, width)
        layout |= _linear(f"{at}.attn.proj", width, width)
        layout |= _linear(f"{at}.mlp.linear_fc1", vision.ff, width)
        layout |= _linear(f"{at}.mlp.linear_fc2", width, vision.ff)
    mergers = {"visual.merger": width}
    mergers |= {f"visual.deepstack_merger_list.{n}": joined for n in range(len(vision.taps))}
    for at, normed in mergers.items():
        layout |= _norm(f"{at}.norm", normed) | _linear(f"{at}.linear_fc1", joined, joined)
        layout |= _linear(f"{at}.linear_fc2", vision.out, joined)
    return layout


def text_layout(
    config: TextConfig, vision: VisionConfig | DeepVisionConfig | None = None, lm_head: bool = False
) -> Layout:
    """The text encoder file in our names: language model, vision tower and lm_head on request."""
    layout: Layout = {"embed_tokens.weight": (config.vocab, config.width)}
    for number in range(config.layers):
        layout |= _text_layer(f"layers.{number}", config)
    layout["norm.weight"] = (config.width,)
    layout |= vision_layout(vision) if vision else {}
    return layout | (_linear("lm_head", config.vocab, config.width, False) if lm_head else {})
