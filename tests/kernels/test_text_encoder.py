"""The language model against transformers' Qwen2.5-VL, float32, random weights everywhere."""

from dataclasses import replace

import pytest
import torch

from inkstone.kernels.configs import TextConfig
from inkstone.kernels.kv_cache import KeyValues
from inkstone.kernels.text_encoder import TextEncoder

from ..support.oracle import fill, measured

CONFIGS = {
    "two layers": TextConfig(2, 32, 2, 1, 16, 64, 300),
    "three layers, grouped 4:2": TextConfig(3, 64, 4, 2, 16, 96, 500),
    "five layers, grouped 6:2": TextConfig(5, 192, 6, 2, 32, 128, 400),
}


def pair(c: TextConfig):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    section = [c.head_dim // 8, c.head_dim * 3 // 16, c.head_dim * 3 // 16]
    text = dict(
        hidden_size=c.width,
        intermediate_size=c.ff,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim,
        vocab_size=c.vocab,
        rms_norm_eps=c.eps,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters=dict(rope_type="default", rope_theta=c.theta, mrope_section=section),
    )
    vision = dict(
        depth=1,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=c.width,
        fullatt_block_indexes=[0],
    )
    ref = fill(
        Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    )
    ours = TextEncoder(c)
    prefix = "model.language_model."
    state = {k.removeprefix(prefix): v for k, v in ref.state_dict().items() if k.startswith(prefix)}
    ours.load_state_dict(state)
    return ref, ours.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states(name):
    config = CONFIGS[name]
    ref, ours = pair(config)
    ids = torch.randint(0, config.vocab, (2, 19))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    with torch.no_grad():
        want = ref(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        got = ours(ids)
    for row, length in ((0, 19), (1, 12)):
        error = measured(got[row, :length], want[row, :length])
        assert error < 1e-5, f"row {row}: relative error {error:.2e}"


def test_prefix_once():
    """A cached prefix gives the numbers of the whole sequence."""
    ours = fill(TextEncoder(CONFIGS["three layers, grouped 4:2"]))
    ids = torch.randint(0, 500, (1, 40))
    with torch.no_grad():
        whole = ours(ids)
        cache = KeyValues(3)
        ours(ids[:, :34], [cache])
        tail = ours(ids[:, 34:], [cache.head(34)])
    error = measured(tail, whole[:, 34:])
    assert error < 1e-5, f"relative error {error:.2e}"


def test_layers_that_only_answer():
    """Encoding runs the layers of the condition alone, and caches them alone; answering all."""
    config = replace(CONFIGS["five layers, grouped 6:2"], condition_layers=2)
    ours = fill(TextEncoder(config))
    below, whole = (TextEncoder(replace(config, layers=n, condition_layers=None)) for n in (2, 5))
    for other in (below, whole):
        other.load_state_dict(ours.state_dict(), strict=False)
    ids = torch.randint(0, config.vocab, (1, 21))
    with torch.no_grad():
        assert torch.equal(ours(ids), below(ids)), "other states than without answering layers"
        assert torch.equal(ours(ids, answering=True), whole(ids))
        cache = KeyValues(config.encoding_layers)
        ours(ids, [cache])
    assert cache.length == 21
