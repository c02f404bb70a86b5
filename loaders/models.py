"""The loaded models: what sampling, nodes and command line hold. bundle.py makes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..kernels.errors import InkstoneError
from ..kernels.memory import free_bytes
from ..kernels.mmdit import MMDiT
from ..kernels.modulation import Modulation, modulation
from ..kernels.text_encoder import Past, TextEncoder
from ..kernels.vae import VAE
from ..kernels.vae_rows import decode_rows, moments_rows, plan_rows
from ..sampling.schedule import Schedule
from .family import Family
from .safetensors_file import Weights
from .tokenizer import Tokenizer

log = logging.getLogger(__name__)


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
    preview: Tensor | None = None  # [17,3], see sampling/preview.py
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
        """Prompt -> [1,L,J] states without the template's head, which is encoded once and kept."""
        f = self.family
        ids = self.tokenizer.encode(f.template.format(prompt))
        kept = len(ids) - f.drop
        if kept <= 0:
            raise InkstoneError(
                f"The prompt has {len(ids)} tokens with its template; {f.drop} of them belong to "
                "the template's head, so nothing is left. The tokenizer is not the one of this "
                "model: use the folder `tokenizer` that came with the text encoder."
            )
        if kept > f.most_tokens:
            log.warning(
                "the prompt has %d tokens, this model takes %d: the last %d are not used, "
                "shorten it",
                kept, f.most_tokens, kept - f.most_tokens,
            )  # fmt: skip
            ids = ids[: f.drop + f.most_tokens]
        self._check_vocabulary(ids)
        strangers = f.grammar.strangers(prompt) if f.grammar else []
        if strangers:
            log.warning(
                "the %s model was never taught %s; it knows %s, and words in double quotes that "
                "match %s",
                f.name, ", ".join(strangers[:5]), " ".join(f.grammar.words), f.grammar.written,
            )  # fmt: skip
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
                f"The tokenizer gives token {max(ids)}, the text encoder has only {rows} tokens: "
                "they belong to different models. Use the tokenizer folder that came with the "
                "text encoder."
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
    budget: int | None = None  # bytes for activations; None = three quarters of what is free

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent [B,16,1,h,w] or [B,16,h,w] -> pictures [B,H,W,C] float32 in 0..1."""
        z = latent[:, :, 0] if latent.dim() == 5 else latent
        c = self.network.config
        if z.dim() != 4 or z.shape[1] != c.z or 0 in z.shape:
            raise InkstoneError(
                f"The latent has shape {list(latent.shape)}: expected [batch, {c.z}, 1, height/8, "
                "width/8]. Connect the latent of an Inkstone or Qwen-Image sampler."
            )
        height, width = z.shape[2] * c.scale, z.shape[3] * c.scale
        rows, sentence = self._plan(height, width)
        log.info("%s", sentence)
        with torch.inference_mode():
            z = z.to(self.device, self.dtype)
            pixels = [
                self.network.decode(item) if rows is None else decode_rows(self.network, item, rows)
                for item in z.split(1)
            ]
            picture = torch.cat(pixels).float().clamp(-1, 1).add(1).div(2)
        return picture.permute(0, 2, 3, 1).contiguous().cpu()

    def _plan(self, height: int, width: int) -> tuple[int | None, str]:
        """Rows of a strip (None = whole) and the sentence that says so."""
        budget = self.budget or free_bytes(self.device) * 3 // 4
        c = self.network.config
        rows, _, said = plan_rows(c, height, width, self.dtype, budget, self.device.type)
        return rows, said

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B,H,W,C] in 0..1, sides multiples of 8 -> raw latent means [B,16,1,h,w]."""
        c = self.network.config
        _, height, width, channels = pictures.shape
        if height % c.scale or width % c.scale or channels != c.channels:
            raise InkstoneError(
                f"The picture is {width}x{height} with {channels} channels: expected sides that "
                f"are multiples of {c.scale} and {c.channels} channels. Resize or convert it first."
            )
        rows, sentence = self._plan(height, width)
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
