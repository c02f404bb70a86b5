"""Files -> loaded models: the diffusion model, the text encoder, the VAE, or all three from one folder.

Networks are built on the meta device from tensor shapes and filled tensor by tensor straight from the
file, so the peak is the resident weights plus one tensor. Modulation weights stay in the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..kernels.errors import InkstoneError
from ..kernels.linear import best_dtype
from ..kernels.mmdit import MMDiT
from ..kernels.modulation import Modulation, modulation, modulation_keys
from ..kernels.text_encoder import Past, TextEncoder
from ..kernels.vae import VAE
from ..kernels.vae_rows import decode_rows, moments_rows, plan_rows
from ..sampling.schedule import Schedule, from_config
from .config import mmdit_config, read_json, text_config, vae_config
from .detect import identify, require
from .family import Family, family_of
from .keys import mmdit_names, text_names, vae_names
from .safetensors_file import SafetensorsFile, ShardedFiles, open_weights
from .tokenizer import Tokenizer, find_tokenizer, load_tokenizer

log = logging.getLogger(__name__)

Weights = SafetensorsFile | ShardedFiles
EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "embedded" / "model"
SMALL = 100_000_000  # parameters below which float32 is fast enough everywhere


@dataclass
class DiffusionModel:
    """A loaded MMDiT. Its modulation weights are read from the file when a table is asked for."""

    network: MMDiT
    family: Family
    schedule: Schedule
    dtype: torch.dtype
    device: torch.device
    weights_format: str
    latent_mean: Tensor  # [1,16,1,1]
    latent_std: Tensor
    source: Weights
    names: Mapping[str, str]  # our key -> the file's key
    path: Path
    _table: tuple[tuple[float, ...], Modulation] | None = field(default=None, repr=False)

    def modulation(self, sigmas: Tensor) -> Modulation:
        """The rows for sigmas [n]; the last table is kept, so a new seed costs nothing."""
        key = tuple(sigmas.tolist())
        if self._table is None or self._table[0] != key:
            table = modulation(
                self._read, sigmas.to(self.device), self.network.config.layers, self.dtype
            )
            self._table = (key, table)
        return self._table[1]

    def _read(self, name: str) -> Tensor:
        return self.source.read(self.names[name], dtype=self._plain(name)).to(self.device)

    def _plain(self, name: str) -> torch.dtype | None:
        """fp8 has no arithmetic: it is read as bfloat16, which holds every value of it."""
        stored = self.source.entries[self.names[name]].dtype
        return torch.bfloat16 if stored.itemsize == 1 else None


@dataclass
class TextEncoderModel:
    """A loaded language model with its tokenizer and template."""

    network: TextEncoder
    tokenizer: Tokenizer
    family: Family
    dtype: torch.dtype
    device: torch.device
    path: Path
    _prefix: tuple[list[int], Past] | None = field(default=None, repr=False)

    def encode(self, prompt: str) -> Tensor:
        """Prompt -> [1,L,J] states without the template's head. The head is encoded once and kept."""
        f = self.family
        ids = self.tokenizer.encode(f.template.format(prompt))
        kept = len(ids) - f.drop
        if kept <= 0:
            raise InkstoneError(
                f"The prompt has {len(ids)} tokens with its template; {f.drop} of them belong to the template's "
                "head, so nothing is left. The tokenizer is not the one of this model."
            )
        if kept > f.most_tokens:
            log.warning(
                "the prompt has %d tokens, the last %d are not used", kept, kept - f.most_tokens
            )
            ids = ids[: f.drop + f.most_tokens]
        self._check_vocabulary(ids)
        with torch.inference_mode():
            past = self._past(ids[: f.drop])
            states, _ = self.network(torch.tensor([ids[f.drop :]], device=self.device), past)
        return states

    def _past(self, head: list[int]) -> Past | None:
        if not head:
            return None
        if self._prefix is None or self._prefix[0] != head:
            _, past = self.network(torch.tensor([head], device=self.device))
            self._prefix = (head, past)
        return self._prefix[1]

    def _check_vocabulary(self, ids: list[int]) -> None:
        rows = self.network.config.vocab
        if max(ids) >= rows:
            raise InkstoneError(
                f"The tokenizer gives token {max(ids)}, the text encoder has only {rows} tokens: they belong to "
                "different models. Use the tokenizer folder that came with the text encoder."
            )


@dataclass
class VAEModel:
    """A loaded VAE with its latent statistics. Latents on the outside are raw [B,16,1,h,w]."""

    network: VAE
    mean: Tensor
    std: Tensor
    dtype: torch.dtype
    device: torch.device
    path: Path
    budget: int | None = None  # bytes for activations; None = what the machine has free

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent [B,16,1,h,w] or [B,16,h,w] -> pictures [B,H,W,C] float32 in 0..1."""
        z = latent[:, :, 0] if latent.dim() == 5 else latent
        c = self.network.config
        if z.dim() != 4 or z.shape[1] != c.z or 0 in z.shape:
            raise InkstoneError(
                f"The latent has shape {list(latent.shape)}: expected [batch, {c.z}, 1, height/8, width/8]. "
                "Connect the latent of an Inkstone or Qwen-Image sampler."
            )
        height, width = z.shape[2] * c.scale, z.shape[3] * c.scale
        rows, _, sentence = plan_rows(c, height, width, self.dtype, self.budget)
        log.info("%s", sentence)
        with torch.inference_mode():
            z = z.to(self.device, self.dtype)
            pixels = [
                self.network.decode(item) if rows is None else decode_rows(self.network, item, rows)
                for item in z.split(1)
            ]
            picture = torch.cat(pixels).float().clamp(-1, 1).add(1).div(2)
        return picture.permute(0, 2, 3, 1).contiguous().cpu()

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B,H,W,C] in 0..1, sides multiples of 8 -> raw latent means [B,16,1,h,w] float32."""
        c = self.network.config
        _, height, width, channels = pictures.shape
        if height % c.scale or width % c.scale or channels != c.channels:
            raise InkstoneError(
                f"The picture is {width}x{height} with {channels} channels: expected sides that are multiples of "
                f"{c.scale} and {c.channels} channels. Resize or convert it first."
            )
        rows, _, sentence = plan_rows(c, height, width, self.dtype, self.budget)
        log.info("%s", sentence.replace("decode", "encode"))
        with torch.inference_mode():
            x = pictures.permute(0, 3, 1, 2).to(self.device, self.dtype).mul(2).sub(1)
            means = [
                (
                    self.network.moments(item)
                    if rows is None
                    else moments_rows(self.network, item, rows)
                )[0]
                for item in x.split(1)
            ]
        return torch.cat(means).float().cpu()[:, :, None]


@dataclass
class Bundle:
    """The three models of one folder."""

    model: DiffusionModel
    text_encoder: TextEncoderModel
    vae: VAEModel


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
    """Replaces meta parameters by tensors read from the file. Every one must be there, in its shape."""
    params = dict(network.named_parameters())
    missing = [name for name in params if name not in table]
    if missing:
        raise InkstoneError(
            f"{source.path}: {len(missing)} tensors are missing, e.g. {', '.join(missing[:5])}. "
            "The file is incomplete or of another model: check it with `inkstone inspect`, download it again."
        )
    for name, p in params.items():
        tensor = _read_shaped(source, table[name], tuple(p.shape), dtype)
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        module._parameters[leaf] = nn.Parameter(tensor.to(device), requires_grad=False)


def _read_shaped(source: Weights, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """One tensor in the network's shape; 3-D kernels give their last slice, gammas lose empty axes."""
    stored = source.entries[name].shape
    if stored == shape:
        return source.read(name, dtype=dtype)
    if len(stored) == 5 and len(shape) == 4 and (*stored[:2], *stored[3:]) == shape:
        # one frame of a causal 3-D convolution sees only the last temporal slice
        return source.read(name, dtype=dtype)[:, :, -1].contiguous()
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
            f"{path}: {len(others)} tensors are not part of this model, e.g. {', '.join(others[:5])}. "
            "The file is of another model or version: check it with `inkstone inspect`."
        )


def _shapes(source: Weights, table: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    return {ours: source.entries[name].shape for ours, name in table.items()}


def _parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(s).numel() for s in shapes.values())


def _format(source: Weights) -> str:
    return "+".join(sorted({str(e.dtype).removeprefix("torch.") for e in source.entries.values()}))


def _part(path: Path, name: str) -> Path:
    """A component folder of a Hugging Face folder, or the path itself."""
    return path / name if path.is_dir() and (path / name).is_dir() else path


def load_diffusion_model(
    path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> DiffusionModel:
    """A .safetensors file, an index json, a transformer folder or a whole Hugging Face folder."""
    root, device = Path(path), torch.device(device)
    part = _part(root, "transformer")
    require(identify(part, want="diffusion_model"), "diffusion_model")
    source = open_weights(part)
    names = mmdit_names(source.entries)
    family = family_of(source.metadata)
    shapes = _shapes(source, names.table)
    config = mmdit_config(shapes, family, read_json(part / "config.json"))
    with torch.device("meta"):
        network = MMDiT(config)
    table_keys = modulation_keys(config.layers)
    resident = dict(network.named_parameters())
    pruned = {f"transformer_blocks.{config.layers - 1}.{tail}" for tail in UNREAD_TAILS}
    known = set(table_keys) | set(resident) | pruned
    _refuse_unknown(part, [n for n in names.table if n not in known] + list(names.others))
    missing = [k for k in table_keys if k not in names.table]
    if missing:
        raise InkstoneError(
            f"{part}: {len(missing)} modulation tensors are missing, e.g. {', '.join(missing[:5])}. "
            "The file is incomplete: download it again."
        )
    dtype, reason = choose_dtype(dtype, device, _parameters(shapes))
    _fill(network, source, names.table, dtype, device)
    mean, std = latent_statistics(root, family)
    log.info(
        "diffusion model %s: %s, %d blocks, %.2f G parameters, %s computed in %s (%s)",
        root.name, family.name, config.layers, _parameters(shapes) / 1e9, _format(source),
        str(dtype).removeprefix("torch."), reason,
    )  # fmt: skip
    return DiffusionModel(
        network.eval(), family, _schedule(root, family), dtype, device, _format(source), mean, std, source,
        names.table, root,
    )  # fmt: skip


# Weights of the last block that never reach the output: the text query, output and MLP.
UNREAD_TAILS = tuple(
    f"{name}.{leaf}"
    for name in ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
    for leaf in ("weight", "bias")
) + ("attn.norm_added_q.weight",)


def _schedule(root: Path, family: Family) -> Schedule:
    for folder in (root / "scheduler", root.parent / "scheduler"):
        config = read_json(folder / "scheduler_config.json")
        if config:
            return from_config(config)
    return family.schedule


def latent_statistics(root: Path, family: Family) -> tuple[Tensor, Tensor]:
    """Mean and std [1,16,1,1] of latents: a folder's vae/config.json, else the family's."""
    config: dict = {}
    for folder in (root / "vae", root.parent / "vae", root):
        config = config or read_json(folder / "config.json")
        if "latents_mean" not in config:
            config = {}
    mean = config.get("latents_mean", family.latent_mean)
    std = config.get("latents_std", family.latent_std)
    return tuple(torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (mean, std))


def load_text_encoder(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    tokenizer: str | Path | None = None,
) -> TextEncoderModel:
    """A text encoder file or folder, and its tokenizer (found beside it unless given)."""
    root, device = Path(path), torch.device(device)
    part = _part(root, "text_encoder")
    require(identify(part, want="text_encoder"), "text_encoder")
    source = open_weights(part)
    names = text_names(source.entries)
    table = {k: v for k, v in names.table.items() if not k.startswith("visual.")}
    _refuse_unknown(part, names.others)
    shapes = _shapes(source, table)
    config = text_config(shapes, read_json(part / "config.json"))
    with torch.device("meta"):
        network = TextEncoder(config)
    _refuse_unknown(part, set(table) - set(dict(network.named_parameters())))
    words = load_tokenizer(Path(tokenizer) if tokenizer else find_tokenizer(root, []))
    dtype, reason = choose_dtype(dtype, device, _parameters(shapes))
    _fill(network, source, table, dtype, device)
    vision = any(k.startswith("visual.") for k in names.table)
    log.info(
        "text encoder %s: %d layers, %.2f G parameters, computed in %s (%s)%s",
        root.name, config.layers, _parameters(shapes) / 1e9, str(dtype).removeprefix("torch."), reason,
        "" if vision else ", no vision tower (text-to-image only)",
    )  # fmt: skip
    return TextEncoderModel(network.eval(), words, family_of(source.metadata), dtype, device, root)


def _vae_blocks(names: Iterable[str]) -> tuple[int, int]:
    """(stages, residual blocks per encoder stage) of diffusers names; the published 4, 2 for Wan names."""
    ups = [
        n.partition("decoder.up_blocks.")[2].split(".") for n in names if "decoder.up_blocks." in n
    ]
    if not ups:
        return 4, 2
    resnets = [int(p[2]) for p in ups if p[1] == "resnets" and p[2].isdigit()]
    return 1 + max(int(p[0]) for p in ups if p[0].isdigit()), max(resnets, default=2)


def load_vae(
    path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> VAEModel:
    """A VAE file (Wan or diffusers names) or folder."""
    root, device = Path(path), torch.device(device)
    part = _part(root, "vae")
    require(identify(part, want="vae"), "vae")
    source = open_weights(part)
    names = vae_names(source.entries, *_vae_blocks(source.entries))
    _refuse_unknown(part, names.others)
    config = vae_config(_shapes(source, names.table))
    with torch.device("meta"):
        network = VAE(config)
    dtype = dtype or torch.float32
    _fill(network, source, names.table, dtype, device)
    network.to(memory_format=torch.channels_last)
    mean, std = latent_statistics(root, family_of(source.metadata))
    log.info(
        "VAE %s: %s names, base %d, computed in %s", root.name, names.layout, config.base, dtype
    )
    return VAEModel(network.eval(), mean, std, dtype, device, root)


def load_all(
    path: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Bundle:
    """A Hugging Face folder with transformer/, text_encoder/, vae/, tokenizer/; None = the embedded model."""
    root = Path(path) if path is not None else EMBEDDED_FOLDER
    wanted = ("transformer", "text_encoder", "vae")
    missing = [name for name in wanted if not (root / name).is_dir()]
    if missing:
        raise InkstoneError(
            f"{root} is not a whole model folder: {', '.join(missing)} missing, expected the folders "
            f"{', '.join(wanted)} and tokenizer inside. For single files give --model, --text-encoder and --vae."
        )
    return Bundle(
        load_diffusion_model(root, dtype, device),
        load_text_encoder(root, dtype, device),
        load_vae(root, dtype, device),
    )
