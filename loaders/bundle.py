"""Files -> loaded models: the diffusion model, the text encoder, the VAE, or all three of a folder.

Networks are built on the meta device from tensor shapes and filled tensor by tensor straight from
the file, so the peak is the resident weights plus one tensor. Modulation weights stay in the file.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..kernels.errors import InkstoneError
from ..kernels.linear import best_dtype
from ..kernels.mmdit import MMDiT
from ..kernels.modulation import modulation_keys
from ..kernels.text_encoder import TextEncoder
from ..kernels.vae import VAE
from ..quant.storage import Found
from .config import mmdit_config, text_config, vae_config
from .detect import identify, require
from .family import family_of
from .folder import (
    config_of,
    latent_statistics,
    part_of,
    pipeline_of,
    preview_factors,
    schedule_of,
)
from .gguf_tokenizer import tokenizer_for
from .keys import MMDIT_UNREAD, mmdit_names, text_names, vae_names
from .keys_gguf import settings
from .layout import mmdit_layout
from .models import Bundle, DiffusionModel, TextEncoderModel
from .residency import Residency, free_after_asking
from .safetensors_file import Weights, open_weights
from .sizes import vae_blocks
from .slots import Kept, biases_of, dtype_name, fill_all, slots_of
from .tokenizer import load_tokenizer
from .vae_model import VAEModel
from .variant import settled, told
from .vision import TowerWant, tower_place

log = logging.getLogger(__name__)

EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "embedded" / "model"
SMALL = 100_000_000  # parameters below which float32 is fast enough everywhere


def choose_dtype(
    dtype: torch.dtype | None, device: torch.device, parameters: int
) -> tuple[torch.dtype, str]:
    """The compute type: as asked, else float32 for small networks, else the fastest measured."""
    if dtype is not None:
        return dtype, "as asked"
    if parameters < SMALL:
        return torch.float32, "a small model"
    return best_dtype(device.type)


def _refuse_unknown(path: Path, others: Iterable[str]) -> None:
    others = sorted(others)
    if others:
        raise InkstoneError(
            f"{path}: {len(others)} tensors are not part of this model, e.g. "
            f"{', '.join(others[:5])}. "
            "The file is of another model or version: check it with `inkstone inspect`."
        )


def _shapes(source: Weights, table: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    return {ours: source.entries[name].shape for ours, name in table.items()}


def _parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(s).numel() for s in shapes.values())


def parameter_bytes(network: nn.Module) -> int:
    """Bytes of a network's plain parameters."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def _amount(shapes: Mapping[str, tuple[int, ...]]) -> str:
    n = _parameters(shapes)
    return f"{n / 1e9:.2f} G" if n >= 1e9 else f"{n / 1e6:.1f} M"


def _short(path: Path) -> str:
    """The last two parts of a path: enough to tell files apart in a log line."""
    return "/".join(path.parts[-2:])


def _format(source: Weights) -> str:
    return "+".join(sorted({dtype_name(e.dtype) for e in source.entries.values()}))


def _found(source: Weights, table: Mapping[str, str]) -> dict[str, Found]:
    """The weights of a file that are packed in some format."""
    from ..quant.finders import find_packed

    return find_packed(source, table, config_of(source.path))


def _consumed(found: Mapping[str, Found]) -> set[str]:
    """Our names of all tensors that belong to packed weights."""
    return {part for weight in found.values() for part in weight.parts}


def _all_shapes(
    source: Weights, table: Mapping[str, str], found: Mapping[str, Found]
) -> dict[str, tuple[int, ...]]:
    """Shapes by our names, of packed weights those of the plain ones, without their own parts."""
    hidden = _consumed(found)
    plain = {ours: name for ours, name in table.items() if ours not in hidden}
    shapes = _shapes(source, plain) | {name: weight.shape for name, weight in found.items()}
    for name in biases_of(found):
        shapes[name] = (found[f"{name.removesuffix('.bias')}.weight"].shape[0],)
    return shapes


def _kept_as(source: Weights, table: Mapping[str, str], found: Mapping[str, Found]) -> str:
    """Formats in words, most weights first: "Q4_K + Q6_K + bfloat16"."""
    counts = Counter(weight.format for weight in found.values())
    packed = {table[part] for part in _consumed(found) if part in table}
    plain = {dtype_name(e.dtype) for n, e in source.entries.items() if n not in packed}
    known = [name for name, _ in counts.most_common()]
    return " + ".join(known + sorted(plain - set(known) - {"uint8"})) if known else _format(source)


@dataclass(frozen=True)
class Want:
    """How a model is loaded. budget: bytes for the whole process, None = what is free when needed;
    wait: nothing but headers is read until the model is used;
    free: asks the host for room, see residency;
    variant: what the user says that a diffusion model is (variant.VARIANTS), None = what it says.
    """

    dtype: torch.dtype | None = None
    device: str | torch.device = "cpu"
    budget: int | None = None
    wait: bool = False
    free: Callable[[int, torch.device], int] = free_after_asking
    variant: str | None = None


def _settled(weights: Residency, want: Want) -> Residency:
    weights.free = want.free
    if not want.wait:
        weights.settle(want.budget)
    return weights


def load_diffusion_model(
    path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> DiffusionModel:
    """A weight file, an index json, a transformer folder or a whole Hugging Face folder."""
    return open_diffusion_model(path, Want(dtype, device))


def open_diffusion_model(path: str | Path, want: Want = Want()) -> DiffusionModel:
    """As load_diffusion_model, with a memory budget."""
    root, device = Path(path), torch.device(want.device)
    part = part_of(root, "transformer")
    facts = identify(part, want="diffusion_model")
    require(facts, "diffusion_model")
    source = open_weights(part)
    names = mmdit_names(source.entries)
    family = family_of(source.metadata)
    said = told(family.name, facts.variant, pipeline_of(part))
    variant = settled(said, want.variant, family.name, part)
    layered = variant is not None and variant.layered
    found = _found(source, names.table)
    shapes = _all_shapes(source, names.table, found)
    config = mmdit_config(shapes, family, config_of(part))
    with torch.device("meta"):
        network = MMDiT(config)
    table_keys = modulation_keys(config.layers, layered)
    resident = dict(network.named_parameters())
    pruned = {f"transformer_blocks.{config.layers - 1}.{tail}" for tail in MMDIT_UNREAD}
    known = set(table_keys) | set(resident) | pruned
    _refuse_unknown(part, [n for n in shapes if n not in known] + list(names.others))
    wanted = mmdit_layout(config, layered)
    for key in table_keys:  # they are read when a table is asked for: too late for a complaint
        if shapes.get(key) != wanted[key]:
            got = f"shape {list(shapes[key])}" if key in shapes else "nothing"
            raise InkstoneError(
                f"{part}: modulation tensor {key} expected shape {list(wanted[key])}, got {got}. "
                "The file is damaged: download it again."
            )
    dtype, reason = choose_dtype(want.dtype, device, _parameters(shapes))
    kept = Kept(dtype, narrow=_parameters(shapes) >= SMALL)
    slots = slots_of(network, source, names.table, found, kept)
    weights = _settled(Residency(network, slots, device, network.transformer_blocks), want)
    mean, std = latent_statistics(root, family)
    form = _kept_as(source, names.table, found)
    log.info(
        "diffusion model %s: %s, %s, %d blocks, %s parameters, %s computed in %s (%s)",
        _short(root), family.name, f"variant {variant.name}" if variant else "variant not said",
        config.layers, _amount(shapes), form, dtype_name(dtype), reason,
    )  # fmt: skip
    return DiffusionModel(
        network.eval(), family, schedule_of(root, family, layered), dtype, device, form, mean, std,
        source, names.table, root, preview_factors(root), found=found, weights=weights,
        budget=want.budget, variant=variant,
    )  # fmt: skip


def load_text_encoder(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    tokenizer: str | Path | None = None,
) -> TextEncoderModel:
    """A text encoder file or folder, and its tokenizer (found beside it unless given)."""
    return open_text_encoder(path, Want(dtype, device), tokenizer)


def open_text_encoder(
    path: str | Path, want: Want = Want(), tokenizer: str | Path | None = None
) -> TextEncoderModel:
    """As load_text_encoder, with a memory budget."""
    root, device = Path(path), torch.device(want.device)
    part = part_of(root, "text_encoder")
    require(identify(part, want="text_encoder"), "text_encoder")
    source = open_weights(part)
    names = text_names(source.entries)
    table = {k: v for k, v in names.table.items() if not k.startswith("visual.")}
    _refuse_unknown(part, names.others)
    found = _found(source, table)
    shapes = _all_shapes(source, table, found)
    config = text_config(shapes, settings(source.metadata) | config_of(part))
    with torch.device("meta"):
        network = TextEncoder(config)
    _refuse_unknown(part, set(shapes) - set(dict(network.named_parameters())))
    words = load_tokenizer(Path(tokenizer)) if tokenizer else tokenizer_for(root, source)
    dtype, reason = choose_dtype(want.dtype, device, _parameters(shapes))
    kept = Kept(dtype, narrow=_parameters(shapes) >= SMALL)
    slots = slots_of(network, source, table, found, kept)
    weights = _settled(Residency(network, slots, device, network.layers), want)
    place = tower_place(
        source, names, config_of(part),
        TowerWant(config.width, dtype, device, want.budget, want.free),
    )  # fmt: skip
    log.info(
        "text encoder %s: %d layers, %s parameters, %s computed in %s (%s), %s",
        _short(root), config.layers, _amount(shapes), _kept_as(source, table, found),
        dtype_name(dtype), reason,
        place.words,
    )  # fmt: skip
    return TextEncoderModel(
        network.eval(), words, family_of(source.metadata), dtype, device, root, weights=weights,
        budget=want.budget, vision=place,
    )  # fmt: skip


def load_vae(
    path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> VAEModel:
    """A VAE file (Wan or diffusers names) or folder."""
    root, device = Path(path), torch.device(device)
    part = part_of(root, "vae")
    require(identify(part, want="vae"), "vae")
    source = open_weights(part)
    names = vae_names(source.entries, *vae_blocks(source.entries))
    _refuse_unknown(part, names.others)
    config = vae_config(_shapes(source, names.table))
    with torch.device("meta"):
        network = VAE(config)
    dtype = dtype or torch.float32
    fill_all(slots_of(network, source, names.table, {}, Kept(dtype)), device)
    network.to(memory_format=torch.channels_last)
    family = family_of(source.metadata)
    mean, std = latent_statistics(root, family)
    log.info(
        "VAE %s: %s names, base %d, computed in %s",
        _short(root), names.layout, config.base, dtype_name(dtype),
    )  # fmt: skip
    return VAEModel(network.eval(), mean, std, dtype, device, root, family=family)


def load_all(
    path: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Bundle:
    """A folder with transformer/, text_encoder/, vae/ and tokenizer/; None = the embedded model."""
    return open_all(path, Want(dtype, device))


def open_all(path: str | Path | None, want: Want) -> Bundle:
    """As load_all, with a memory budget."""
    root = Path(path) if path is not None else EMBEDDED_FOLDER
    wanted = ("transformer", "text_encoder", "vae")
    missing = [name for name in wanted if not (root / name).is_dir()]
    if missing:
        raise InkstoneError(
            f"{root} is not a whole model folder: {', '.join(missing)} missing, expected the "
            f"folders {', '.join(wanted)} and tokenizer inside. For single files give --model, "
            "--text-encoder and --vae."
        )
    return Bundle(
        open_diffusion_model(root, want),
        open_text_encoder(root, want),
        load_vae(root, want.dtype, want.device),
    )
