"""Tensor names that mark a file: its quantization format, a LoRA, another publisher's model."""

import re

# Marks of quantized files, first match wins: (end of a tensor name, format).
FORMAT_MARKS = (
    (".wscales", "SVDQuant (nunchaku)"),
    (".encoded_exponent", "DFloat11"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes nf4"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes fp4"),
    (".SCB", "bitsandbytes int8"),
    (".comfy_quant", "comfy_quant"),
    ("scaled_fp8", "fp8 scaled"),
    (".scale_weight", "fp8 scaled"),
    (".weight_scale_2", "nvfp4"),
    (".weight_scale", "fp8 scaled by rows"),
    (".weight._data", "quanto"),
)
LORA_MARK = re.compile(
    r"\.(lora_[AB](\.[^.]+)?\.weight|lora_[AB]|lora[_.](up|down)(\.weight)?|lokr_w[12](_[ab])?"
    r"|hada_w[12]_[ab]|diff_b|diff|[wb]_norm)$"
)
QWEN_LORA_MARK = re.compile(r"(img|txt)_(mlp|mod)[._]|transformer_blocks[._][45]\d[._]attn[._]")
BLOCK_LORA_MARK = re.compile(r"transformer_blocks[._]\d+[._]attn[._]")
OTHER_LORA_MARK = re.compile(
    r"single_|transformer_blocks[._]\d+[._](ff|norm1|attn[12])|(down|up|input|output|double)_blocks"
    r"|mid_block|lora_te"
)

# Other people's models: (names that must all be there, role, family, description).
FOREIGN = (
    # controls first: they hold blocks of the model that they are for
    (("lora_controlnet",), "controlnet", "sd", "a Stable Diffusion control LoRA"),
    (
        ("controlnet_blocks.0.weight", "input_hint_block.0.weight"),
        "controlnet",
        "flux",
        "a FLUX ControlNet",
    ),
    (("input_hint_block.0.weight",), "controlnet", "sd", "a Stable Diffusion ControlNet"),
    (
        ("controlnet_cond_embedding.conv_in.weight",),
        "controlnet",
        "sd",
        "a Stable Diffusion ControlNet",
    ),
    (
        ("adapter.body.0.resnets.0.block1.weight",),
        "controlnet",
        "sd",
        "a T2I-Adapter of Stable Diffusion",
    ),
    (
        ("body.0.block1.weight", "conv_in.weight"),
        "controlnet",
        "sd",
        "a T2I-Adapter of Stable Diffusion",
    ),
    (("controlnet_x_embedder.weight",), "controlnet", "flux", "a FLUX ControlNet"),
    (
        ("controlnet_blocks.0.weight", "pos_embed_input.weight"),
        "controlnet",
        "flux",
        "a FLUX ControlNet",
    ),
    (
        ("controlnet_blocks.0.weight", "pos_embed_input.proj.weight"),
        "controlnet",
        "sd3",
        "a Stable Diffusion 3 ControlNet",
    ),
    (("control_all_x_embedder.2-1.weight",), "controlnet", "z-image", "a Z-Image ControlNet"),
    (("double_blocks.0.img_attn.qkv.weight",), "diffusion_model", "flux", "a FLUX model"),
    (("single_transformer_blocks.0.attn.to_q.weight",), "diffusion_model", "flux", "a FLUX model"),
    (
        ("joint_blocks.0.x_block.attn.qkv.weight",),
        "diffusion_model",
        "sd3",
        "a Stable Diffusion 3 model",
    ),
    (
        ("pos_embed.proj.weight", "transformer_blocks.0.attn.add_k_proj.weight"),
        "diffusion_model",
        "sd3",
        "a Stable Diffusion 3 model",
    ),
    (
        ("input_blocks.0.0.weight", "label_emb.0.0.weight"),
        "diffusion_model",
        "sdxl",
        "an SDXL checkpoint",
    ),
    (("input_blocks.0.0.weight",), "diffusion_model", "sd", "a Stable Diffusion 1 or 2 checkpoint"),
    (
        ("down_blocks.0.resnets.0.norm1.weight", "time_embedding.linear_1.weight"),
        "diffusion_model",
        "sd",
        "a Stable Diffusion UNet",
    ),
    (
        ("blocks.0.self_attn.q.weight", "patch_embedding.weight"),
        "diffusion_model",
        "wan",
        "a Wan video model",
    ),
    (
        ("noise_refiner.0.attention.qkv.weight",),
        "diffusion_model",
        "lumina",
        "a Lumina 2 or Z-Image model",
    ),
    (
        ("text_model.encoder.layers.0.self_attn.q_proj.weight",),
        "text_encoder",
        "clip",
        "a CLIP text encoder",
    ),
    (
        ("transformer.resblocks.0.attn.in_proj_weight",),
        "text_encoder",
        "clip",
        "a CLIP text encoder",
    ),
    (
        ("vision_model.encoder.layers.0.self_attn.q_proj.weight",),
        "unknown",
        "clip",
        "a CLIP vision model",
    ),
    (
        ("encoder.block.0.layer.0.SelfAttention.q.weight",),
        "text_encoder",
        "t5",
        "a T5 text encoder",
    ),
)
# Prefixes that are looked through when a file is recognized.
STRIP = (
    "text_encoders.qwen25_7b.transformer.",
    "text_encoders.qwen3vl_8b.transformer.",
    "model.diffusion_model.",
    "first_stage_model.",
    "diffusion_model.",
    "vae.",
    "transformer.",
    "controlnet.",
    "control_model.",
    "model.",
    "module.",
    "text_encoder.",
)
