# ruff: noqa: E501
"""Run by a ComfyUI's own Python (test_bridge.py): our bridges against core's network and nodes.

Canvases have even numbers of tokens: on odd ones core's rotary positions are one off the reference's.

python tests/support/bridge_parity.py COMFYUI_TREE MODELS LORA.safetensors -> one line of JSON
MODELS holds the folders qwen-image, edit-2511 and layered.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
from pathlib import Path

TREE, ROOT, LORA = (Path(p) for p in sys.argv[1:4])
FOLDER = ROOT / "qwen-image"
sys.path[:0] = [str(TREE), str(Path(__file__).resolve().parents[2])]
sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.ldm.qwen_image.model as core_network  # noqa: E402
import comfy.lora  # noqa: E402
import comfy.lora_convert  # noqa: E402
import comfy.model_base  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402

import scripts.package  # noqa: E402, F401  makes this tree importable as `inkstone`
from inkstone.host import headless  # noqa: E402
from inkstone.kernels.configs import MMDiTConfig  # noqa: E402
from inkstone.loaders.models.load import load_all  # noqa: E402
from inkstone.loaders.models.weight_file import LoadOptions  # noqa: E402
from inkstone.nodes.bridge import nodes  # noqa: E402

headless.IN_COMFYUI = True
logging.disable(logging.WARNING)
FOUND: dict[str, object] = {}


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def core_side(models, folder: Path, **options) -> comfy.model_patcher.ModelPatcher:
    """Core's own network with the same weights."""
    config = comfy.supported_models.QwenImage(
        {"image_model": "qwen_image", "disable_unet_model_creation": True}
    )
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.QwenImage(config)
    c = models.model.network.config
    model.diffusion_model = core_network.QwenImageTransformer2DModel(
        num_layers=c.layers,
        attention_head_dim=c.head_dim,
        num_attention_heads=c.heads,
        joint_attention_dim=c.joint,
        axes_dims_rope=c.axes,
        dtype=torch.float32,
        device="cpu",
        operations=comfy.ops.manual_cast,
        image_model="qwen_image",
        **options,
    )
    file = next((folder / "transformer").glob("*.safetensors"))
    unread = model.diffusion_model.load_state_dict(comfy.utils.load_torch_file(str(file)), False)
    mark = ["__index_timestep_zero__"]  # an empty tensor that says what options say here
    assert not unread.unexpected_keys and unread.missing_keys in ([], mark), unread
    mean, std = (
        t.reshape(1, 16, 1, 1, 1) for t in (models.model.latent_mean, models.model.latent_std)
    )
    model.latent_format.latents_mean, model.latent_format.latents_std = mean, std
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def conditioning(length: int, seed: int, joint: int, **more) -> list:
    g = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, length, joint, generator=g), {"pooled_output": None, **more}]]


def sampled(
    patcher, name="euler", scheduler="simple", steps=4, cfg=3.0, batch=1, h=8, w=12, **more
):
    joint = MODELS.model.network.config.joint
    refs = more.get("references")
    other = more.get("other", refs)
    first, second = ({} if r is None else {"reference_latents": r} for r in (refs, other))
    lengths = (9, 5) if other is refs else (7, 7)  # equal ones go through in one batch
    positive, negative = (
        conditioning(n, 1 + i, joint, **extra)
        for i, (n, extra) in enumerate(zip(lengths, (first, second)))
    )
    latent = more.get("latent", torch.zeros(batch, 16, 1, h, w))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return comfy.sample.sample(
            patcher,
            noise,
            steps,
            cfg,
            name,
            scheduler,
            positive,
            negative,
            latent,
            denoise=more.get("denoise", 1.0),
            noise_mask=more.get("mask"),
            disable_pbar=True,
            seed=7,
        )


MODELS = load_all(FOLDER, LoadOptions(torch.float32))
CORE, OURS = core_side(MODELS, FOLDER), nodes.ToModel.execute(MODELS.model).result[0]
for sampler, scheduler in (
    ("euler", "simple"),
    ("dpmpp_2m", "beta"),
    ("heun", "normal"),
    ("dpmpp_sde", "simple"),
    ("euler_ancestral", "simple"),
):
    FOUND[f"{sampler}/{scheduler}"] = relative(
        sampled(OURS, sampler, scheduler), sampled(CORE, sampler, scheduler)
    )
FOUND["batch of 2, cfg 1"] = relative(
    sampled(OURS, batch=2, cfg=1.0), sampled(CORE, batch=2, cfg=1.0)
)
FOUND["odd sides"] = list(sampled(OURS, h=7, w=9).shape)
picture = torch.randn(1, 16, 1, 8, 12, generator=torch.Generator().manual_seed(5))
half = torch.zeros(1, 1, 64, 96)
half[..., 48:] = 1
more = dict(latent=picture, mask=half, denoise=0.6)
FOUND["img2img with a mask"] = relative(sampled(OURS, **more), sampled(CORE, **more))
FOUND["one reference"] = relative(
    sampled(OURS, references=[picture]), sampled(CORE, references=[picture])
)
two = dict(references=[picture], other=[picture.flip(-1)])
FOUND["another reference in the negative"] = relative(sampled(OURS, **two), sampled(CORE, **two))
FOUND["moved by the reference"] = relative(sampled(OURS, references=[picture]), sampled(OURS))

# variants that place their references in other ways; older cores know them by no option
OTHERS = {
    "edit-2511": {"default_ref_method": "index_timestep_zero"},
    "layered": {"default_ref_method": "negative_index", "use_additional_t_cond": True},
}
KNOWN = inspect.signature(core_network.QwenImageTransformer2DModel).parameters
for variant, options in OTHERS.items():
    if not options.keys() <= KNOWN.keys():
        continue
    models = load_all(ROOT / variant, LoadOptions(torch.float32))
    core, ours = (
        core_side(models, ROOT / variant, **options),
        nodes.ToModel.execute(models.model).result[0],
    )
    # on canvases narrower than their count of layers core places the text elsewhere than the reference
    frames = 3 if variant == "layered" else 1
    more = dict(latent=torch.zeros(2, 16, frames, 8, 12), references=[picture])
    FOUND[variant] = relative(sampled(ours, **more), sampled(core, **more))
    FOUND[f"{variant}, 2 texts in one batch"] = relative(
        sampled(ours, **more, other=[picture]), sampled(core, **more, other=[picture])
    )
    FOUND[f"moved by the reference of {variant}"] = relative(
        sampled(ours, **more), sampled(ours, latent=more["latent"], references=[picture.flip(-1)])
    )
    if variant == "layered":
        odd = dict(latent=torch.zeros(1, 16, 3, 7, 9), references=[picture[..., :7, :9]])
        FOUND["odd layers"] = list(sampled(ours, **odd).shape)
        try:
            sampled(ours, latent=torch.zeros(1, 16, 1, 8, 12), references=[picture])
        except Exception as error:  # noqa: BLE001
            FOUND["one frame"] = str(error)

# a control that borrows the network's way in
import comfy.controlnet  # noqa: E402

import nodes as core_nodes  # noqa: E402

if hasattr(comfy.controlnet, "QwenFunControlNet"):
    from official_files import fun_name

    from inkstone.loaders.arch import expected_tensors

    g, c = torch.Generator().manual_seed(11), MODELS.model.network.config
    shapes = expected_tensors.fun_layout(
        MMDiTConfig(layers=5, heads=c.heads, head_dim=c.head_dim, ff=4 * c.width)
    )
    fun = {
        fun_name(k): torch.randn(s, generator=g) * (s[-1] ** -0.5 if len(s) > 1 else 0.3)
        for k, s in shapes.items()
    }
    control = comfy.controlnet.load_controlnet_state_dict(fun)
    vae = nodes.ToVAE.execute(MODELS.vae).result[0]
    hint = torch.rand(1, 64, 96, 3, generator=g)

    def controlled(patcher, strength):
        pair = [conditioning(n, 1 + i, c.joint) for i, n in enumerate((9, 5))]
        apply = core_nodes.ControlNetApplyAdvanced().apply_controlnet
        pair = apply(*pair, control, hint, strength, 0.0, 1.0, vae=vae)
        noise = torch.randn(1, 16, 1, 8, 12, generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            return comfy.sample.sample(
                patcher,
                noise,
                3,
                3.0,
                "euler",
                "simple",
                *pair,
                torch.zeros_like(noise),
                disable_pbar=True,
                seed=7,
            )

    FOUND["core's Fun control"] = relative(controlled(OURS, 0.8), controlled(CORE, 0.8))
    FOUND["moved by core's Fun control"] = relative(controlled(OURS, 0.8), controlled(OURS, 0.1))


def shifted(patcher):
    """As ModelSamplingAuraFlow does it, and a CFG norm behind it."""
    sampling = type(
        "Shifted", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {}
    )(patcher.model.model_config)
    sampling.set_parameters(shift=3.0, multiplier=1.0)
    patcher = patcher.clone()
    patcher.add_object_patch("model_sampling", sampling)
    patcher.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.9)
    return patcher


FOUND["shift 3 and a post-CFG function"] = relative(sampled(shifted(OURS)), sampled(shifted(CORE)))
FOUND["moved by them"] = relative(sampled(shifted(OURS)), sampled(OURS))
lora = comfy.utils.load_torch_file(str(LORA))


def with_lora(patcher, strength):
    return comfy.sd.load_lora_for_models(patcher, None, lora, strength, 0.0)[0]


FOUND["LoRA of core's loader"] = relative(
    sampled(with_lora(OURS, 0.7)), sampled(with_lora(CORE, 0.7))
)
FOUND["two of them"] = relative(
    sampled(with_lora(with_lora(OURS, 0.7), -0.2)), sampled(with_lora(CORE, 0.5))
)
FOUND["moved by the LoRA"] = relative(sampled(with_lora(OURS, 0.7)), sampled(OURS))
FOUND["without it again"] = relative(sampled(OURS), sampled(CORE))

# patches behind a block, as DiffSynth's controls are; other patches are refused, in words


class Behind:
    """Adds to the image stream in place; `models` is asked for what it needs loaded."""

    def __call__(self, given):
        img, x = given["img"], given["x"]
        part = x.shape[-1] * x.shape[-2] // 4
        img[:, :part] += 0.1 * (1 + given["block_index"]) * img[:, :part].roll(1, dims=-1)
        given["img"] = img
        return given

    def models(self):
        return []


def behind(patcher):
    patcher = patcher.clone()
    patcher.set_model_patch(Behind(), "double_block")
    return patcher


FOUND["a patch behind each block"] = relative(
    sampled(behind(OURS), references=[picture]), sampled(behind(CORE), references=[picture])
)
FOUND["moved by the patch"] = relative(sampled(behind(OURS)), sampled(OURS))
inside = OURS.clone()
inside.set_model_patch(lambda *a: a, "attn1_patch")
try:
    sampled(inside)
    FOUND["inside"] = "not refused"
except Exception as error:  # noqa: BLE001
    FOUND["inside"] = str(error)

for what, ask in (
    ("merge", lambda: OURS.clone().get_key_patches("diffusion_model.")),
    ("hook", lambda: OURS.clone().add_hook_patches(None, {}, 1.0)),
):
    try:
        ask()
    except Exception as error:  # noqa: BLE001
        FOUND[what] = str(error)

# what the host's memory manager is told: our weights do not leave to make room for themselves
from inkstone.host.memory import Guest, make_room  # noqa: E402

waiting = load_all(FOLDER, LoadOptions(torch.float32, wait=True, free=make_room))
late = nodes.ToModel.execute(waiting.model).result[0]
FOUND["read when it runs"] = relative(sampled(late), sampled(CORE))
guests = [g for g in late.model_patches_models() if isinstance(g, Guest)]
FOUND["held"] = [g.model_size() == waiting.model.weights.held > 0 for g in guests]
late.model.diffusion_model._model.weights.park()
FOUND["after it left"] = relative(sampled(late), sampled(CORE))

clip, vae = nodes.ToCLIP.execute(MODELS.text_encoder).result[0], nodes.ToVAE.execute(MODELS.vae)
vae = vae.result[0]
text = core_nodes.CLIPTextEncode().encode(clip, "a red circle")[0][0][0]
FOUND["CLIPTextEncode"] = relative(text, MODELS.text_encoder.encode("a red circle").float())
pixels = torch.rand(2, 50, 67, 3, generator=torch.Generator().manual_seed(9))
latent = core_nodes.VAEEncode().encode(vae, pixels)[0]["samples"]
FOUND["VAEEncode"] = list(latent.shape)
FOUND["item 1"] = relative(latent[1:], MODELS.vae.encode(pixels[1:, 1:49, 1:65]))
back = core_nodes.VAEDecode().decode(vae, {"samples": latent})[0]
FOUND["VAEDecode"] = list(back.shape)
FOUND["decoded"] = relative(back[:1], MODELS.vae.decode(latent[:1]))
tiled = core_nodes.VAEDecodeTiled().decode(vae, {"samples": latent}, 512)[0]
FOUND["tiled"] = relative(tiled, back)
mask = torch.zeros(1, 50, 67)
mask[:, 10:20, 10:20] = 1
FOUND["VAEEncodeForInpaint"] = list(
    core_nodes.VAEEncodeForInpaint().encode(vae, pixels[:1], mask)[0]["samples"].shape
)

# tokens and the head that is cut, against core's tokenizer with its full vocabulary
from comfy.text_encoders.qwen_image import QwenImageTokenizer  # noqa: E402

from inkstone.loaders.arch.family import EDIT, EDIT_PLUS, PICTURE, QWEN_IMAGE  # noqa: E402
from inkstone.loaders.models.tokenizer import load_tokenizer  # noqa: E402
from inkstone.nodes.bridge.clip_vae import head_tokens  # noqa: E402

theirs = QwenImageTokenizer()
ours = load_tokenizer(TREE / "comfy" / "text_encoders" / "qwen25_tokenizer")
TEXTS = (
    "a red circle",
    "",
    " ",
    "\u96e8\u540e\u7684\u8857\u9053\uff0c\u4e00\u5757\u62db\u724c",
    "(word:1.3) \\(x\\)",
    "1234 \u20ac\n\nend ",
    "user\n<|im_end|> <|im_start|>user\nagain",
)
FOUND["tokens"] = [
    text
    for text in TEXTS
    for template, plain in ((None, QWEN_IMAGE.template), (EDIT_PLUS.template,) * 2)
    if [t[0] for t in theirs.tokenize_with_weights(text, llama_template=template)["qwen25_7b"][0]]
    != ours.encode(plain.format(clip.tokenize(text)["text"]))
]
heads = ((QWEN_IMAGE.template, 34), (EDIT.template, 64), ("<|im_start|>user\n{}", 3), ("{}", 0))
FOUND["templates"] = [
    template for template, drop in heads if head_tokens(ours, template.format(PICTURE)) != drop
]
print("RESULT " + json.dumps(FOUND))
