"""The LoRA file that a training writes, in the one spelling that ComfyUI, diffusers and Inkstone
all load with every module and at the same strength.

`diffusion_model.MODULE.lora_down.weight`, `.lora_up.weight`, `.alpha`; LoKr and DoRA by LyCORIS's
names (`lokr_w1`, `lokr_w2_a`, `dora_scale`). Why so: ComfyUI takes this prefix for every model,
diffusers strips it (it reads `transformer.` with alpha tensors as no LoRA at all), and bare names
with rank 64 look like a Lightning LoRA.

No program can read another strength into it: alpha / rank is multiplied into a factor, and every
`alpha` written is the rank, so that a reader which ignores alpha, drops it in a conversion or
takes it from `ss_network_alpha` computes the same. Lengths of DoRA stay float32: they are those of
whole weights, and eight bits would cost more than was learned. Nothing in a file depends on the
clock, so equal trainings give equal bytes.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...loaders.arch.key_maps_lora import understand
from ...loaders.arch.variant import SPEC
from ...loaders.formats.safetensors import content_hash, save_safetensors
from .adapter import Adapter

log = logging.getLogger(__name__)

PREFIX = "diffusion_model."
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# part of a layer (key_maps_lora.PARTS) -> how it is written; the parts of LoKr are named alike
_ENDS = {"down": "lora_down.weight", "up": "lora_up.weight", "magnitude": "dora_scale"}
_RANKED = ("down", "lokr_w2_b", "lokr_w1_b")  # the first of these has as many rows as the rank
_SCALED = ("up", "lokr_w1", "lokr_w1_a")  # the first of these is multiplied by alpha / rank
_FULL = ("alpha", "magnitude")  # kept in float32
# settings that a file may repeat: none names a folder, a file or a caption
SHARED = (
    "kind rank alpha factor targets ranks steps batch accumulate lr lr_schedule warmup optimizer "
    "weight_decay clip resolution reference_resolution seed timesteps timestep_mean "
    "timestep_spread shift weighting caption_dropout caption_noise module_dropout ema"
).split()
# the same under the names of kohya's trainers, which people's tools list
_NOTES = {
    "steps": ("ss_steps",),
    "batch": ("ss_batch_size_per_device",),
    "accumulate": ("ss_gradient_accumulation_steps",),
    "lr": ("ss_learning_rate",),
    "lr_schedule": ("ss_lr_scheduler",),
    "warmup": ("ss_lr_warmup_steps",),
    "optimizer": ("ss_optimizer",),
    "clip": ("ss_max_grad_norm",),
    "seed": ("ss_seed",),
    "caption_dropout": ("ss_caption_dropout_rate",),
    "timesteps": ("ss_timestep_sampling",),
    "weighting": ("ss_weighting_scheme",),
}
_NETWORKS = {  # kind -> ss_network_module, ss_network_args
    "lora": ("networks.lora", {}),
    "dora": ("networks.lora", {"dora_wd": "True"}),
    "lokr": ("lycoris.kohya", {"algo": "lokr"}),
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a file says of itself. Of the settings only SHARED is written; captions are private and
    are written where they are given, which a person has to ask for.
    """

    name: str  # its title: the file's name without its ending
    kind: str  # lora, lokr or dora
    spec: str  # of the variant that it was trained on (loaders/arch/variant.py)
    base: str = ""  # name of the base model's file
    base_hash: str = ""  # files/hashes.py: model_hash
    version: str = ""  # Inkstone's
    date: str = ""  # ISO 8601, when the run was first started; "" leaves it out
    resolution: int = 0
    pictures: int = 0
    buckets: Mapping[tuple[int, int], int] = field(default_factory=dict)  # (width, height) -> count
    settings: Mapping[str, object] = field(default_factory=dict)
    of_steps: int = 0  # of the whole run, of which `settings` have the steps so far
    trigger: str = ""  # what a prompt has to say
    captions: Sequence[str] = ()


def save_lora(
    path: Path, tensors: Mapping[str, Tensor], origin: Origin, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Writes the file, whole or not at all. tensors: see `trained_tensors`; any spelling will do.

    Raises InkstoneError where a value is NaN or infinite: the training has diverged.
    """
    written = file_tensors(tensors, dtype)
    save_safetensors(path, written, metadata(written, origin))
    log.info("wrote %s: %d modules", path.name, sum(n.endswith(".alpha") for n in written))


def trained_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The parameters of an adapter with the alpha of each layer, for `save_lora`."""
    tensors = {}
    for name, change in adapter.by_name().items():
        for part, value in change.named_parameters():
            tensors[f"{name}.{_ENDS.get(part, part)}"] = value.detach()
        tensors[f"{name}.alpha"] = torch.tensor(change.alpha)
    return tensors


def file_tensors(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file, under its names."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        named = understand(name)
        if named is None or named.role != "model" or len(named.ours) != 1:
            raise InkstoneError(
                f"{name} is no part of a LoRA for a diffusion model: nothing was written. "
                "Expected names such as transformer_blocks.0.attn.to_q.lora_A.weight."
            )
        modules.setdefault(named.ours[0], {})[named.part] = tensor.detach().float().cpu()
    written = {}
    for module, parts in modules.items():
        for part, tensor in _with_plain_alpha(parts).items():
            if not torch.isfinite(tensor).all():
                raise InkstoneError(
                    f"The LoRA has NaN or infinity in {module} ({part}): the training diverged, "
                    "and nothing was written. Resume from an earlier checkpoint with a lower --lr."
                )
            kept = tensor if part in _FULL else tensor.to(dtype)
            written[f"{PREFIX}{module}.{_ENDS.get(part, part)}"] = kept.contiguous()
    return written


def _with_plain_alpha(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of a module with alpha / rank multiplied in: the alpha that remains is the rank, or
    1 where nothing has a rank (two whole factors of a LoKr, which no reader scales).
    """
    rank = next((len(parts[part]) for part in _RANKED if part in parts), None)
    plain = dict(parts)
    alpha = plain.pop("alpha", None)
    if alpha is not None and rank is not None:
        scaled = next(part for part in _SCALED if part in plain)
        plain[scaled] = plain[scaled] * (alpha.item() / rank)
    if "magnitude" in plain:
        size = plain["magnitude"]
        plain["magnitude"] = size.reshape(-1, 1) if size.dim() == 1 else size  # [N,1]
    return plain | {"alpha": torch.tensor(float(rank or 1))}


def metadata(written: Mapping[str, Tensor], origin: Origin) -> dict[str, str]:
    """Metadata for these tensors: Stability's model spec, the notes of kohya's trainers, ours."""
    digest = content_hash(written)
    settings = {k: origin.settings[k] for k in SHARED if origin.settings.get(k) is not None}
    square = f"{origin.resolution}x{origin.resolution}" if origin.resolution else ""
    notes = {
        "modelspec.sai_model_spec": "1.0.0",
        SPEC: f"{origin.spec}/lora",
        "modelspec.implementation": "diffusers",  # whose names of modules these are
        "modelspec.title": origin.name,
        "modelspec.date": origin.date,
        "modelspec.resolution": square,
        "modelspec.trigger_phrase": origin.trigger,
        "modelspec.hash_sha256": "0x" + digest,
        "sshs_model_hash": digest,
        "ss_output_name": origin.name,
        "ss_max_train_steps": str(origin.of_steps or ""),
        "ss_base_model_version": origin.spec.lower().replace("-", "_"),
        "ss_sd_model_name": origin.base,
        "inkstone_base_hash": origin.base_hash,
        "inkstone_version": origin.version,
        "inkstone_training": _json(settings),
        "format": "pt",
    }
    notes |= _network_notes(written, origin.kind) | _data_notes(origin)
    notes |= {note: str(settings[name]) for name in settings for note in _NOTES.get(name, ())}
    # a name of a file that is no UTF-8 has half characters in it, which a header cannot hold
    return {k: t.encode("utf-8", "backslashreplace").decode() for k, t in notes.items() if t}


def _network_notes(written: Mapping[str, Tensor], kind: str) -> dict[str, str]:
    """Rank and alpha as the tensors have them: "Dynamic" where modules differ, as kohya writes."""
    ranks = {int(t.item()) for name, t in written.items() if name.endswith(".alpha")}
    rank = str(*ranks) if len(ranks) == 1 else "Dynamic"
    module, arguments = _NETWORKS[kind]
    return {
        "ss_network_module": module,
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": _json(arguments) if arguments else "",
    }


def _data_notes(origin: Origin) -> dict[str, str]:
    buckets = {
        str(index): {"resolution": list(size), "count": origin.buckets[size]}
        for index, size in enumerate(sorted(origin.buckets))
    }
    tags = Counter(t for text in origin.captions for tag in text.split(",") if (t := tag.strip()))
    return {
        "ss_num_train_images": str(origin.pictures or ""),
        "ss_resolution": str((origin.resolution, origin.resolution)) if origin.resolution else "",
        "ss_enable_bucket": "True" if len(buckets) > 1 else "",
        "ss_bucket_info": _json({"buckets": buckets}) if buckets else "",
        "ss_tag_frequency": _json({origin.name: dict(sorted(tags.items()))}) if tags else "",
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=list)
