"""Measures which inputs matter: the model draws a few prompts, and the inputs of every layer are
squared and summed.

Side branches of the linear layers collect the sums (kernels/linear.py), so any storage format will
do. The result is kept next to OUT: a run that was stopped and called again does not draw again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CallError
from ..files.paths import read_regular
from ..kernels.linear import Linear
from ..kernels.lora import attached
from ..kernels.modulation import time_embedding
from ..loaders.arch.identify import parts_beside
from ..loaders.formats.imatrix import Importance, read_imatrix, save_imatrix, sharing
from ..loaders.models.diffusion_model import DiffusionModel
from ..loaders.models.load import load_diffusion_model, load_text_encoder
from ..sampling.denoise import Step
from ..sampling.geometry import token_grid
from ..sampling.request import Hooks, Request
from ..sampling.sampler import denoise
from ..sampling.schedule import sigmas
from .quantize_request import QuantizeCall
from .weight_rows import Matrices

log = logging.getLogger(__name__)

STEPS = 8  # of the schedule; it reaches all sigmas from noise to picture
LARGEST = 512  # side of the pictures: the inputs of a column depend little on the size
MOST_PROMPTS = 64
_MOST_BYTES = 16 << 20  # of the file that lists them
_BLOCKS = "transformer_blocks."

Progress = Callable[[int, int], None]
Sums = dict[str, tuple[Tensor, int]]  # sums [columns] and rows by names of weights


def kept_at(out: Path) -> Path:
    """The file of a run's importance matrix."""
    return out.with_name(f"{out.stem}.imatrix.gguf")


def from_prompts(
    call: QuantizeCall, prompts_file: Path, model: Matrices, progress: Progress
) -> Importance:
    """The importance matrix of call.source for the prompts of a file."""
    if model.role != "diffusion_model":
        raise CallError(
            "--prompts draws pictures: IN should be a diffusion model, got a text "
            "encoder. Use --imatrix."
        )
    prompts = read_prompts(prompts_file)
    fingerprint = _fingerprint(model, prompts)
    path = kept_at(call.out)
    if path.is_file():
        importance = read_imatrix(path)
        if importance.text == fingerprint:
            log.info("importance of inputs: from %s", path.name)
            return importance
    sums = measure(call, prompts, progress)
    save_imatrix(path, sums, fingerprint, prompts_file.name)
    log.info(
        "importance of inputs from %d prompts: %d layers, kept in %s",
        len(prompts),
        len(sums),
        path.name,
    )
    return read_imatrix(path)


def read_prompts(path: Path) -> list[str]:
    """One prompt per line; empty lines and lines that start with # are skipped."""
    try:
        lines = read_regular(path, _MOST_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CallError(
            f"{path}: cannot be read as text: {reason}. Write one prompt per line, as UTF-8."
        ) from None
    if any("\0" in line for line in lines):
        raise CallError(f"{path}: has NUL bytes. Write one prompt per line, as UTF-8.")
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not 0 < len(prompts) <= MOST_PROMPTS:
        raise CallError(
            f"{path}: {len(prompts)} prompts, expected 1 to {MOST_PROMPTS}, one per line. "
            "Shorten the file, or add prompts."
        )
    return prompts


class _Observer:
    """Sums of squares of the columns of one layer's input."""

    def __init__(self, columns: int) -> None:
        self.total, self.rows = torch.zeros(columns, dtype=torch.float64), 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """A side branch that changes nothing."""
        x = x.reshape(-1, x.shape[-1])
        for part in x.split(1024):
            self.total += part.float().square().sum(0).double().cpu()
        self.rows += x.shape[0]
        return y


def measure(call: QuantizeCall, prompts: list[str], progress: Progress) -> Sums:
    """Draws every prompt and sums the inputs of the weights in blocks."""
    model = load_diffusion_model(call.source)
    text = load_text_encoder(_text_encoder(call))
    states = [text.encode(prompt).states for prompt in prompts]
    del text
    width, height = (min(side, LARGEST) for side in model.family.preset.size)
    _, rows, columns = token_grid(width, height)
    schedule = sigmas(model.schedule, STEPS, rows * columns)
    observers = _observers(model)
    with attached(model.network, observers):
        for number, state in enumerate(states):
            request = Request(width, height, schedule, seed=number)
            hooks = Hooks(on_step=_step_counter(progress, number * STEPS, STEPS * len(states)))
            denoise(model, state, None, request, hooks)
    sums = {f"{name}.weight": (o.total, o.rows) for name, o in observers.items()}
    return sums | _of_modulation(call, model, schedule[:-1])


def _step_counter(progress: Progress, before: int, total: int) -> Callable[[Step], None]:
    return lambda step: progress(before + step.index + 1, total)


def _observers(model: DiffusionModel) -> dict[str, _Observer]:
    """One observer per input: for layers that share it, at the first."""
    observers: dict[str, _Observer] = {}
    for name, layer in model.network.named_modules():
        if not isinstance(layer, Linear) or not name.startswith(_BLOCKS):
            continue
        others = {n.removesuffix(".weight") for n in sharing(f"{name}.weight")}
        if not observers.keys() & others:
            observers[name] = _Observer(layer.in_features)
    return observers


def _of_modulation(call: QuantizeCall, model: DiffusionModel, schedule: Tensor) -> Sums:
    """The sums of modulation layers, whose only input is the timestep."""
    layers = model.network.config.layers
    keys = model.architecture.table_keys(layers, False)
    names = [key for key in keys if key.endswith(".img_mod.1.weight")]
    if not names:  # one for all blocks, which is not quantized
        return {}
    with Matrices(call.source) as file, torch.inference_mode():
        x = F.silu(time_embedding(file.whole, schedule))  # [steps, D]
    total = x.square().sum(0).double()
    return {name: (total, len(x)) for name in names}


def _text_encoder(call: QuantizeCall) -> Path:
    """The named text encoder, else the one in the same checkpoint or model folder."""
    if call.text_encoder is not None:
        return call.text_encoder
    if "text_encoder" in parts_beside(call.source):
        return call.source
    folder = call.source if call.source.is_dir() else call.source.parent
    for home in (folder, folder.parent):
        if (home / "text_encoder").is_dir():
            return home / "text_encoder"
    raise CallError(
        f"{call.source}: there is no text encoder next to it, which --prompts needs. "
        "Give --text-encoder."
    )


def _fingerprint(model: Matrices, prompts: list[str]) -> str:
    """Changes with the model, the prompts and the way of drawing."""
    stamps = sorted((n, tuple(e.shape)) for n, e in model.source.entries.items())
    size = model.path.stat().st_size if model.path.is_file() else 0
    facts = repr((prompts, str(model.path.resolve()), size, stamps, STEPS, LARGEST))
    return hashlib.sha256(facts.encode()).hexdigest()
