"""Which inputs count: the model draws a few prompts, and every layer's input is squared and summed.

Side branches of the linear layers look on (kernels/linear.py), so any storage format will do. The
result is kept beside OUT: a run that was stopped and called again does not draw again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CallError
from ..kernels.linear import Linear
from ..kernels.lora import attached
from ..kernels.modulation import time_embedding
from ..loaders.formats.imatrix import Importance, read_imatrix, save_imatrix, sharing
from ..sampling.geometry import token_grid
from ..sampling.request import Hooks, Request
from ..sampling.sampler import denoise
from ..sampling.schedule import sigmas
from .weight_rows import Matrices

if TYPE_CHECKING:
    from ..loaders.models.diffusion_model import DiffusionModel
    from .quantize_request import QuantizeCall

log = logging.getLogger(__name__)

STEPS = 8  # of the schedule; all sigmas from noise to picture are seen
LARGEST = 512  # side of the pictures: what a column gets depends little on the size
MOST_PROMPTS = 64
_BLOCKS = "transformer_blocks."

Progress = Callable[[int, int], None]
Sums = dict[str, tuple[Tensor, int]]


def kept_at(out: Path) -> Path:
    """Where the importance matrix of a run stays."""
    return out.with_name(f"{out.stem}.imatrix.gguf")


def from_prompts(call: QuantizeCall, model: Matrices, progress: Progress) -> Importance:
    """The importance matrix of call.source for the prompts of call.prompts."""
    if model.role != "diffusion_model":
        raise CallError(
            "--prompts draws pictures: IN should be a diffusion model, got a text "
            "encoder. Use --imatrix."
        )
    prompts = read_prompts(call.prompts)
    said = _fingerprint(call, model, prompts)
    path = kept_at(call.out)
    if path.is_file():
        kept = read_imatrix(path)
        if kept.text == said:
            log.info("importance of inputs: from %s", path.name)
            return kept
    sums = measure(call, prompts, progress)
    save_imatrix(path, sums, said, call.prompts.name)
    log.info(
        "importance of inputs from %d prompts: %d layers, kept in %s",
        len(prompts),
        len(sums),
        path.name,
    )
    return read_imatrix(path)


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines and lines that start with # are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CallError(f"{path}: cannot be read as text: {error}. One prompt a line.") from None
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not 0 < len(prompts) <= MOST_PROMPTS:
        raise CallError(
            f"{path}: {len(prompts)} prompts, expected 1 to {MOST_PROMPTS}, each in a "
            "line of its own."
        )
    return prompts


class _Look:
    """Sums of squares of the columns of what goes into one layer."""

    def __init__(self, columns: int) -> None:
        self.total, self.rows = torch.zeros(columns, dtype=torch.float64), 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """A side branch that only looks."""
        x = x.reshape(-1, x.shape[-1])
        for part in x.split(1024):
            self.total += part.float().square().sum(0).double().cpu()
        self.rows += x.shape[0]
        return y


def measure(call: QuantizeCall, prompts: list[str], progress: Progress) -> Sums:
    """Draws every prompt and returns (sums [columns], rows) by names of weights in blocks."""
    from ..loaders.models.load import load_diffusion_model, load_text_encoder

    model = load_diffusion_model(call.source)
    text = load_text_encoder(_text_encoder(call))
    states = [text.encode(prompt) for prompt in prompts]
    del text
    width, height = (min(side, LARGEST) for side in model.family.preset.size)
    _, rows, columns = token_grid(width, height)
    schedule = sigmas(model.schedule, STEPS, rows * columns)
    looks = _looks(model)
    with attached(model.network, looks):
        for number, state in enumerate(states):
            request = Request(width, height, schedule, seed=number)
            done = number * STEPS
            hooks = Hooks(on_step=lambda s, d=done: progress(d + s.index + 1, STEPS * len(states)))
            denoise(model, state, None, request, hooks)
    sums = {f"{name}.weight": (look.total, look.rows) for name, look in looks.items()}
    return sums | _of_modulation(call, model, schedule[:-1])


def _looks(model: DiffusionModel) -> dict[str, _Look]:
    """One look per input: of layers that share it, at the first."""
    found: dict[str, _Look] = {}
    for name, layer in model.network.named_modules():
        others = (n.removesuffix(".weight") for n in sharing(f"{name}.weight"))
        if isinstance(layer, Linear) and name.startswith(_BLOCKS) and not found.keys() & {*others}:
            found[name] = _Look(layer.in_features)
    return found


def _of_modulation(call: QuantizeCall, model: DiffusionModel, schedule: Tensor) -> Sums:
    """Every modulation layer sees the timestep alone."""
    with Matrices(call.source) as file, torch.inference_mode():
        x = F.silu(time_embedding(file.whole, schedule))  # [steps, D]
    total = x.square().sum(0).double()
    layers = model.network.config.layers
    return {f"{_BLOCKS}{i}.img_mod.1.weight": (total, len(x)) for i in range(layers)}


def _text_encoder(call: QuantizeCall) -> Path:
    """As given, or in the same model folder."""
    if call.text_encoder is not None:
        return call.text_encoder
    folder = call.source if call.source.is_dir() else call.source.parent
    for home in (folder, folder.parent):
        if (home / "text_encoder").is_dir():
            return home / "text_encoder"
    raise CallError(
        f"{call.source}: there is no text encoder beside it, which --prompts needs. "
        "Give --text-encoder."
    )


def _fingerprint(call: QuantizeCall, model: Matrices, prompts: list[str]) -> str:
    """Changes with the model, the prompts and the way of drawing."""
    stamps = sorted((n, tuple(e.shape)) for n, e in model.source.entries.items())
    size = model.path.stat().st_size if model.path.is_file() else 0
    said = repr((prompts, str(model.path.resolve()), size, stamps, STEPS, LARGEST))
    return hashlib.sha256(said.encode()).hexdigest()
