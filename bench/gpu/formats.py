"""Part `formats`: the embedded model drawn from every storage format that quant/ loads.

Files are written on the spot: GGUF and scaled fp8 by `inkstone quantize`, other tools' formats by
the encoders of the tests, and GGUF types that nobody here encodes with random blocks. The card's
latents in float32 are held against the CPU's from the same file; the other figures say what the
type itself costs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.format_files import WEIGHTS, write_packed, write_random
from bench.gpu.report import Part
from bench.gpu.run import Run
from inkstone.kernels import linear
from inkstone.kernels.triton import backend
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.load import (
    EMBEDDED_FOLDER,
    load_all,
    load_diffusion_model,
    load_text_encoder,
)
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_request import QuantizeCall
from inkstone.quant.storage import Storage
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas
from tests.support.packers import PACKERS

QUANTIZED = (
    *("Q4_K_M", "Q8_0", "fp8_scaled", "Q6_K", "Q5_K_M", "Q4_0", "Q5_1", "Q3_K_M", "Q2_K"),
    *("Q4_1", "Q5_0", "Q4_K_S", "Q5_K_S", "Q3_K_S", "BF16", "F16"),
)
RANDOM = ("IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4")
SHIPPED = "as shipped (fp16)"
PROMPT = 'a white sign that says "INK" in blue above a red star on a yellow background'
SEED = 7
SAME = 1e-3  # of float32 latents from one file, card to CPU: sums in another order
HALF, ROUNDED = 0.02, 0.1  # of bfloat16 latents (0.004 on a CPU); where inputs are rounded too
TYPE = 0.25  # of a type to the shipped weights: 0.1 at most on a CPU at 128x128


@dataclass(frozen=True)
class Scene:
    """What every format draws."""

    text: Tensor
    side: int
    steps: int

    def latents(self, model: DiffusionModel) -> Tensor:
        tokens = self.side * self.side // 256
        table = sigmas(model.schedule, self.steps, tokens)
        return denoise(model, self.text, None, Request(self.side, self.side, table, seed=SEED))


def formats(run: Run, part: Part) -> None:
    """One row for each format."""
    side, count = (64, 1) if run.tiny else (128, 4)
    text = load_text_encoder(EMBEDDED_FOLDER).encode(PROMPT).states
    scene = Scene(text, side, count)
    shipped = scene.latents(_loaded(EMBEDDED_FOLDER, torch.float32))
    names = (SHIPPED, *QUANTIZED, *PACKERS, *RANDOM)
    if run.tiny:
        names = (SHIPPED, "Q4_K_M", "fp8 e4m3 scaled", "int8_tensorwise convrot", "nvfp4")
    elif run.quick:
        names = (SHIPPED, "Q4_K_M", "Q8_0", "fp8_scaled", *list(PACKERS)[::3])
    for name in run.each(names):
        with run.guarded(name):
            _row(run, part, scene, name, shipped)
    if run.time_for("the picture"):
        with run.guarded("the picture"):
            _picture(run, part, scene)
    part.notes.append(f"{side}x{side}, {count} steps, relative errors of the latents")


def _row(run: Run, part: Part, scene: Scene, name: str, shipped: Tensor) -> None:
    folder = EMBEDDED_FOLDER if name == SHIPPED else written(run.folder / "formats", name)
    here = scene.latents(_loaded(folder, torch.float32))
    with _by_kernels(run):
        model = _loaded(folder, torch.float32, run.card.device)
        there, by = scene.latents(model), _backend(model, torch.bfloat16)
    part.holds(f"{name}: latents of zeros", bool(there.any()))
    half_error, most = "", ROUNDED if name in RANDOM or by == "kitchen" else HALF
    if run.card.cuda:
        half = scene.latents(_loaded(folder, torch.bfloat16, run.card.device))
        error = run.card.relative(half, here)
        half_error = part.check(f"{name}, bfloat16 on the card", error, most)
    same = part.check(f"{name}, card to CPU", run.card.relative(there, here), SAME)
    of_type = "random blocks"
    if name not in RANDOM:
        error = run.card.relative(there, shipped)
        of_type = part.check(f"{name}, to the shipped weights", error, TYPE)
    part.row(
        format=name,
        weights=model.weights_format,
        card_to_CPU=same,
        bf16_to_CPU=half_error,
        type_to_shipped=of_type,
        multiplied_by=by,
    )


def written(folder: Path, name: str) -> Path:
    """The embedded model as a folder whose diffusion model is in this format."""
    if not folder.exists():
        ignore = shutil.ignore_patterns("transformer", "checkpoints", "text_encoder", "controlnet")
        shutil.copytree(EMBEDDED_FOLDER, folder, ignore=ignore)
    inner = folder / "transformer"
    shutil.rmtree(inner, ignore_errors=True)
    inner.mkdir()
    if name in PACKERS:
        write_packed(inner, name)
    elif name in RANDOM:
        write_random(inner, name)
    else:
        shutil.copy(EMBEDDED_FOLDER / "transformer" / "config.json", inner)
        out = inner / (WEIGHTS if name == "fp8_scaled" else "model.gguf")
        quantize(QuantizeCall(EMBEDDED_FOLDER, out, name), lambda *_: None)
    return folder


def _loaded(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> DiffusionModel:
    return load_diffusion_model(folder, LoadOptions(dtype, device))


@contextmanager
def _by_kernels(run: Run) -> Iterator[None]:
    """On the CPU in place of a card the linear door sends GGUF weights through Triton's interpreter
    all the same."""
    usual = linear.packed_backend

    def choose(storage: Storage, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
        if run.tiny and storage.format in backend.TYPES:
            return "triton", "in the interpreter"
        return usual(storage, device, dtype)

    linear.packed_backend = choose
    try:
        yield
    finally:
        linear.packed_backend = usual


def _backend(model: DiffusionModel, dtype: torch.dtype) -> str:
    """Who multiplies most packed layers."""
    held = [
        m.storage for m in model.network.modules() if isinstance(m, linear.Linear) and m.storage
    ]
    names = [linear.packed_backend(storage, model.device, dtype)[0] for storage in held]
    return max(set(names), key=names.count) if names else "plain"


def _picture(run: Run, part: Part, scene: Scene) -> None:
    """The shipped model from prompt to pixels: text encoder, network and VAE on the card."""
    pictures = []
    for device in ("cpu", run.card.device):
        models = load_all(EMBEDDED_FOLDER, LoadOptions(torch.float32, device))
        assert models.text_encoder is not None and models.vae is not None
        text = models.text_encoder.encode(PROMPT).states
        latents = Scene(text, scene.side, scene.steps).latents(models.model)
        pictures.append(models.vae.decode(latents).cpu().float())
    worst = (pictures[0] - pictures[1]).abs().max().item()
    error = part.check("the picture, card to CPU, of 1", worst, 1 / 255)
    part.notes.append(f"prompt to pixels on the card: at most {error} of 1 from the CPU's picture")
