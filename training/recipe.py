"""The whole recipe of the embedded model: tokenizer, VAE, MMDiT with text encoder, edits, control,
answers.

`inkstone train --out FOLDER` runs it; stopped at any moment and started again, it resumes from
its last checkpoint and ends on the same weights. It takes some five and a half hours of one core.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files.atomic import write_text
from ..kernels.configs import MMDiTConfig, TextConfig, VisionConfig
from ..loaders.arch.family import EMBEDDED
from ..loaders.formats.safetensors import save_safetensors
from ..loaders.models.load import load_vae
from ..loaders.models.tokenizer import Tokenizer, load_tokenizer
from . import answer_flow, control_flow, edit_flow, flow
from . import vae as vae_training
from .answer_networks import ANSWERS, TOWER, AnswerModel
from .checkpoint import require_same_run
from .codec import Codec, latent_statistics, preview_factors
from .networks import CONFIG, TEXT, FlowModel
from .packed import save_gguf
from .tokenizer import token_rows
from .tokenizer import write as write_tokenizer

log = logging.getLogger(__name__)
SEED = 20261124
Json = dict[str, object]
MODEL = "model."  # before the names of the language model in Qwen2.5-VL's files
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


def train(folder: Path, out: Path, seed: int = SEED, begin: Path | None = None) -> None:
    """Trains (or resumes) everything, checkpoints in `folder`; writes the model folder `out`.

    begin: a model folder whose VAE is kept and whose weights are trained to edit; earlier stages
    are skipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    require_same_run(folder, _arguments(seed, begin))
    write_tokenizer(out / "tokenizer")
    tokenizer = load_tokenizer(out / "tokenizer")
    if begin is None:
        codec = _train_vae(folder, tokenizer, seed)
        model = flow.train_flow(codec, folder, seed)
    else:
        codec = codec_of(begin, tokenizer)
        torch.manual_seed(seed + 2)  # rows of new words
        model = edit_flow.start(begin, out / "tokenizer")
    model = edit_flow.train_edits(codec, model, folder, seed)
    export(out, codec, model, seed)
    train_control(folder, out, seed)
    train_answers(folder, out, seed)


def codec_of(folder: Path, tokenizer: Tokenizer) -> Codec:
    """The VAE of a model folder, with a tokenizer."""
    vae = load_vae(folder)
    return Codec(vae.network, vae.mean.float(), vae.std.float(), tokenizer)


def _train_vae(folder: Path, tokenizer: Tokenizer, seed: int) -> Codec:
    """Trains or resumes the VAE: jointly, then its decoder."""
    joint, decoder = vae_training.STAGES
    torch.manual_seed(seed)
    vae = vae_training.start()
    vae_training.run_stage(vae, folder, seed, joint)
    mean, std = latent_statistics(vae, seed)
    vae_training.run_stage(vae, folder, seed, decoder)
    return Codec(vae, mean, std, tokenizer)


def export(out: Path, codec: Codec, model: FlowModel, seed: int = SEED) -> None:
    """Writes a Hugging Face style folder with float16 weights and the family in the metadata."""
    family = {"inkstone_family": EMBEDDED.name}
    _write(out / "vae", "diffusion_pytorch_model", _half(codec.vae), family)
    _json(out / "vae" / "config.json", vae_config(codec, seed))
    network = _half(model.mmdit) | _half(model.mod)
    _write(out / "transformer", "diffusion_pytorch_model", network, family)
    _json(out / "transformer" / "config.json", transformer_config(CONFIG))
    text = {MODEL + name: tensor for name, tensor in _half(model.text).items()}
    _write(out / "text_encoder", "model", text, family)
    _json(out / "text_encoder" / "config.json", text_config(TEXT, out / "tokenizer"))
    _json(out / "scheduler" / "scheduler_config.json", scheduler_config())
    parts = {name: ["inkstone", name] for name in PARTS}
    _json(out / "model_index.json", {"_class_name": "QwenImagePipeline", **parts})


def copy_model(begin: Path, out: Path) -> None:
    """Copies the parts of a model folder, without its control; other files of `out` stay."""
    if out.exists() and out.samefile(begin):
        return
    for name in PARTS:
        shutil.copytree(begin / name, out / name, dirs_exist_ok=True)
    shutil.copy2(begin / "model_index.json", out / "model_index.json")


def train_only_control(begin: Path, out: Path, seed: int = SEED) -> None:
    """Trains (or resumes) a control branch for a copy of the model `begin`, checkpoints in out."""
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    require_same_run(folder, _arguments(seed, begin, "control"))
    copy_model(begin, out)
    train_control(folder, out, seed)


def train_only_answers(begin: Path, out: Path, seed: int = SEED) -> None:
    """Trains (or resumes) the answering part for a copy of the model `begin`, checkpoints in
    out."""
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    require_same_run(folder, _arguments(seed, begin, "answers"))
    copy_model(begin, out)
    train_answers(folder, out, seed)


def train_answers(folder: Path, out: Path, seed: int = SEED) -> None:
    """Trains (or resumes) the answering part for the model in `out` and adds it to its text
    encoder; what prompts are encoded with stays as it is, bit for bit.
    """
    torch.manual_seed(seed + 3)
    model = answer_flow.start(out)
    tokenizer = load_tokenizer(out / "tokenizer")
    export_answers(out, answer_flow.train_answers(model, tokenizer, folder, seed))


def export_answers(out: Path, model: AnswerModel) -> None:
    """Writes `text_encoder/` with layers that answer, output head and vision tower, by the names of
    Qwen2.5-VL's files."""
    tensors = {MODEL + name: tensor for name, tensor in _half(model.text).items()}
    tensors |= {"visual." + name: tensor for name, tensor in _half(model.tower).items()}
    tensors |= _half(model.head)
    family = {"inkstone_family": EMBEDDED.name}
    _write(out / "text_encoder", "model", tensors, family)
    config = text_config(ANSWERS, out / "tokenizer", TOWER)
    _json(out / "text_encoder" / "config.json", config)


def _arguments(
    seed: int, begin: Path | None, only: str | None = None
) -> dict[str, str | int | None]:
    """The options of `inkstone train` that decide what its checkpoints hold."""
    start = None if begin is None else str(begin.resolve())
    return {"seed": seed, "start": start, "only": only}


def train_control(folder: Path, out: Path, seed: int = SEED) -> None:
    """Trains (or resumes) a control branch for the model in `out` and adds `controlnet/` to it; the
    model stays as it is.
    """
    codec = codec_of(out, load_tokenizer(out / "tokenizer"))
    model = edit_flow.start(out, out / "tokenizer")
    export_control(out, control_flow.train_control(codec, model, folder, seed))


def export_control(out: Path, control: control_flow.ControlWeights) -> None:
    """Writes `controlnet/` of a model folder, in GGUF: about a byte per weight."""
    folder, stem = out / "controlnet", "diffusion_pytorch_model"
    tensors = control.branch.state_dict() | control.mod.state_dict()
    metadata = {"general.architecture": "qwen_image", "inkstone_family": EMBEDDED.name}
    folder.mkdir(parents=True, exist_ok=True)
    save_gguf(folder / f"{stem}.gguf", tensors, _control_type, metadata)
    (folder / f"{stem}.safetensors").unlink(missing_ok=True)  # it would be read before the GGUF
    config = transformer_config(control_flow.BRANCH) | {"_class_name": "QwenImageControlNetModel"}
    del config["zero_cond_t"]
    _json(folder / "config.json", config | {"extra_condition_channels": 0})


def _control_type(name: str) -> str:
    """Modulation, a third of the weights, tolerates coarser types: see embedded/README.md."""
    return "Q5_1" if "_mod.1." in name else "Q8_0"


def vae_config(codec: Codec, seed: int) -> Json:
    """config.json of a VAE folder."""
    config = codec.vae.config
    return {
        "_class_name": "AutoencoderKLQwenImage",
        "base_dim": config.base,
        "z_dim": config.z,
        "dim_mult": list(config.mult),
        "num_res_blocks": config.res_blocks,
        "latents_mean": codec.mean.flatten().tolist(),
        "latents_std": codec.std.flatten().tolist(),
        "inkstone_preview": preview_factors(codec, seed),
    }


def text_config(c: TextConfig, tokenizer: Path, vision: VisionConfig | None = None) -> Json:
    """config.json of a text encoder folder, as Qwen2.5-VL's. tokenizer: its folder."""
    rows = token_rows(tokenizer)
    config: Json = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "vocab_size": c.vocab,
        "hidden_size": c.width,
        "intermediate_size": c.ff,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "rms_norm_eps": c.eps,
        "rope_theta": c.theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(c.axes)},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": rows["<|im_end|>"],
        "vision_start_token_id": rows["<|vision_start|>"],
        "vision_end_token_id": rows["<|vision_end|>"],
        "image_token_id": rows["<|image_pad|>"],
    }
    return config if vision is None else config | {"vision_config": vision_config(vision)}


def vision_config(c: VisionConfig) -> Json:
    """vision_config in the config.json of a text encoder."""
    return {
        "depth": c.depth,
        "hidden_size": c.width,
        "intermediate_size": c.ff,
        "num_heads": c.heads,
        "in_chans": c.channels,
        "out_hidden_size": c.out,
        "patch_size": c.patch,
        "spatial_merge_size": c.merge,
        "temporal_patch_size": c.frames,
        "window_size": c.window,
        "fullatt_block_indexes": list(c.full),
    }


def scheduler_config() -> Json:
    """scheduler_config.json of the embedded model's schedule."""
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_image_seq_len": 256,
        "max_image_seq_len": 8192,
        "base_shift": EMBEDDED.schedule.base_shift,
        "max_shift": EMBEDDED.schedule.max_shift,
        "shift_terminal": None,
        "time_shift_type": "exponential",
        "use_dynamic_shifting": True,
    }


def transformer_config(c: MMDiTConfig) -> Json:
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


def _json(path: Path, value: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=2) + "\n")
