"""Rules for all kernels: one device, every type, a batch of three equals three singles."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inkstone.headless.draw.request import DrawCall
from inkstone.headless.draw.run import draw
from inkstone.kernels import forward, linear
from inkstone.kernels.attention import attention
from inkstone.kernels.configs import MMDiTConfig, TextConfig
from inkstone.kernels.forward import Inputs
from inkstone.kernels.mmdit import MMDiT
from inkstone.kernels.modulation import modulation
from inkstone.kernels.text_encoder import TextEncoder
from inkstone.kernels.vae import VAE
from inkstone.kernels.vae_strips import decode_rows, moments_rows
from inkstone.loaders.formats.safetensors import SafetensorsFile
from inkstone.loaders.models import vae as vae_model
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.vae import VAEModel
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling import checks, denoise_run, sampler
from inkstone.sampling.geometry import token_grid, unpack
from inkstone.sampling.noise import noise
from inkstone.sampling.schedule import sigmas

from ..support import tiny
from ..support.oracle import measured

SIZE = (112, 80)  # an odd token grid: 5 x 7
PROMPT = "a red cat on a mat, and more words than the template's head has bytes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model folder with random weights, as diffusers writes it."""
    torch.manual_seed(3)
    place = tmp_path_factory.mktemp("tiny") / "model"
    return tiny.save(tiny.pipeline("odd layers, three heads"), place)


def text_to_image(bundle, steps: int = 2, cfg: float = 4.0) -> dict[str, torch.Tensor]:
    """Every stage's result, through the functions of the command line and the nodes."""
    positive, negative = (bundle.text_encoder.encode(text).states for text in (PROMPT, "blurry"))
    levels = sigmas(bundle.model.schedule, steps, token_grid(*SIZE)[1] * token_grid(*SIZE)[2])
    request = sampler.Request(*SIZE, levels, seed=5, batch=2, cfg=cfg)
    latent = sampler.denoise(bundle.model, positive, negative, request)
    return {"text": positive, "latent": latent, "picture": bundle.vae.decode(latent)}


# --- devices: "meta" stands for a card


class OneDevice(TorchDispatchMode):
    """Refuses what a card refuses. The meta device alone does not: it takes a CPU tensor in
    matrix products, convolutions, embeddings and everything that works in place."""

    COPIES = (torch.ops.aten.copy_, torch.ops.aten._to_copy)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in tensors if x.dim() or x.device.type != "cpu"}
        if len(devices) > 1 and func.overloadpacket not in self.COPIES:
            raise RuntimeError(f"{func} mixes devices: {sorted(devices)}")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def on_meta(folder, monkeypatch):
    """Loads the models on the meta device. What needs numbers (the finite checks, the way back to
    the CPU) is left out; latent statistics meet the result only there, so they move too."""
    for module in (checks, denoise_run):
        monkeypatch.setattr(module, "check", lambda where, x, weights: None)
    monkeypatch.setattr(vae_model, "is_finite", lambda x: True)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: self)

    def load(dtype: torch.dtype):
        bundle = load_all(folder, LoadOptions(dtype, "meta"))
        bundle.model.latent_mean = bundle.model.latent_mean.to("meta")
        bundle.model.latent_std = bundle.model.latent_std.to("meta")
        return bundle

    with OneDevice():
        yield load


@pytest.fixture(params=[None, 24], ids=["VAE whole", "VAE in rows"])
def rows(request, monkeypatch):
    monkeypatch.setattr(VAEModel, "_plan", lambda *_, **__: (request.param, "as the test says"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_text_to_image_on_the_meta_device(on_meta, dtype, rows):
    width, height = SIZE
    bundle = on_meta(dtype)
    out = text_to_image(bundle)
    assert {x.device.type for x in out.values()} == {"meta"}
    assert out["text"].dtype == dtype and out["latent"].dtype == torch.float32
    assert out["latent"].shape == (2, 16, 1, height // 8, width // 8)
    assert out["picture"].shape == (2, height, width, 3)
    back = bundle.vae.encode(torch.rand(2, height, width, 3))  # pictures come from the CPU
    assert back.device.type == "meta" and back.shape == out["latent"].shape


@pytest.mark.slow
@pytest.mark.parametrize("network", ["model", "text_encoder", "vae"])
def test_training_forward_on_the_meta_device(on_meta, network):
    """With gradients other branches run: nothing in place, no pieces."""
    width, height = SIZE
    part = getattr(on_meta(torch.float32), network)
    net = part.network.requires_grad_()
    if network == "text_encoder":
        result = net(torch.zeros(2, 9, dtype=torch.long, device="meta"))[0]
    elif network == "vae":
        mean, logvar = net.moments(torch.empty(2, 3, height, width, device="meta"))
        result = net.decode(mean + logvar)
    else:
        grid = token_grid(width, height)
        img = torch.empty(2, grid[1] * grid[2], 64, device="meta")
        txt = torch.empty(2, 9, net.config.joint, device="meta")
        result = net(Inputs(img, txt, part.modulation(torch.tensor([0.5])), [grid]))
    result.square().mean().backward()
    assert {p.grad.device.type for p in net.parameters()} == {"meta"}


@pytest.mark.slow
def test_full_width_on_the_meta_device():
    """Branches that only sizes reach: pieces of the MLP, fast convolutions, 83 x 83 tokens."""
    with torch.device("meta"):
        network, words, vae = MMDiT(MMDiTConfig(layers=2)), TextEncoder(TextConfig(layers=2)), VAE()
    d = network.config.width
    rows = {"linear_1": d, "linear_2": d, "norm_out": 2 * d, "img_mod": 6 * d, "txt_mod": 6 * d}

    def weight(key: str) -> torch.Tensor:
        out, wide = next(n for part, n in rows.items() if part in key), key.endswith("weight")
        return torch.empty((out, 256 if "linear_1" in key else d)[: 1 + wide], device="meta")

    with OneDevice(), torch.inference_mode():
        text = words(torch.zeros(1, 600, dtype=torch.long, device="meta"))
        table = modulation(weight, torch.empty(1, device="meta"), 2)
        start = torch.empty(1, 83 * 83, 64, device="meta")
        z = unpack(network(Inputs(start, text, table, [(1, 83, 83)])), 83, 83)
        assert z.shape == (1, 16, 166, 166)
        z = z[:, :, :10, :14]
        pixels = vae.decode(z)
        assert pixels.shape == decode_rows(vae, z, 32).shape == (1, 3, 80, 112)
        assert vae.moments(pixels)[0].shape == moments_rows(vae, pixels, 32)[0].shape == z.shape


def test_a_tensor_on_the_wrong_device_is_found(on_meta, monkeypatch):
    """The check checked: rotation tables that stay on the CPU, used in place."""
    bundle, right = on_meta(torch.float32), forward.joint_rope
    monkeypatch.setattr(forward, "joint_rope", lambda *args: right(*args[:4], "cpu", *args[5:]))
    with pytest.raises(RuntimeError, match="mixes devices: .'cpu', 'meta'"):
        text_to_image(bundle)


# --- types


def test_text_to_image_in_bfloat16(folder):
    exact, half = (
        text_to_image(load_all(folder, LoadOptions(t))) for t in (torch.float32, torch.bfloat16)
    )
    for stage, limit in {"text": 0.03, "latent": 0.03, "picture": 0.02}.items():
        assert torch.isfinite(half[stage]).all(), f"{stage} is not finite"
        error = measured(half[stage], exact[stage])
        print(f"bfloat16 against float32, {stage}: relative {error:.1e}")
        assert 0 < error < limit, f"{stage}: relative {error:.1e}, limit {limit}"
    assert half["latent"].dtype == half["picture"].dtype == torch.float32


@pytest.mark.slow
def test_vae_in_bfloat16(folder, rows):
    """On equal latents and pictures."""
    exact, half = (load_all(folder, LoadOptions(t)).vae for t in (torch.float32, torch.bfloat16))
    latent, picture = torch.randn(1, 16, 1, 10, 14), torch.rand(1, 80, 112, 3)
    for what, given in (("decode", latent), ("encode", picture)):
        error = measured(getattr(half, what)(given), getattr(exact, what)(given))
        print(f"bfloat16 against float32, VAE {what}: relative {error:.1e}")
        assert 0 < error < 0.03, f"{what}: relative {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_products_in_every_type(dtype):
    """Sizes that go to oneDNN or into pieces where this machine can: the same numbers."""
    x, w, b = torch.randn(3, 7, 1024), torch.randn(1024, 1024) / 32, torch.randn(1024)
    q, k, v = torch.randn(3, 1, 2, 1040, 32)
    limit = 1e-5 if dtype == torch.float32 else 0.02
    with torch.no_grad():
        want = {"linear": F.linear(x, w, b), "attention": F.scaled_dot_product_attention(q, k, v)}
        want["gelu"] = F.gelu(want["linear"], approximate="tanh")
        x, w, b, q, k, v = (t.to(dtype) for t in (x, w, b, q, k, v))
        got = {"linear": linear.product(x, w, b), "attention": attention(q, k, v)}
        got["gelu"] = linear.product(x, w, b, gelu=True)
    for name, wanted in want.items():
        error = measured(got[name], wanted)
        assert got[name].dtype == dtype and error < limit, f"{name}: relative {error:.1e}"


def test_onednn_without_bfloat16_is_not_asked_for_it(monkeypatch):
    """Processors without AVX512: float32 goes to oneDNN, bfloat16 would be refused there."""

    def refuses(x, weight, bias=None, gelu=False):
        if x.dtype != torch.float32:
            raise RuntimeError("could not create a primitive descriptor")
        return F.linear(x, weight, bias)

    linear.cpu_backend.cache_clear()
    monkeypatch.setattr(linear, "onednn_linear", refuses)
    monkeypatch.setattr(linear.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    try:
        assert linear.cpu_backend()[0] == "onednn"
        assert linear.cpu_backend(torch.bfloat16)[0] == "torch"
        x, w = (torch.ones(n, 1024, dtype=torch.bfloat16) for n in (2, 1024))
        with torch.no_grad():
            assert (linear.product(x, w) == 1024).all()
    finally:
        linear.cpu_backend.cache_clear()


def test_a_slice_is_rounded_once():
    """A row of a batch that was cut gives the bits of that row alone, in half types too."""
    x, w = torch.randn(3, 40, 96).bfloat16(), torch.randn(64, 96).bfloat16() / 10
    b = torch.randn(64).bfloat16()
    with torch.no_grad():
        cut, alone = linear.product(x[:, 5:], w, b)[1], linear.product(x[1, 5:].clone()[None], w, b)
    assert torch.equal(cut, alone[0]), f"{(cut - alone[0]).abs().max():.1e}"


# --- batches


@contextlib.contextmanager
def recorded_noise(monkeypatch):
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "noise", lambda *args: drawn.append(noise(*args)) or drawn[-1])
        yield drawn


@pytest.mark.slow
@pytest.mark.parametrize("cfg, dtype", [(1.0, "float32"), (4.0, "float32"), (4.0, "bfloat16")])
def test_three_at_once_are_three_singles(folder, cfg, dtype, tmp_path, monkeypatch):
    def drawn(name: str, seed: int, batch: int):
        call = DrawCall(
            PROMPT,
            out=tmp_path / f"{name}.png",
            model=folder,
            size=SIZE,
            steps=3,
            cfg=cfg,
            negative="blurry",
            seed=seed,
            batch=batch,
            dtype=dtype,
            save_latent=tmp_path / f"{name}.safetensors",
        )
        with recorded_noise(monkeypatch) as start:
            files = draw(call, lambda done, total: None)["files"]
        pictures = [np.asarray(Image.open(file)).astype(int) for file in files]
        return start[0], SafetensorsFile(call.save_latent).read("samples"), pictures

    start, latents, pictures = drawn("three", 11, 3)
    assert len(pictures) == 3
    for k in range(3):
        one_start, one_latent, (one,) = drawn(f"one{k}", 11 + k, 1)
        assert torch.equal(start[k : k + 1], one_start), f"noise of item {k}"
        error = measured(latents[k : k + 1], one_latent)
        if dtype == "float32":
            assert error < 1e-5, f"latents of item {k} differ by {error:.1e} relative"
        worst = np.abs(pictures[k] - one).max()
        print(f"item {k}, cfg {cfg}, {dtype}: latents {error:.1e} relative, pixels {worst}/255")
        assert worst <= 1, f"picture {k} differs by {worst}/255"
    assert np.abs(pictures[0] - pictures[1]).max() > 1, "all items are one picture"
