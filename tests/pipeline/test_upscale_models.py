"""Enlarging with LoRAs, distilled models, the layout of Qwen-Image-2.1 and streamed weights."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from inkstone.headless.cli.main import main
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.residency import Residency
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all, load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.upscale import Redraw, enlarged, redrawn, tiles_for
from inkstone.sampling.request import Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.schedule import LINEAR, sigmas, tail
from inkstone.sampling.tiled import denoise_tiles
from inkstone.sampling.tiles import tiles_of

from ..support import models_21
from ..support.embedded_loras import embedded_lora
from ..support.tiles import merged_by_hand

LEVELS = tail(sigmas(LINEAR, 10, 64), 0.2)  # two steps
CALL = ("draw", "a red circle on a white background")


@pytest.fixture(scope="module")
def bundle():
    return load_all(None, LoadOptions(torch.float32))


def request_of(model, width, height):
    latent = torch.randn(
        1, *model.latents.shape(width, height), generator=torch.Generator().manual_seed(5)
    )
    return Request(width=width, height=height, sigmas=LEVELS, seed=3, cfg=2.0, latent=latent)


def error_of(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


def test_a_lora_acts_in_every_tile_by_its_strength(bundle, tmp_path):
    lora = load_lora(embedded_lora(tmp_path / "lora.safetensors", bundle))
    off, on = (bundle.model.with_loras([Adapter(lora, s)]) for s in (0.0, 0.7))
    texts = [bundle.text_encoder.encode(text).states for text in ("a red circle", "blue")]
    r, tiles = request_of(on, 192, 128), tiles_of((192, 128), 128, 16)
    want = merged_by_hand(on, *texts, r, tiles)
    got = {
        name: denoise_tiles(model, *texts, request_of(model, 192, 128), tiles)
        for name, model in (("on", on), ("off", off), ("plain", bundle.model))
    }
    assert error_of(got["on"], want) < 1e-4 < 1e-2 < error_of(got["off"], want), got
    assert torch.equal(got["off"], got["plain"])


def test_lightning_enlarges_in_its_own_steps(bundle, tmp_path, caplog):
    """Distilled: a step of four, without CFG, on its own schedule."""
    path = embedded_lora(tmp_path / "Qwen-Image-Lightning-4steps-V2.0.safetensors", bundle)
    out = tmp_path / "out.png"
    with caplog.at_level(logging.INFO):
        status = main([*CALL, "-o", str(out), "--lora", str(path), "--upscale", "1.5"])
    assert status == 0
    assert "redrawing 192x192 in 1 steps: 4 tiles of 128x128" in caplog.text
    from PIL import Image

    settings = Image.open(out).info["inkstone"]
    assert '"steps": 4' in settings and '"cfg": 1' in settings and "Lightning" in settings


def test_the_layout_of_2_1_is_enlarged_with_its_alpha(tmp_path):
    pipe = models_21.pipeline()
    bundle = models_21.load(models_21.save(pipe, tmp_path), pipe._drop_idx)
    encode = bundle.text_encoder.encode
    texts = [encode(text).states for text in ("a red cat", "blue")]
    model, tiles = bundle.model, tiles_of((160, 96), 96, 32)
    assert len(tiles) == 3
    want = merged_by_hand(model, *texts, request_of(model, 160, 96), tiles)
    got = denoise_tiles(model, *texts, request_of(model, 160, 96), tiles)
    error = error_of(got, want)
    assert error < 1e-4, f"differs by {error:.1e}"
    source = torch.rand(1, 45, 61, 4, generator=torch.Generator().manual_seed(1))
    size, plain = (141, 105), enlarged(source, (141, 105))
    redraw = Redraw(model, bundle.vae, tiles_for(model, size, 96), *texts, LEVELS, cfg=2.0)
    out = redrawn(plain.clone(), redraw)
    assert out.shape == (1, 105, 141, 4), "exact, with the padding of steps of 32 cut off"
    assert not torch.equal(out[..., 3], plain[..., 3]), "alpha is drawn, not kept"


def test_streamed_weights_enlarge_to_the_same(monkeypatch):
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    model = load_diffusion_model(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))
    g = torch.Generator().manual_seed(5)
    texts = [torch.randn(1, n, 128, generator=g) for n in (12, 4)]
    tiles = tiles_of((192, 128), 128, 16)
    monkeypatch.setattr(Residency, "_room", lambda *_: 1 << 40)
    want = denoise_tiles(model, *texts, request_of(model, 192, 128), tiles)
    model.weights.park()
    tile = replace(request_of(model, 128, 128), latent=None)
    rest, groups = model.weights.sizes
    working = working_bytes(model, tile, dict(zip(("positive", "negative"), texts, strict=True)))
    monkeypatch.setattr(Residency, "_room", lambda *_: rest + 2 * max(groups) + working)
    got = denoise_tiles(model, *texts, request_of(model, 192, 128), tiles)
    assert model.weights.placement.resident == 0, "the room of one tile is enough"
    assert torch.equal(got, want), f"{(got - want).abs().max():.2e}"
