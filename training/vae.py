"""Training of the embedded VAE: jointly first, then the decoder alone on slightly noisy latents.

Loss: L1 + L1 of pixel differences + a small KL. It starts with weights that pass colours through
the whole network (conv_in copies R, G, B and their negatives, every later layer keeps them), which
saves the long plateau that random weights have on flat pictures.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.configs import VAEConfig
from ..kernels.vae import VAE
from ..kernels.vae_parts import Attention, Resample, ResBlock
from .checkpoint import EMA, Checkpoint, step_rng, warm_constant_linear
from .grammar import sample
from .loop import Stage
from .render import render

log = logging.getLogger(__name__)

EMBEDDED_VAE = VAEConfig(base=12, mult=(1, 2, 4, 4), res_blocks=1)


@dataclass(frozen=True, kw_only=True)
class VAEStage(Stage):
    """A stage on random crops: their side in pixels, and which part learns."""

    crop: int
    decoder_only: bool = False


STAGES = (
    VAEStage(name="vae-joint", steps=2000, crop=48, batch=24, lr=2e-3, save_every=200),
    VAEStage(
        name="vae-decoder",
        steps=2400,
        crop=64,
        batch=16,
        lr=1e-3,
        save_every=200,
        decoder_only=True,
    ),
)


@torch.no_grad()
def pass_colours(vae: VAE) -> None:
    """Initializes the weights so that colours survive: see the module docstring."""
    for m in vae.modules():
        if isinstance(m, ResBlock):
            m.conv2.weight.zero_()
            _bias(m.conv2).zero_()
            if m.conv_shortcut is not None:
                _pass(m.conv_shortcut)
        elif isinstance(m, Attention):
            m.proj.weight.zero_()
        elif isinstance(m, Resample):
            _pass(m.conv)
    for conv in (vae.encoder.conv_out, vae.decoder.conv_in, vae.quant_conv, vae.post_quant_conv):
        _pass(conv)
    conv = vae.encoder.conv_in
    for i in range(3):
        conv.weight[i], conv.weight[3 + i] = 0, 0
        conv.weight[i, i, 1, 1], conv.weight[3 + i, i, 1, 1] = 1, -1
    conv.weight[6], _bias(conv)[6] = 0, 1
    out = vae.decoder.conv_out
    for i in range(3):
        out.weight[i].mul_(0.1)
        out.weight[i, i, 1, 1], out.weight[i, 3 + i, 1, 1] = 0.7, -0.7
    _bias(vae.quant_conv)[vae.config.z :] = -5.0


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # every convolution of the VAE has one
    return conv.bias


def _pass(conv: nn.Conv2d) -> None:
    """The first seven channels go straight through the centre tap."""
    at = conv.kernel_size[0] // 2
    for i in range(min(7, *conv.weight.shape[:2])):
        conv.weight[i] = 0
        conv.weight[i, i, at, at] = 1
        _bias(conv)[i] = 0


def crops(rng: np.random.Generator, stage: VAEStage) -> Tensor:
    """[batch,3,crop,crop] in -1..1: of three random crops of a picture the one of most contrast."""
    batch = []
    for _ in range(stage.batch):
        kind = "scenes" if rng.random() < 0.8 else "shapes"
        picture = render(sample(rng, kind, None))
        candidates = [_crop(rng, picture, stage.crop) for _ in range(3)]
        batch.append(max(candidates, key=lambda crop: float(crop[::4, ::4].std())))
    x = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)  # channels_last by construction
    return x.float().div_(127.5).sub_(1)


def _crop(rng: np.random.Generator, picture: np.ndarray, side: int) -> np.ndarray:
    y, x = (int(rng.integers(0, n - side + 1)) for n in picture.shape[:2])
    return picture[y : y + side, x : x + side]


def loss_of(
    vae: VAE, x: Tensor, stage: VAEStage, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(loss, mean squared error) of one batch."""
    with torch.set_grad_enabled(not stage.decoder_only):
        mean, logvar = vae.moments(x)
    if stage.decoder_only:
        spread = 0.15 * torch.rand(len(x), 1, 1, 1, generator=generator) * mean.std()
        z, kl = mean + spread * torch.randn(mean.shape, generator=generator), x.new_zeros(())
    else:
        z = mean + (logvar / 2).exp() * torch.randn(mean.shape, generator=generator)
        kl = 0.5 * (mean.square() + logvar.exp() - logvar - 1).mean()
    y = vae.decode(z)
    rows, columns = (F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
    return F.l1_loss(y, x) + 0.5 * (rows + columns) + 2e-4 * kl, F.mse_loss(y.detach(), x)


def start() -> VAE:
    """The VAE before its first step."""
    vae = VAE(EMBEDDED_VAE)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stub
    pass_colours(vae)
    return vae


def run_stage(vae: VAE, folder: Path, seed: int, stage: VAEStage) -> None:
    """Trains or resumes one stage; the VAE ends on the averaged weights."""
    for p in vae.parameters():
        p.requires_grad_(not stage.decoder_only)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    ema, file = EMA(vae), Checkpoint(folder / f"{stage.name}.safetensors")
    learn = [p for p in vae.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learn, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.0)
    start = file.restore(vae, ema, optimiser)
    began = time.time()
    errors: list[float] = []
    for step in range(start, stage.steps):
        rng = step_rng(seed, stage.name, step)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for group in optimiser.param_groups:
            group["lr"] = stage.lr * warm_constant_linear(step, stage.steps)
        loss, error = loss_of(vae, crops(rng, stage), stage, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learn, 1.0)
        optimiser.step()
        ema.update(vae, step)
        errors.append(error.item())
        if (step + 1) % 100 == 0:
            db = 10 * np.log10(4 / np.mean(errors[-100:]))
            rate = (step + 1 - start) * stage.batch / (time.time() - began)
            log.info("%s %d/%d: %.2f dB, %.0f crops/s", stage.name, step + 1, stage.steps, db, rate)
        if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
            file.save(vae, ema, optimiser, step + 1)
    ema.copy_to(vae)
