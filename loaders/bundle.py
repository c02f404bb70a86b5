"""Files -> loaded models: the diffusion model, the text encoder, the VAE, or all three of a folder.

Networks are built on the meta device from tensor shapes and filled tensor by tensor straight from
the file, so the peak is the resident weights plus one tensor. Modulation weights stay in the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..kernels.errors import InkstoneError
from ..kernels.linear import best_dtype
from ..kernels.mmdit import MMDiT
from ..kernels.modulation import modulation_keys
from ..kernels.text_encoder import TextEncoder
from ..kernels.vae import VAE
from .config import mmdit_config, text_config, vae_config
from .detect import identify, require
from .family import family_of
from .folder import config_of, latent_statistics, part_of, preview_factors, schedule_of
from .keys import MMDIT_UNREAD, mmdit_names, text_names, vae_names
from .layout import mmdit_layout
from .models import Bundle, DiffusionModel, TextEncoderModel, VAEModel
from .safetensors_file import Weights, open_weights, scratch
from .sizes import vae_blocks
from .tokenizer import find_tokenizer, load_tokenizer

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


def _fill(
    network: nn.Module,
    source: Weights,
    table: Mapping[str, str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Replaces meta parameters by tensors of the file. Each must be there, in its shape."""
    params = dict(network.named_parameters())
    missing = [name for name in params if name not in table]
    if missing:
        raise InkstoneError(
            f"{source.path}: {len(missing)} tensors are missing, e.g. {', '.join(missing[:5])}. "
            "The file is incomplete or of another model: check it with `inkstone inspect`, "
            "download it again."
        )
    whole = [n for n in table.values() if not source.entries[n].dtype.is_floating_point]
    if whole:
        raise InkstoneError(
            f"{source.path}: tensor {whole[0]} holds {_name(source.entries[whole[0]].dtype)}, "
            "expected floats. The file is quantised in a form that this version does not read: "
            "use the file in bf16."
        )
    for name, p in params.items():
        tensor = _read_shaped(source, table[name], tuple(p.shape), dtype)
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        module._parameters[leaf] = nn.Parameter(tensor.to(device), requires_grad=False)


def _read_shaped(source: Weights, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """One tensor in the network's shape: a 3-D kernel's last slice, gammas without empty axes."""
    stored = source.entries[name].shape
    if stored == shape:
        return source.read(name, dtype=dtype)
    if len(stored) == 5 and len(shape) == 4 and (*stored[:2], *stored[3:]) == shape:
        # one frame of a causal 3-D convolution sees only the last temporal slice
        whole = source.read(name, out=scratch(stored, dtype))
        return whole[:, :, -1].contiguous(memory_format=torch.channels_last)
    if tuple(s for s in stored if s != 1) == tuple(s for s in shape if s != 1):
        return source.read(name, dtype=dtype).reshape(shape)
    raise InkstoneError(
        f"{source.path}: tensor {name} has shape {list(stored)}, expected {list(shape)}. "
        "The file mixes models or is damaged: download it again."
    )


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


def _amount(shapes: Mapping[str, tuple[int, ...]]) -> str:
    n = _parameters(shapes)
    return f"{n / 1e9:.2f} G" if n >= 1e9 else f"{n / 1e6:.1f} M"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _short(path: Path) -> str:
    """The last two parts of a path: enough to tell files apart in a log line."""
    return "/".join(path.parts[-2:])


def _format(source: Weights) -> str:
    return "+".join(sorted({_name(e.dtype) for e in source.entries.values()}))


def load_diffusion_model(
    path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> DiffusionModel:
    """A .safetensors file, an index json, a transformer folder or a whole Hugging Face folder."""
    root, device = Path(path), torch.device(device)
    part = part_of(root, "transformer")
    facts = identify(part, want="diffusion_model")
    require(facts, "diffusion_model")
    if facts.variant == "layered":
        raise InkstoneError(
            f"{part}: Qwen-Image-Layered draws a stack of layers, which this version does not do. "
            "Use Qwen-Image, 2512 or Edit."
        )
    source = open_weights(part)
    names = mmdit_names(source.entries)
    family = family_of(source.metadata)
    shapes = _shapes(source, names.table)
    config = mmdit_config(shapes, family, config_of(part))
    with torch.device("meta"):
        network = MMDiT(config)
    table_keys = modulation_keys(config.layers)
    resident = dict(network.named_parameters())
    pruned = {f"transformer_blocks.{config.layers - 1}.{tail}" for tail in MMDIT_UNREAD}
    known = set(table_keys) | set(resident) | pruned
    _refuse_unknown(part, [n for n in names.table if n not in known] + list(names.others))
    wanted = mmdit_layout(config)
    for key in table_keys:  # they are read when a table is asked for: too late for a complaint
        if shapes.get(key) != wanted[key]:
            got = f"shape {list(shapes[key])}" if key in shapes else "nothing"
            raise InkstoneError(
                f"{part}: modulation tensor {key} expected shape {list(wanted[key])}, got {got}. "
                "The file is damaged: download it again."
            )
    dtype, reason = choose_dtype(dtype, device, _parameters(shapes))
    _fill(network, source, names.table, dtype, device)
    mean, std = latent_statistics(root, family)
    log.info(
        "diffusion model %s: %s, %d blocks, %s parameters, %s computed in %s (%s)",
        _short(root), family.name, config.layers, _amount(shapes), _format(source), _name(dtype),
        reason,
    )  # fmt: skip
    return DiffusionModel(
        network.eval(), family, schedule_of(root, family), dtype, device, _format(source), mean,
        std, source, names.table, root, preview_factors(root),
    )  # fmt: skip


def load_text_encoder(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    tokenizer: str | Path | None = None,
) -> TextEncoderModel:
    """A text encoder file or folder, and its tokenizer (found beside it unless given)."""
    root, device = Path(path), torch.device(device)
    part = part_of(root, "text_encoder")
    require(identify(part, want="text_encoder"), "text_encoder")
    source = open_weights(part)
    names = text_names(source.entries)
    table = {k: v for k, v in names.table.items() if not k.startswith("visual.")}
    _refuse_unknown(part, names.others)
    shapes = _shapes(source, table)
    config = text_config(shapes, config_of(part))
    with torch.device("meta"):
        network = TextEncoder(config)
    _refuse_unknown(part, set(table) - set(dict(network.named_parameters())))
    words = load_tokenizer(Path(tokenizer) if tokenizer else find_tokenizer(root, []))
    dtype, reason = choose_dtype(dtype, device, _parameters(shapes))
    _fill(network, source, table, dtype, device)
    vision = any(k.startswith("visual.") for k in names.table)
    log.info(
        "text encoder %s: %d layers, %s parameters, computed in %s (%s)%s",
        _short(root), config.layers, _amount(shapes), _name(dtype), reason,
        "" if vision else ", no vision tower (text-to-image only)",
    )  # fmt: skip
    return TextEncoderModel(network.eval(), words, family_of(source.metadata), dtype, device, root)


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
    _fill(network, source, names.table, dtype, device)
    network.to(memory_format=torch.channels_last)
    mean, std = latent_statistics(root, family_of(source.metadata))
    log.info(
        "VAE %s: %s names, base %d, computed in %s",
        _short(root), names.layout, config.base, _name(dtype),
    )  # fmt: skip
    return VAEModel(network.eval(), mean, std, dtype, device, root)


def load_all(
    path: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Bundle:
    """A folder with transformer/, text_encoder/, vae/ and tokenizer/; None = the embedded model."""
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
        load_diffusion_model(root, dtype, device),
        load_text_encoder(root, dtype, device),
        load_vae(root, dtype, device),
    )
