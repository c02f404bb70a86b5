"""An edit run on one device, in every type, and the VAE with alpha."""

from __future__ import annotations

import pytest
import torch

from inkstone.loaders.models import vae as vae_model
from inkstone.loaders.models.load import load_all, load_vae
from inkstone.loaders.models.vae import VAEModel
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling import checks, denoise_run
from inkstone.sampling.geometry import token_grid
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas, tail

from ..support.edits import build, encoded
from ..support.oracle import measured
from .test_discipline import OneDevice

SIZE = (112, 80)  # an odd token grid: 5 x 7
PROMPTS = ("make it red", "blurry")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folders = {}

    def get(kind: str):
        if kind not in folders:
            torch.manual_seed(13)
            folders[kind] = build(kind, tmp_path_factory.mktemp(kind) / "model").folder
        return folders[kind]

    return get


def edit(bundle, kind: str) -> dict[str, torch.Tensor]:
    """Every stage of an edit of this kind; pictures are on the CPU, as nodes give them."""
    g = torch.Generator().manual_seed(2)
    pictures = torch.rand(3, SIZE[1], SIZE[0], 4 if kind == "layered" else 3, generator=g)
    vae, model = bundle.vae, bundle.model
    count = 2 if kind == "edit-2511" else 1
    references = tuple(vae.encode(picture[None]) for picture in pictures[:count])
    levels = sigmas(model.schedule, 2, token_grid(*SIZE)[1] * token_grid(*SIZE)[2])
    more = dict(references=references, batch=2, cfg=4.0, seed=5)
    if kind == "layered":
        more |= dict(layers=2)
    if kind == "edit-inpaint":
        mask = torch.zeros(1, 1, SIZE[1] // 8, SIZE[0] // 8)
        mask[..., 3:] = 1
        more |= dict(latent=vae.encode(pictures[:1]), repaint=mask)
        levels = tail(sigmas(model.schedule, 4, 35), 0.5)
    texts = encoded(bundle, PROMPTS, list(pictures[:count]))
    latent = denoise(model, *texts, Request(*SIZE, levels, **more))
    out = dict(zip(("text", "negative"), texts)) | {"latent": latent, "picture": vae.decode(latent)}
    return out | {f"reference {k}": z for k, z in enumerate(references)}


KINDS = ("edit-2511", "edit-inpaint", "layered")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("edit-2511", torch.bfloat16),
        ("edit-inpaint", torch.bfloat16),
        ("layered", torch.bfloat16),
        ("edit-2511", torch.float32),
    ],
)
def test_an_edit_on_the_meta_device(folder, kind, dtype, monkeypatch):
    """The meta device stands for a card. What needs numbers is left out: the finite checks, the
    way back to the CPU, and the vision tower, whose states are kept on the CPU of every host."""
    for module in (checks, denoise_run):
        monkeypatch.setattr(module, "check", lambda where, x, weights: None)
    monkeypatch.setattr(vae_model, "is_finite", lambda x: True)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: self)
    bundle = load_all(folder(kind), LoadOptions(dtype, "meta"))
    for place in (bundle.model, bundle.vae):
        for name in ("latent_mean", "latent_std"):
            if hasattr(place, name):
                setattr(place, name, getattr(place, name).to("meta"))
    monkeypatch.setattr(
        type(bundle.text_encoder), "encode_edit", lambda self, p, pictures, e: self.encode(p)
    )
    with OneDevice():
        out = edit(bundle, kind)
    assert {x.device.type for x in out.values()} == {"meta"}
    assert out["text"].dtype == dtype and out["latent"].dtype == torch.float32
    frames = 2 if kind == "layered" else 1
    assert out["latent"].shape == (2, 16, frames, SIZE[1] // 8, SIZE[0] // 8)
    channels = 4 if kind == "layered" else 3
    assert out["picture"].shape == (2 * frames, SIZE[1], SIZE[0], channels)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_in_bfloat16(folder, kind):
    exact, half = (
        edit(load_all(folder(kind), LoadOptions(t)), kind) for t in (torch.float32, torch.bfloat16)
    )
    limits = {"text": 0.05, "negative": 0.05, "latent": 0.05, "picture": 0.03, "reference 0": 0.03}
    for stage, limit in limits.items():
        if stage not in exact:
            continue
        assert torch.isfinite(half[stage]).all(), f"{stage} is not finite"
        error = measured(half[stage], exact[stage])
        print(f"{kind}, bfloat16 against float32, {stage}: relative {error:.1e}")
        assert 0 < error < limit, f"{stage}: relative {error:.1e}, limit {limit}"
    assert half["latent"].dtype == half["picture"].dtype == torch.float32


# --- alpha


@pytest.mark.parametrize("rows", [None, 24], ids=["whole", "in rows"])
def test_the_vae_with_alpha(folder, rows, monkeypatch):
    """Against the reference's VAE, of layers [B,16,F,h,w] picture by picture; RGB is opaque."""
    from diffusers import AutoencoderKLQwenImage

    monkeypatch.setattr(VAEModel, "_plan", lambda *_, **__: (rows, "as the test says"))
    theirs = AutoencoderKLQwenImage.from_pretrained(folder("layered") / "vae").eval()
    ours = load_vae(folder("layered"), LoadOptions(torch.float32))
    pictures = torch.rand(3, 48, 80, 4)
    with torch.no_grad():
        pixels = pictures.permute(0, 3, 1, 2)[:, :, None] * 2 - 1
        want = theirs.encode(pixels).latent_dist.mode()
        back = theirs.decode(want).sample[:, :, 0].clamp(-1, 1).add(1).div(2).permute(0, 2, 3, 1)
    got = ours.encode(pictures)
    error = measured(got, want)
    assert error < 1e-5, f"latents differ by {error:.1e} relative"
    layers = got.transpose(0, 2)  # [1,16,3,h,w]
    decoded = ours.decode(layers)
    worst = (decoded - back).abs().max().item()
    assert decoded.shape == back.shape and worst < 1e-4, f"at most {worst:.1e}"
    opaque = torch.cat([pictures[..., :3], torch.ones(3, 48, 80, 1)], dim=-1)
    assert torch.equal(ours.encode(pictures[..., :3]), ours.encode(opaque))
