"""Files -> loaded models: the diffusion model, the text encoder, the VAE, or all three of a folder.

Networks are built on the meta device from tensor shapes and filled tensor by tensor straight from
the file, so the peak is the resident weights plus one tensor. Modulation weights stay in the file.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ...errors import InkstoneError
from ...kernels.mmdit import MMDiT
from ...kernels.modulation import modulation_keys
from ...kernels.text_encoder import TextEncoder
from ...kernels.vae import VAE
from ..arch.config import mmdit_config, text_config, vae_config
from ..arch.dims import vae_blocks
from ..arch.expected_tensors import mmdit_layout
from ..arch.family import family_of
from ..arch.folder_config import latent_statistics, pipeline_of, preview_factors, schedule_of
from ..arch.identify import identify, require
from ..arch.key_maps import MMDIT_UNREAD, mmdit_names, text_names, vae_names
from ..arch.key_maps_gguf import settings
from ..arch.variant import settled, told
from ..formats.hf_folder import config_of, part_of
from ..formats.open import open_weights
from ..memory.param_slots import WeightPolicy, dtype_name, fill_all, slots_of
from .bundle import Bundle
from .diffusion_model import DiffusionModel
from .text_encoder import TextEncoderModel
from .tokenizer import load_tokenizer
from .tokenizer_gguf import tokenizer_for
from .vae import VAEModel
from .vision import TowerWant, tower_place
from .weight_file import (
    AS_FOUND,
    LoadOptions,
    check_table,
    refuse_unknown,
    shapes_of,
    short,
    weight_file,
)

log = logging.getLogger(__name__)

EMBEDDED_FOLDER = Path(__file__).resolve().parents[2] / "embedded" / "model"


def load_diffusion_model(path: str | Path, want: LoadOptions = AS_FOUND) -> DiffusionModel:
    """Loads a weight file, an index JSON, a transformer folder or a whole Hugging Face folder."""
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
    file = weight_file(source, names.table)
    config = mmdit_config(file.shapes, family, config_of(part))
    with torch.device("meta"):
        network = MMDiT(config)
    table_keys = modulation_keys(config.layers, layered)
    resident = dict(network.named_parameters())
    pruned = {f"transformer_blocks.{config.layers - 1}.{tail}" for tail in MMDIT_UNREAD}
    known = set(table_keys) | set(resident) | pruned
    refuse_unknown(part, [n for n in file.shapes if n not in known] + list(names.others))
    check_table(part, file.shapes, mmdit_layout(config, layered), table_keys)
    held = file.hold(network, network.transformer_blocks, want)
    mean, std = latent_statistics(root, family)
    log.info(
        "diffusion model %s: %s, %s, %d blocks, %s",
        short(root),
        family.name,
        f"variant {variant.name}" if variant else "variant not said",
        config.layers,
        held.said,
    )
    return DiffusionModel(
        network.eval(),
        family,
        schedule_of(root, family, layered),
        held.dtype,
        device,
        file.form,
        mean,
        std,
        source,
        names.table,
        root,
        preview_factors(root),
        found=file.found,
        weights=held.weights,
        budget=want.budget,
        variant=variant,
    )


def load_text_encoder(
    path: str | Path, want: LoadOptions = AS_FOUND, tokenizer: str | Path | None = None
) -> TextEncoderModel:
    """Loads a text encoder file or folder and its tokenizer, found next to it unless named."""
    root, device = Path(path), torch.device(want.device)
    part = part_of(root, "text_encoder")
    require(identify(part, want="text_encoder"), "text_encoder")
    source = open_weights(part)
    names = text_names(source.entries)
    table = {k: v for k, v in names.table.items() if not k.startswith("visual.")}
    refuse_unknown(part, names.others)
    file = weight_file(source, table)
    config = text_config(file.shapes, settings(source.metadata) | config_of(part))
    with torch.device("meta"):
        network = TextEncoder(config)
    refuse_unknown(part, set(file.shapes) - set(dict(network.named_parameters())))
    words = load_tokenizer(Path(tokenizer)) if tokenizer else tokenizer_for(root, source)
    held = file.hold(network, network.layers, want)
    place = tower_place(
        source,
        names,
        config_of(part),
        TowerWant(config.width, held.dtype, device, want.budget, want.free),
    )
    log.info(
        "text encoder %s: %d layers, %s, %s", short(root), config.layers, held.said, place.words
    )
    return TextEncoderModel(
        network.eval(),
        words,
        family_of(source.metadata),
        held.dtype,
        device,
        root,
        weights=held.weights,
        budget=want.budget,
        vision=place,
    )


def load_vae(path: str | Path, options: LoadOptions = AS_FOUND) -> VAEModel:
    """Loads a VAE file (Wan or diffusers names) or folder; it is always filled at once."""
    root, device = Path(path), torch.device(options.device)
    part = part_of(root, "vae")
    require(identify(part, want="vae"), "vae")
    source = open_weights(part)
    names = vae_names(source.entries, *vae_blocks(source.entries))
    refuse_unknown(part, names.others)
    config = vae_config(shapes_of(source, names.table))
    with torch.device("meta"):
        network = VAE(config)
    dtype = options.dtype or torch.float32
    fill_all(slots_of(network, source, names.table, {}, WeightPolicy(dtype)), device)
    network.to(memory_format=torch.channels_last)
    family = family_of(source.metadata)
    mean, std = latent_statistics(root, family)
    log.info(
        "VAE %s: %s names, base %d, computed in %s",
        short(root),
        names.layout,
        config.base,
        dtype_name(dtype),
    )
    return VAEModel(network.eval(), mean, std, dtype, device, root, family=family)


def load_all(path: str | Path | None = None, options: LoadOptions = AS_FOUND) -> Bundle:
    """Loads a folder with transformer/, text_encoder/, vae/ and tokenizer/; None = the embedded
    model.
    """
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
        load_diffusion_model(root, options),
        load_text_encoder(root, options),
        load_vae(root, options),
    )
