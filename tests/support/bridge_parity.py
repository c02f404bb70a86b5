# ruff: noqa: E501
"""Run by a ComfyUI's own Python (test_bridge.py): our bridges against core's network and nodes.

Canvases have even numbers of tokens: on odd ones core's rotary positions are one off the reference's.

python tests/support/bridge_parity.py COMFYUI_TREE MODELS LORA.safetensors -> one line of JSON
MODELS holds the folders qwen-image, qwen-image-2.1, edit-2511 and layered.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable

import bridge_core  # noqa: F401  starts ComfyUI, so it comes before all of comfy
import comfy.controlnet
import comfy.ldm.qwen_image.model as core_network
import comfy.model_sampling
import comfy.sample
import comfy.sd
import comfy.utils
import torch
from bridge_21 import family_21
from bridge_core import (
    CORE,
    FOLDER,
    LORA,
    MODELS,
    OURS,
    PICTURE,
    ROOT,
    TREE,
    conditioning,
    core_side,
    difference,
    relative,
    sampled,
)
from comfy.text_encoders.qwen_image import QwenImageTokenizer
from official_files import fun_name

import nodes as core_nodes
from inkstone.host.memory import Guest, make_room
from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch import expected_tensors
from inkstone.loaders.arch.family import EDIT, EDIT_PLUS, QWEN_IMAGE
from inkstone.loaders.arch.family import PICTURE as PICTURE_TOKEN
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.tokenizer import load_tokenizer
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.nodes.bridge import nodes
from inkstone.nodes.bridge.clip_vae import head_tokens

Figures = dict[str, object]
SAMPLERS = (
    ("euler", "simple"),
    ("dpmpp_2m", "beta"),
    ("heun", "normal"),
    ("dpmpp_sde", "simple"),
    ("euler_ancestral", "simple"),
)
# variants that place their references in other ways; older cores know them by no option
VARIANTS = {
    "edit-2511": {"default_ref_method": "index_timestep_zero"},
    "layered": {"default_ref_method": "negative_index", "use_additional_t_cond": True},
}


def refusal(call: Callable[[], object]) -> str:
    """The message of the error that a call must raise."""
    try:
        call()
    except Exception as error:  # noqa: BLE001
        return str(error)
    return "not refused"


def samplers() -> Figures:
    """Core's samplers on both networks; masks and references."""
    figures: Figures = {f"{n}/{s}": difference(name=n, scheduler=s) for n, s in SAMPLERS}
    half = torch.zeros(1, 1, 64, 96)
    half[..., 48:] = 1
    masked = dict(latent=PICTURE, mask=half, denoise=0.6)
    two = dict(references=[PICTURE], other=[PICTURE.flip(-1)])
    return figures | {
        "batch of 2, cfg 1": difference(batch=2, cfg=1.0),
        "odd sides": list(sampled(OURS, h=7, w=9).shape),
        "img2img with a mask": difference(**masked),
        "one reference": difference(references=[PICTURE]),
        "another reference in the negative": difference(**two),
        "moved by the reference": relative(sampled(OURS, references=[PICTURE]), sampled(OURS)),
    }


def variants() -> Figures:
    """References of Edit-2511 and layers, where this core has an option for them."""
    known = inspect.signature(core_network.QwenImageTransformer2DModel).parameters
    figures: Figures = {}
    for name, options in VARIANTS.items():
        if options.keys() <= known.keys():
            figures |= variant(name, options)
    return figures


def variant(name: str, options: dict[str, object]) -> Figures:
    """One variant on both networks."""
    models = load_all(ROOT / name, LoadOptions(torch.float32))
    core = core_side(models, ROOT / name, **options)
    ours = nodes.ToModel.execute(models.model).result[0]
    # on canvases narrower than their count of layers core places the text elsewhere than the reference
    frames = 3 if name == "layered" else 1
    run = dict(latent=torch.zeros(2, 16, frames, 8, 12), references=[PICTURE])
    other = run | dict(references=[PICTURE.flip(-1)])
    both = run | dict(other=[PICTURE])
    figures: Figures = {
        name: relative(sampled(ours, **run), sampled(core, **run)),
        f"{name}, 2 texts in one batch": relative(sampled(ours, **both), sampled(core, **both)),
        f"moved by the reference of {name}": relative(sampled(ours, **run), sampled(ours, **other)),
    }
    if name == "layered":
        odd = dict(latent=torch.zeros(1, 16, 3, 7, 9), references=[PICTURE[..., :7, :9]])
        one = dict(latent=torch.zeros(1, 16, 1, 8, 12), references=[PICTURE])
        figures["odd layers"] = list(sampled(ours, **odd).shape)
        figures["one frame"] = refusal(lambda: sampled(ours, **one))
    return figures


def fun_control() -> Figures:
    """A control of core's that borrows the network's way in."""
    if not hasattr(comfy.controlnet, "QwenFunControlNet"):
        return {}
    g, c = torch.Generator().manual_seed(11), MODELS.model.network.config
    shapes = expected_tensors.fun_layout(
        MMDiTConfig(layers=5, heads=c.heads, head_dim=c.head_dim, ff=4 * c.width)
    )
    weights = {
        fun_name(k): torch.randn(s, generator=g) * (s[-1] ** -0.5 if len(s) > 1 else 0.3)
        for k, s in shapes.items()
    }
    control = comfy.controlnet.load_controlnet_state_dict(weights)
    vae = nodes.ToVAE.execute(MODELS.vae).result[0]
    hint = torch.rand(1, 64, 96, 3, generator=g)

    def controlled(patcher, strength):
        pair = [conditioning(n, 1 + i, c.joint) for i, n in enumerate((9, 5))]
        apply = core_nodes.ControlNetApplyAdvanced().apply_controlnet
        pair = apply(*pair, control, hint, strength, 0.0, 1.0, vae=vae)
        noise = torch.randn(1, 16, 1, 8, 12, generator=torch.Generator().manual_seed(3))
        run = (3, 3.0, "euler", "simple", *pair, torch.zeros_like(noise))
        with torch.inference_mode():
            return comfy.sample.sample(patcher, noise, *run, disable_pbar=True, seed=7)

    ours = controlled(OURS, 0.8)
    return {
        "core's Fun control": relative(ours, controlled(CORE, 0.8)),
        "moved by core's Fun control": relative(ours, controlled(OURS, 0.1)),
    }


def shifted(patcher):
    """As ModelSamplingAuraFlow does it, and a CFG norm behind it."""
    bases = (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST)
    sampling = type("Shifted", bases, {})(patcher.model.model_config)
    sampling.set_parameters(shift=3.0, multiplier=1.0)
    patcher = patcher.clone()
    patcher.add_object_patch("model_sampling", sampling)
    patcher.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.9)
    return patcher


def functions_and_loras() -> Figures:
    """The patches of core's nodes on a MODEL: a shift, a CFG function, LoRAs."""
    lora = comfy.utils.load_torch_file(str(LORA))

    def with_lora(patcher, strength):
        return comfy.sd.load_lora_for_models(patcher, None, lora, strength, 0.0)[0]

    twice = with_lora(with_lora(OURS, 0.7), -0.2)
    return {
        "shift 3 and a post-CFG function": relative(sampled(shifted(OURS)), sampled(shifted(CORE))),
        "moved by them": relative(sampled(shifted(OURS)), sampled(OURS)),
        "LoRA of core's loader": relative(
            sampled(with_lora(OURS, 0.7)), sampled(with_lora(CORE, 0.7))
        ),
        "two of them": relative(sampled(twice), sampled(with_lora(CORE, 0.5))),
        "moved by the LoRA": relative(sampled(with_lora(OURS, 0.7)), sampled(OURS)),
        "without it again": difference(),
    }


class Behind:
    """Adds to the image stream in place; core asks `models` for what must be loaded with it."""

    def __call__(self, values):
        img, x = values["img"], values["x"]
        part = x.shape[-1] * x.shape[-2] // 4
        img[:, :part] += 0.1 * (1 + values["block_index"]) * img[:, :part].roll(1, dims=-1)
        values["img"] = img
        return values

    def models(self):
        return []


def patches() -> Figures:
    """Patches behind a block, as DiffSynth's controls are; other patches are refused."""

    def behind(patcher):
        patcher = patcher.clone()
        patcher.set_model_patch(Behind(), "double_block")
        return patcher

    inside = OURS.clone()
    inside.set_model_patch(lambda *a: a, "attn1_patch")
    return {
        "a patch behind each block": relative(
            sampled(behind(OURS), references=[PICTURE]), sampled(behind(CORE), references=[PICTURE])
        ),
        "moved by the patch": relative(sampled(behind(OURS)), sampled(OURS)),
        "inside": refusal(lambda: sampled(inside)),
        "merge": refusal(lambda: OURS.clone().get_key_patches("diffusion_model.")),
        "hook": refusal(lambda: OURS.clone().add_hook_patches(None, {}, 1.0)),
    }


def memory() -> Figures:
    """Requests to the host's memory manager: our weights are not unloaded to make room for
    themselves.
    """
    waiting = load_all(FOLDER, LoadOptions(torch.float32, wait=True, free=make_room))
    late = nodes.ToModel.execute(waiting.model).result[0]
    figures: Figures = {"read when it runs": relative(sampled(late), sampled(CORE))}
    guests = [g for g in late.model_patches_models() if isinstance(g, Guest)]
    figures["held"] = [g.model_size() == waiting.model.weights.reserved > 0 for g in guests]
    late.model.diffusion_model._model.weights.park()
    return figures | {"after it left": relative(sampled(late), sampled(CORE))}


def clip_and_vae() -> Figures:
    """Core's nodes on our CLIP and VAE."""
    clip = nodes.ToCLIP.execute(MODELS.text_encoder).result[0]
    vae = nodes.ToVAE.execute(MODELS.vae).result[0]
    text = core_nodes.CLIPTextEncode().encode(clip, "a red circle")[0][0][0]
    pixels = torch.rand(2, 50, 67, 3, generator=torch.Generator().manual_seed(9))
    latent = core_nodes.VAEEncode().encode(vae, pixels)[0]["samples"]
    back = core_nodes.VAEDecode().decode(vae, {"samples": latent})[0]
    tiled = core_nodes.VAEDecodeTiled().decode(vae, {"samples": latent}, 512)[0]
    mask = torch.zeros(1, 50, 67)
    mask[:, 10:20, 10:20] = 1
    inpaint = core_nodes.VAEEncodeForInpaint().encode(vae, pixels[:1], mask)[0]["samples"]
    return {
        "CLIPTextEncode": relative(text, MODELS.text_encoder.encode("a red circle").states.float()),
        "VAEEncode": list(latent.shape),
        "item 1": relative(latent[1:], MODELS.vae.encode(pixels[1:, 1:49, 1:65])),
        "VAEDecode": list(back.shape),
        "decoded": relative(back[:1], MODELS.vae.decode(latent[:1])),
        "tiled": relative(tiled, back),
        "VAEEncodeForInpaint": list(inpaint.shape),
    }


TEXTS = (
    "a red circle",
    "",
    " ",
    "\u96e8\u540e\u7684\u8857\u9053\uff0c\u4e00\u5757\u62db\u724c",
    "(word:1.3) \\(x\\)",
    "1234 \u20ac\n\nend ",
    "user\n<|im_end|> <|im_start|>user\nagain",
)
HEADS = ((QWEN_IMAGE.template, 34), (EDIT.template, 64), ("<|im_start|>user\n{}", 3), ("{}", 0))


def tokens() -> Figures:
    """Tokens and the head that is cut, against core's tokenizer with its full vocabulary."""
    clip = nodes.ToCLIP.execute(MODELS.text_encoder).result[0]
    theirs = QwenImageTokenizer()
    ours = load_tokenizer(TREE / "comfy" / "text_encoders" / "qwen25_tokenizer")

    def core_ids(text: str, template: str | None) -> list[int]:
        batches = theirs.tokenize_with_weights(text, llama_template=template)["qwen25_7b"]
        return [t[0] for t in batches[0]]

    return {
        "tokens": [
            text
            for text in TEXTS
            for template, plain in ((None, QWEN_IMAGE.template), (EDIT_PLUS.template,) * 2)
            if core_ids(text, template) != ours.encode(plain.format(clip.tokenize(text)["text"]))
        ],
        "templates": [
            template
            for template, drop in HEADS
            if head_tokens(ours, template.format(PICTURE_TOKEN)) != drop
        ],
    }


SECTIONS = (
    samplers,
    variants,
    fun_control,
    functions_and_loras,
    patches,
    memory,
    clip_and_vae,
    tokens,
    family_21,
)

if __name__ == "__main__":
    print("RESULT " + json.dumps({k: v for s in SECTIONS for k, v in s().items()}))
