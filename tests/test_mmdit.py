"""The MMDiT against diffusers' class, float32, random weights everywhere."""

import pytest
import torch

from inkstone.kernels.mmdit import MMDiT, MMDiTConfig
from inkstone.kernels.modulation import modulation

from .oracle import fill, relative

CONFIGS = {
    "even": MMDiTConfig(2, 2, 16, 64, 32, 128, (4, 6, 6)),
    "five layers": MMDiTConfig(5, 3, 32, 64, 48, 384, (8, 12, 12)),
    "wide heads": MMDiTConfig(3, 1, 128, 64, 64, 512, (16, 56, 56)),
}


def pair(config: MMDiTConfig):
    from diffusers import QwenImageTransformer2DModel

    ref = fill(
        QwenImageTransformer2DModel(
            num_layers=config.layers,
            attention_head_dim=config.head_dim,
            num_attention_heads=config.heads,
            joint_attention_dim=config.joint,
            axes_dims_rope=config.axes,
        )
    )
    ours = MMDiT(config)
    state = ref.state_dict()
    missing, _ = ours.load_state_dict(state, strict=False)
    assert not missing, missing
    return ref, ours.eval(), state


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("grid", [(5, 7), (26, 38), (4, 4)])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_forward(name, batch, grid, grad):
    config = CONFIGS[name]
    ref, ours, state = pair(config)
    h, w = grid
    img, txt = torch.randn(batch, h * w, 64), torch.randn(batch, 11, config.joint)
    sigma = torch.rand(1).expand(batch)
    with torch.no_grad():
        want = ref(
            img, encoder_hidden_states=txt, timestep=sigma, img_shapes=[[(1, h, w)]] * batch
        ).sample
    with torch.set_grad_enabled(grad):
        mod = modulation(state.__getitem__, sigma[:1], config.layers)
        got = ours(img.clone(), txt, mod, [(1, h, w)])
    error = relative(got, want)
    assert error < 1e-5, f"relative error {error:.2e}"


def test_references_and_padding_mask():
    config = CONFIGS["five layers"]
    ref, ours, state = pair(config)
    grids = [(1, 5, 6), (1, 7, 9), (1, 3, 2)]
    tokens = [h * w for _, h, w in grids]
    img, txt = torch.randn(2, sum(tokens), 64), torch.randn(2, 9, config.joint)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    sigma = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        want = ref(
            img,
            encoder_hidden_states=txt,
            encoder_hidden_states_mask=mask,
            timestep=sigma,
            img_shapes=[grids] * 2,
        ).sample[:, : tokens[0]]
        got = ours(img, txt, modulation(state.__getitem__, sigma, config.layers), grids, mask)
    error = relative(got, want)
    assert error < 1e-5, f"relative error {error:.2e}"
