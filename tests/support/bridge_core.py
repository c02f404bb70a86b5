"""Core's own network in a ComfyUI, and one way to sample from it and from ours.

Imported by bridge_parity.py alone, in ComfyUI's own Python: importing this module starts ComfyUI's
modules from the tree that the command line names.
"""

from __future__ import annotations

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
from inkstone.loaders.models.load import load_all  # noqa: E402
from inkstone.loaders.models.weight_file import LoadOptions  # noqa: E402
from inkstone.nodes.bridge import nodes  # noqa: E402

headless.IN_COMFYUI = True
logging.disable(logging.WARNING)


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


def sampled(patcher, name="euler", scheduler="simple", cfg=3.0, batch=1, h=8, w=12, **more):
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
            4,  # steps
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
PICTURE = torch.randn(1, 16, 1, 8, 12, generator=torch.Generator().manual_seed(5))


def difference(**run) -> float:
    """The distance of our latents from core's, for the same run."""
    return relative(sampled(OURS, **run), sampled(CORE, **run))
