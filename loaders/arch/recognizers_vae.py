"""Recognizers of VAEs: those of our families, and others that are named and refused."""

from __future__ import annotations

from dataclasses import asdict, replace

from ...kernels.configs import ResidualVAEConfig
from .dims import RESIDUAL_VAE_MARK, Shapes, size, vae_blocks, vae_sizes
from .expected_tensors_vae import folded, vae_layout
from .file_facts import FileFacts, complete
from .header_view import HeaderView, formats_of
from .key_maps_vae import DIFFUSERS_VAE_MARK, WAN_MARK, vae_names

WAN_2_2, NEWER = 48, 64  # latent channels that the VAE of Qwen-Image does not have


def vae(view: HeaderView) -> FileFacts | None:
    """Recognizes the VAEs of Qwen-Image (and Wan 2.1, the same) and of Qwen-Image-2.1."""
    if not (view.has(WAN_MARK) or view.has(DIFFUSERS_VAE_MARK)):
        return None
    names = view.names(vae_names, *vae_blocks(view.bare))
    shapes = view.shapes(names)
    residual = any(map(RESIDUAL_VAE_MARK.search, view.bare))
    other = _other_problem(view, shapes, residual)
    if other is not None:
        family, problem = other
        return FileFacts("vae", family, formats=formats_of(view), problem=problem)
    config = vae_sizes(shapes, names.unused)
    if residual:  # Wan names write a 2-D kernel with one temporal tap
        shapes = folded(shapes)
        family, variant = "qwen-image-2.1", "RGBA" if config.channels == 4 else ""
    elif config.channels == 4:
        family, variant = "qwen-image", "layered (RGBA)"
    else:
        family, variant = "qwen-image", "qwen-image or wan 2.1 (identical tensors)"
    facts = FileFacts("vae", family, variant, layers=len(config.mult), config=asdict(config))
    if isinstance(config, ResidualVAEConfig) and config.fault:
        return complete(view, replace(facts, problem=config.fault), names, {}, shapes)
    layout = {n: shape for n, shape in vae_layout(config).items() if ".time_conv." not in n}
    return complete(view, facts, names, layout, shapes)


def _other_problem(view: HeaderView, shapes: Shapes, residual: bool) -> tuple[str, str] | None:
    """(family, what it is) of VAEs that share names with ours; None where it is ours."""
    z, first = size(shapes, "decoder.conv_in.weight", 1), shapes.get("decoder.conv_in.weight", ())
    video = residual and len(first) == 5 and first[2] > 1
    if z == WAN_2_2 or video:
        channels = f"{z} latent channels" + (", convolutions over time" if video else "")
        return "wan-2.2", (
            f"it is the Wan 2.2 VAE ({channels}), Qwen-Image needs its own VAE with 16, "
            "Qwen-Image-2.1 its own with 64"
        )
    if z == NEWER and not residual:
        return "qwen-image-2.1", (
            "it has 64 latent channels as the Qwen-Image-2.1 VAE, but other layers"
        )
    drawn, taken = (
        size(shapes, "decoder.conv_out.weight"),
        size(shapes, "encoder.conv_in.weight", 1),
    )
    if taken and drawn == 4 * taken and not residual:
        return "wan 2x", (
            f"it is a VAE whose decoder draws at twice the size ({drawn} channels, Wan2.1 "
            "VAE upscale2x), which is not supported: use qwen_image_vae.safetensors and enlarge "
            "the picture afterwards"
        )
    return None


def other_vae(view: HeaderView) -> FileFacts | None:
    """VAEs of the Stable Diffusion line: one network, distinguished by the latent channels."""
    marks = ("decoder.mid.block_1.norm1.weight", "decoder.mid_block.resnets.0.norm1.weight")
    if not any(mark in view.bare for mark in marks) or not view.has("decoder.conv_in.weight"):
        return None
    z = next(iter(view.bare["decoder.conv_in.weight"].shape[1:2]), None)
    known = {4: "SD 1, 2 or SDXL", 16: "FLUX or SD 3", 32: "FLUX 2"}
    words = known.get(z, "another model") if z is not None else "another model"
    return FileFacts(
        "vae",
        "sd",
        formats=formats_of(view),
        problem=f"it is the VAE of {words} "
        f"({'?' if z is None else z} latent channels), Qwen-Image needs its own",
    )
