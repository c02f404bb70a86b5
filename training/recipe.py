"""The whole recipe of the embedded model: tokenizer, VAE, MMDiT with text encoder, edits, control.

`inkstone train --out FOLDER` runs it; stopped at any moment and started again it goes on from its
last checkpoint and ends on the same weights. About five hours of one CPU core.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ..kernels.configs import MMDiTConfig
from ..kernels.vae import VAE
from ..loaders.arch.family import EMBEDDED
from ..loaders.formats.safetensors import save_safetensors
from ..loaders.models.load import load_vae
from ..loaders.models.tokenizer import Tokenizer, load_tokenizer
from . import control_flow, edit_flow, flow
from . import vae as vae_training
from .packed import save_gguf
from .tokenizer import write as write_tokenizer

log = logging.getLogger(__name__)
SEED = 20261124
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


def train(folder: Path, out: Path, seed: int = SEED, begin: Path | None = None) -> None:
    """Trains (or resumes) everything, checkpoints in `folder`; writes the model folder `out`.

    begin: a model folder whose VAE is kept and whose weights are taught to edit; nothing before
    that is trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out / "tokenizer")
    tokenizer = load_tokenizer(out / "tokenizer")
    if begin is None:
        vae, stats, model = _drawing(folder, tokenizer, seed)
    else:
        kept = load_vae(begin)
        vae, stats = kept.network, (kept.mean.float(), kept.std.float())
        torch.manual_seed(seed + 2)  # rows of new words
        model = edit_flow.start(begin, out / "tokenizer")
    model = edit_flow.train_edits(vae, stats, tokenizer, model, folder, seed)
    export(out, vae, stats, model, seed)
    teach_control(folder, out, seed)


def _drawing(
    folder: Path, tokenizer: Tokenizer, seed: int
) -> tuple[VAE, tuple[Tensor, Tensor], flow.FlowModel]:
    """VAE, its statistics, and the model that draws from words."""
    joint, decoder = vae_training.STAGES
    torch.manual_seed(seed)
    vae = vae_training.start()
    vae_training.run_stage(vae, folder, seed, joint)
    stats = flow.latent_statistics(vae, seed)
    vae_training.run_stage(vae, folder, seed, decoder)
    return vae, stats, flow.train_flow(vae, stats, tokenizer, folder, seed)


def export(
    out: Path, vae: VAE, stats: tuple[Tensor, Tensor], model: flow.FlowModel, seed: int = SEED
) -> None:
    """Writes a Hugging Face style folder with float16 weights and the family in the metadata."""
    family = {"inkstone_family": EMBEDDED.name}
    mean, std = (s.flatten().tolist() for s in stats)
    _write(out / "vae", "diffusion_pytorch_model", _half(vae), family)
    _json(
        out / "vae" / "config.json",
        {
            "_class_name": "AutoencoderKLQwenImage",
            "base_dim": vae.config.base,
            "z_dim": vae.config.z,
            "dim_mult": list(vae.config.mult),
            "num_res_blocks": vae.config.res_blocks,
            "latents_mean": mean,
            "latents_std": std,
            "inkstone_preview": flow.preview_factors(vae, stats, seed),
        },
    )
    network = _half(model.mmdit) | _half(model.mod)
    _write(out / "transformer", "diffusion_pytorch_model", network, family)
    _json(out / "transformer" / "config.json", transformer_config(flow.CONFIG))
    _write(out / "text_encoder", "model", _half(model.text), family)
    text = asdict(flow.TEXT)
    _json(
        out / "text_encoder" / "config.json",
        {
            "model_type": "qwen2_5_vl",
            "rope_theta": text["theta"],
            "num_attention_heads": text["heads"],
            "head_dim": text["head_dim"],
        },
    )
    _json(
        out / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "base_image_seq_len": 256,
            "max_image_seq_len": 8192,
            "base_shift": EMBEDDED.schedule.base_shift,
            "max_shift": EMBEDDED.schedule.max_shift,
            "shift_terminal": None,
            "time_shift_type": "exponential",
            "use_dynamic_shifting": True,
        },
    )
    parts = {name: ["inkstone", name] for name in PARTS}
    _json(out / "model_index.json", {"_class_name": "QwenImagePipeline", **parts})


def copy_model(begin: Path, out: Path) -> None:
    """The parts of a model folder, without its control; checkpoints and what is there stay."""
    if out.exists() and out.samefile(begin):
        return
    for name in PARTS:
        shutil.copytree(begin / name, out / name, dirs_exist_ok=True)
    shutil.copy2(begin / "model_index.json", out / "model_index.json")


def teach_control(folder: Path, out: Path, seed: int = SEED) -> None:
    """Trains (or resumes) a control branch for the model folder `out` as it lies there, which stays
    as it is; adds `controlnet/`.
    """
    kept = load_vae(out)
    stats = (kept.mean.float(), kept.std.float())
    tokenizer = load_tokenizer(out / "tokenizer")
    model = edit_flow.start(out, out / "tokenizer")
    control = control_flow.train_control(kept.network, stats, tokenizer, model, folder, seed)
    export_control(out, control)


def export_control(out: Path, control: control_flow.ControlWeights) -> None:
    """Writes `controlnet/` of a model folder, in GGUF: about a byte a weight."""
    folder, stem = out / "controlnet", "diffusion_pytorch_model"
    tensors = control.branch.state_dict() | control.mod.state_dict()
    said = {"general.architecture": "qwen_image", "inkstone_family": EMBEDDED.name}
    save_gguf(folder / f"{stem}.gguf", tensors, _control_type, said)
    (folder / f"{stem}.safetensors").unlink(missing_ok=True)  # it would be read before the GGUF
    config = transformer_config(control_flow.BRANCH) | {"_class_name": "QwenImageControlNetModel"}
    del config["zero_cond_t"]
    _json(folder / "config.json", config | {"extra_condition_channels": 0})


def _control_type(name: str) -> str:
    """Modulation, a third of the weights, takes rougher ones well: see embedded/README.md."""
    return "Q5_1" if "_mod.1." in name else "Q8_0"


def transformer_config(c: MMDiTConfig) -> dict:
    """config.json of a transformer folder."""
    return {
        "_class_name": "QwenImageTransformer2DModel",
        "attention_head_dim": c.head_dim,
        "axes_dims_rope": list(c.axes),
        "in_channels": c.channels,
        "joint_attention_dim": c.joint,
        "num_attention_heads": c.heads,
        "num_layers": c.layers,
        "out_channels": c.channels // 4,
        "patch_size": 2,
        "zero_cond_t": True,
    }


def _half(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().half().contiguous() for k, v in module.state_dict().items()}


def _write(folder: Path, stem: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(folder / f"{stem}.safetensors", tensors, {"format": "pt", **metadata})


def _json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
