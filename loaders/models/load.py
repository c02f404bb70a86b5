"""Loads models from files: the diffusion model, the text encoder, the VAE, or all of a folder.

Each file is opened once. Networks are built on the meta device from tensor shapes and filled tensor
by tensor straight from the file, so the peak is the resident weights plus one tensor. Modulation
weights stay in the file.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import torch

from ...errors import InkstoneError
from ...kernels.compute_type import HasBlocks, compute_in_int8, int8_refusal
from ...kernels.text_encoder import TextEncoder
from ...sampling.schedule import Schedule
from ..arch.config import text_config, vae_config, with_family
from ..arch.dims import vae_blocks
from ..arch.encoder_models import encoder_model
from ..arch.family import Family, family_of, family_with
from ..arch.folder_config import ModelFolder
from ..arch.identify import BESIDE, ROLES, open_as, parts_beside
from ..arch.key_maps import text_names
from ..arch.key_maps_gguf import settings
from ..arch.key_maps_vae import vae_names
from ..arch.variant import Variant, choose_variant, detect_variant
from ..formats.weight_reader import WeightReader
from ..memory.param_slots import WeightPolicy, dtype_name, fill_all, slots_of
from .architecture import ARCHITECTURES
from .bundle import Bundle
from .diffusion_model import DiffusionModel
from .few_tokens import FormOptions, forms_of
from .output_head import HeadOptions, head_place
from .text_encoder import TextEncoderModel
from .tokenizer import load_tokenizer
from .tokenizer_gguf import tokenizer_for
from .vae import VAEModel, build_vae
from .vision import START, TowerOptions, tower_place
from .weight_file import AS_FOUND, LoadOptions, check_table, refuse_unknown, short, weight_file

log = logging.getLogger(__name__)

EMBEDDED_FOLDER = Path(__file__).resolve().parents[2] / "embedded" / "model"


def family_in(path: str | Path) -> Family:
    """The family of a diffusion model's file or folder, as loading it would have it. Only headers
    are read.
    """
    folder = ModelFolder(path, "transformer")
    source, _, facts = open_as(folder.part, folder.config, "diffusion_model")
    with source:
        return family_of(source.metadata, facts.family)


def load_diffusion_model(
    path: str | Path, options: LoadOptions = AS_FOUND, source: WeightReader | None = None
) -> DiffusionModel:
    """Loads a weight file, an index JSON, a transformer folder or a whole Hugging Face folder.
    source: the file where it is open already.
    """
    folder, device = ModelFolder(path, "transformer"), torch.device(options.device)
    source, view, facts = open_as(folder.part, folder.config, "diffusion_model", opened=source)
    family = family_of(source.metadata, facts.family)
    architecture = ARCHITECTURES[family.network]
    names = view.names(architecture.names)
    variant = choose_variant(
        detect_variant(family.name, facts.variant, folder.pipeline),
        options.variant,
        family.name,
        folder.part,
    )
    layered = variant is not None and variant.layered
    file = weight_file(source, view, names)
    config = architecture.config(file.shapes, family, folder.config)
    with torch.device("meta"):
        network = architecture.build(config)
    table_keys = architecture.table_keys(config.layers, layered)
    known = {*table_keys, *dict(network.named_parameters()), *architecture.unread(config)}
    refuse_unknown(folder.part, [*(n for n in file.shapes if n not in known), *names.others])
    check_table(folder.part, file.shapes, architecture.layout(config, layered), table_keys)
    loaded = file.load_into(network, network.transformer_blocks, options)
    products = _int8(network, loaded.dtype, device) if options.int8 else ""
    if family.licence:
        log.info("%s: %s", short(folder.root), family.licence)
    mean, std = folder.latent_statistics(family)
    log.info(
        "diffusion model %s: %s, %s, %d blocks, %s%s",
        short(folder.root),
        family.name,
        f"variant {variant.name}" if variant else "variant not known",
        config.layers,
        loaded.summary,
        products,
    )
    return DiffusionModel(
        network=network.eval(),
        family=family,
        variant=variant,
        schedule=_schedule(folder, family, variant),
        dtype=loaded.dtype,
        device=device,
        latent_mean=mean,
        latent_std=std,
        path=folder.root,
        file=file,
        weights=loaded.weights,
        budget=options.budget,
        preview=folder.preview_factors(family.latents.channels),
    )


def _int8(network: HasBlocks, dtype: torch.dtype, device: torch.device) -> str:
    """Lets a network compute in int8 where that is faster, and says so; else warns why not."""
    refusal = int8_refusal(device.type, dtype)
    if refusal:
        log.warning("dtype int8 is not used, all is computed in %s: %s", dtype_name(dtype), refusal)
        return ""
    compute_in_int8(network)
    return ", products of its blocks in int8"


def _schedule(folder: ModelFolder, family: Family, variant: Variant | None) -> Schedule:
    """The variant's own sigmas where it has such; else the folder's schedule or the family's."""
    if variant is not None and variant.distilled:
        return family.turbo
    return folder.schedule(family, variant is not None and variant.layered)


def load_text_encoder(
    path: str | Path,
    options: LoadOptions = AS_FOUND,
    tokenizer: str | Path | None = None,
    source: WeightReader | None = None,
) -> TextEncoderModel:
    """Loads a text encoder file or folder and its tokenizer, found next to it unless named. source:
    the file where it is open already.
    """
    folder, device = ModelFolder(path, "text_encoder"), torch.device(options.device)
    source, view, _ = open_as(folder.part, folder.config, "text_encoder", opened=source)
    names = view.names(text_names)
    refuse_unknown(folder.part, names.others)
    file = weight_file(source, view, names, lambda name: not name.startswith(START))
    config = text_config(file.shapes, {**settings(source.metadata), **folder.config})
    model = encoder_model(config)
    family = family_with(source.metadata, model)
    config = with_family(config, family)
    with torch.device("meta"):
        network = TextEncoder(config)
    refuse_unknown(folder.part, set(file.shapes) - set(dict(network.named_parameters())))
    words = load_tokenizer(Path(tokenizer)) if tokenizer else tokenizer_for(folder.root, source)
    loaded = file.load_into(network, network.layers, options)
    tower = TowerOptions(config.width, loaded.dtype, device, options.budget, options.free, model)
    place = tower_place(source, view, names, tower)
    forms = forms_of(network, file.packed, FormOptions(loaded.dtype, device, options.free))
    head = head_place(source, view, HeadOptions(network, loaded.dtype, device, options.free))
    log.info(
        "text encoder %s: %d layers, %s, %s",
        short(folder.root),
        config.layers,
        loaded.summary,
        place.summary,
    )
    return TextEncoderModel(
        network=network.eval(),
        tokenizer=words,
        family=family,
        dtype=loaded.dtype,
        device=device,
        path=folder.root,
        weights=loaded.weights,
        budget=options.budget,
        vision=place,
        head=head,
        forms=forms,
    )


def load_vae(
    path: str | Path, options: LoadOptions = AS_FOUND, source: WeightReader | None = None
) -> VAEModel:
    """Loads a VAE file (Wan or diffusers names) or folder; its weights are read at once. source:
    the file where it is open already; the caller closes it.
    """
    folder, device = ModelFolder(path, "vae"), torch.device(options.device)
    opened = source
    source, view, facts = open_as(folder.part, folder.config, "vae", opened=opened)
    names = view.names(vae_names, *vae_blocks(view.bare))
    refuse_unknown(folder.part, names.others)
    shapes = {ours: source.entries[file].shape for ours, file in names.table.items()}
    with torch.device("meta"):
        network = build_vae(vae_config(shapes, names.unused))
    dtype = options.dtype or torch.float32
    with nullcontext() if opened else source:
        fill_all(slots_of(network, source, names.table, {}, WeightPolicy(dtype)), device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stubs lack it
    family = family_of(source.metadata, facts.family)
    mean, std = folder.latent_statistics(family)
    log.info(
        "VAE %s: %s names, base %d, computed in %s",
        short(folder.root),
        names.layout,
        network.config.base,
        dtype_name(dtype),
    )
    return VAEModel(
        network=network.eval(),
        mean=mean,
        std=std,
        dtype=dtype,
        device=device,
        path=folder.root,
        family=family,
    )


def load_all(path: str | Path | None = None, options: LoadOptions = AS_FOUND) -> Bundle:
    """Loads a folder with transformer/, text_encoder/, vae/ and tokenizer/, or a checkpoint, which
    has the three in one file; None = the embedded model.
    """
    root = Path(path) if path is not None else EMBEDDED_FOLDER
    if root.is_file():
        return _load_checkpoint(root, options)
    parts = ("transformer", "text_encoder", "vae")
    missing = [name for name in parts if not (root / name).is_dir()]
    if missing:
        raise InkstoneError(
            f"{root} is not a whole model folder: {', '.join(missing)} missing, expected the "
            f"folders {', '.join(parts)} and tokenizer inside. For single files give --model, "
            "--text-encoder and --vae."
        )
    return Bundle(
        load_diffusion_model(root, options),
        load_text_encoder(root, options),
        load_vae(root, options),
    )


def _load_checkpoint(path: Path, options: LoadOptions) -> Bundle:
    """The three models of one file, which is opened once. Each reads its own tensors."""
    missing = [ROLES[role][0] for role in BESIDE if role not in parts_beside(path)]
    if missing:
        raise InkstoneError(
            f"{path}: expected a checkpoint with diffusion model, text encoder and VAE in one "
            f"file, got one without {' and '.join(missing)}. Load each part from its own file: "
            "--model, --text-encoder and --vae, or their three loader nodes."
        )
    model = load_diffusion_model(path, options)
    source = model.file.source
    return Bundle(
        model, load_text_encoder(path, options, source=source), load_vae(path, options, source)
    )
