"""Memory of Qwen3-VL: what a plan counts against the bytes that torch allocates, to the byte."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from inkstone.kernels.attention import attention
from inkstone.kernels.configs import DeepVisionConfig, TextConfig
from inkstone.kernels.kv_cache import KeyValues
from inkstone.kernels.text_encoder import TextEncoder
from inkstone.kernels.vision_deep import DeepVisionTower
from inkstone.loaders.models.text_encoder import TextEncoderModel

from ..support.allocated import allocated
from ..support.oracle import measured

TEXT = TextConfig(2, 256, 2, 1, 128, 768, 1000, bias=False, qk_norm=True, interleaved=True)
VISION = DeepVisionConfig(4, 576, 8, 2152, out=512, places=64, taps=(0, 1, 2))
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [200, 2500])
def test_a_prompt(dtype, tokens):
    """Long ones keep no scores: they would be the square of the prompt."""
    network = TextEncoder(TEXT).to(dtype).eval()
    ids = torch.randint(0, 1000, (1, tokens + 14))
    with torch.inference_mode():
        cache = KeyValues(TEXT.layers)
        network(ids[:, :14], [cache])
        used = allocated(lambda: network(ids[:, 14:], [cache]))
    kept = 2 * 2 * TEXT.layers * 128 * tokens * dtype.itemsize  # keys and values, and a copy
    model = SimpleNamespace(network=network, adapters=(), device=CPU, dtype=dtype)
    planned = TextEncoderModel.working_bytes(model, tokens)
    assert used - kept <= planned, f"{used - kept} bytes, planned {planned}"
    assert tokens < 1024 or planned < 1.5 * used, f"{used} bytes, planned {planned}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_picture(dtype):
    tower = DeepVisionTower(VISION).to(dtype).eval()
    patches = torch.randn(48 * 40, 768)
    used = patches.nbytes + allocated(lambda: tower.levels(patches, (48, 40)))
    planned = tower.activation_bytes(len(patches), dtype)
    assert used <= planned < 1.5 * used, f"{used} bytes, planned {planned}"


@pytest.mark.parametrize("head", [1, 14, 64])
def test_a_long_prompt_behind_a_kept_head(head, monkeypatch):
    """Without a mask the numbers of one."""
    from inkstone.kernels import attention as module

    torch.manual_seed(2)
    q, k, v = (torch.randn(1, h, n, 32) for h, n in ((4, 1100), (2, 1100 + head), (2, 1100 + head)))
    taken, square = [], module._with_head
    monkeypatch.setattr(module, "_with_head", lambda *qkv: taken.append(1) or square(*qkv))
    with torch.inference_mode():
        got = attention(q, k, v, causal=True)
        assert taken == [1], "it went with a mask"
        monkeypatch.setattr(module, "_AFTER_HEAD", 1 << 30)
        want = attention(q, k, v, causal=True)
    assert got.shape == want.shape and not torch.equal(got, want * 0)
    error = measured(got, want)
    assert error < 1e-6, f"relative error {error:.2e}"
