"""Every tensor name and shape of a published file, derived from config numbers alone.

Counts for the published configs: MMDiT 1933 tensors and 20,430,401,088 parameters (layered: one
tensor of 2 x 3072 more), VAE 194 and 126,892,531, text encoder 729 with vision and lm_head (of
Qwen-Image-2.1 750).
Names are ours (see key_maps.py). Shapes are those of the file: 3-D convolutions, unfolded.
"""

from __future__ import annotations

from ...kernels.configs import DeepVisionConfig, MMDiTConfig, TextConfig, VAEConfig, VisionConfig

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


def _conv3(name: str, out: int, into: int, size: int = 3) -> Layout:
    return {f"{name}.weight": (out, into, size, size, size), f"{name}.bias": (out,)}


def _conv2(name: str, out: int, into: int, size: int) -> Layout:
    return {f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,)}


def _time_conv(at: str, out: int, into: int) -> Layout:
    return {f"{at}.time_conv.weight": (out, into, 3, 1, 1), f"{at}.time_conv.bias": (out,)}


def _resnet(at: str, into: int, out: int) -> Layout:
    layout: Layout = {f"{at}.norm1.gamma": (into, 1, 1, 1), f"{at}.norm2.gamma": (out, 1, 1, 1)}
    layout |= _conv3(f"{at}.conv1", out, into) | _conv3(f"{at}.conv2", out, out)
    return layout | (_conv3(f"{at}.conv_shortcut", out, into, 1) if into != out else {})


def _middle(at: str, width: int) -> Layout:
    layout = _resnet(f"{at}.resnets.0", width, width) | _resnet(f"{at}.resnets.1", width, width)
    layout[f"{at}.attentions.0.norm.gamma"] = (width, 1, 1)
    layout |= _conv2(f"{at}.attentions.0.to_qkv", 3 * width, width, 1)
    return layout | _conv2(f"{at}.attentions.0.proj", width, width, 1)


def _encoder(config: VAEConfig) -> Layout:
    """Stages of res_blocks blocks and one stride-2 step; time_conv from the second step on."""
    layout = _conv3("encoder.conv_in", config.base * config.mult[0], config.channels)
    width, number = config.base * config.mult[0], 0
    for stage, mult in enumerate(config.mult):
        for _ in range(config.res_blocks):
            layout |= _resnet(f"encoder.down_blocks.{number}", width, config.base * mult)
            width, number = config.base * mult, number + 1
        if stage < len(config.mult) - 1:
            at = f"encoder.down_blocks.{number}"
            layout |= _conv2(f"{at}.resample.1", width, width, 3)
            layout |= _time_conv(at, width, width) if stage else {}
            number += 1
    layout |= _middle("encoder.mid_block", width)
    layout["encoder.norm_out.gamma"] = (width, 1, 1, 1)
    return layout | _conv3("encoder.conv_out", 2 * config.z, width)


def _decoder(config: VAEConfig) -> Layout:
    """Mirror of the encoder with one block more per stage; each upsampling halves the width."""
    width, last = config.base * config.mult[-1], len(config.mult) - 1
    layout = _conv3("decoder.conv_in", width, config.z) | _middle("decoder.mid_block", width)
    for stage, mult in enumerate(reversed(config.mult)):
        at = f"decoder.up_blocks.{stage}"
        for number in range(config.res_blocks + 1):
            layout |= _resnet(f"{at}.resnets.{number}", width, config.base * mult)
            width = config.base * mult
        if stage < last:
            layout |= _conv2(f"{at}.upsamplers.0.resample.1", width // 2, width, 3)
            layout |= _time_conv(f"{at}.upsamplers.0", 2 * width, width) if stage < last - 1 else {}
            width //= 2
    layout["decoder.norm_out.gamma"] = (width, 1, 1, 1)
    return layout | _conv3("decoder.conv_out", config.channels, width)


def vae_layout(config: VAEConfig) -> Layout:
    """The VAE file in diffusers names, with the time_convs that one frame never needs."""
    layout = _encoder(config) | _conv3("quant_conv", 2 * config.z, 2 * config.z, 1)
    return layout | _conv3("post_quant_conv", config.z, config.z, 1) | _decoder(config)


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
