"""The MMDiT against diffusers' class, float32, random weights everywhere."""

import pytest
import torch

from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.forward import Inputs
from inkstone.kernels.mmdit import MMDiT
from inkstone.kernels.modulation import modulation
from inkstone.kernels.references import ReferenceContext, References

from ..support.oracle import fill, measured

CONFIGS = {
    "even": MMDiTConfig(2, 2, 16, 64, 32, 128, (4, 6, 6)),
    "five layers": MMDiTConfig(5, 3, 32, 64, 48, 384, (8, 12, 12)),
    "wide heads": MMDiTConfig(3, 1, 128, 64, 64, 512, (16, 56, 56)),
}


def pair(config: MMDiTConfig, **options: bool):
    from diffusers import QwenImageTransformer2DModel

    ref = fill(
        QwenImageTransformer2DModel(
            num_layers=config.layers,
            attention_head_dim=config.head_dim,
            num_attention_heads=config.heads,
            joint_attention_dim=config.joint,
            axes_dims_rope=config.axes,
            **options,
        )
    )
    ours = MMDiT(config)
    state = ref.state_dict()
    missing, _ = ours.load_state_dict(state, strict=False)
    assert not missing, missing
    return ref, ours.eval(), state


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("grid", [(5, 7), pytest.param((26, 38), marks=pytest.mark.slow), (4, 4)])
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
        got = ours(Inputs(img.clone(), txt, mod, [(1, h, w)]))
    error = measured(got, want)
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
        mod = modulation(state.__getitem__, sigma, config.layers)
        references = ReferenceContext(References(img[:, tokens[0] :]))
        got = ours(Inputs(img[:, : tokens[0]], txt, mod, grids, mask, references))
    error = measured(got, want)
    assert error < 1e-5, f"relative error {error:.2e}"


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("references", [1, 3])
def test_references_with_a_time_of_their_own(references, grad):
    """Edit-2511 (zero_cond_t), two steps and two texts with one object of references: what is kept
    of the first forward serves the others."""
    config = CONFIGS["five layers"]
    ref, ours, state = pair(config, zero_cond_t=True)
    grids = [(1, 5, 6), (1, 7, 9), (1, 3, 2), (1, 4, 4)][: references + 1]
    tokens = [h * w for _, h, w in grids]
    clean = References(torch.randn(1, sum(tokens[1:]), 64), fixed=True)
    for sigma, length in ((0.9, 9), (0.9, 4), (0.2, 9)):
        img, txt = torch.randn(2, tokens[0], 64), torch.randn(2, length, config.joint)
        whole = torch.cat([img, clean.tokens.expand(2, -1, -1)], dim=1)
        times = torch.tensor([sigma, 0.0])
        with torch.no_grad():
            call = dict(timestep=torch.full((2,), sigma), img_shapes=[grids] * 2)
            want = ref(whole, encoder_hidden_states=txt, **call).sample[:, : tokens[0]]
        with torch.set_grad_enabled(grad):
            mod = modulation(state.__getitem__, times, config.layers).with_references()
            got = ours(Inputs(img, txt, mod, grids, references=ReferenceContext(clean)))
        error = measured(got, want)
        assert error < 1e-5, f"sigma {sigma}, {length} text tokens: relative error {error:.2e}"


@pytest.mark.parametrize("layers", [2, 9])
def test_layers(layers):
    """The layered variant: all generated pictures, the condition at frame -1, its own embedding."""
    config = CONFIGS["five layers"]
    ref, ours, state = pair(config, use_additional_t_cond=True, use_layer3d_rope=True)
    grids = [(1, 5, 6)] * layers + [(1, 5, 6)]
    img, clean = torch.randn(1, 30 * layers, 64), torch.randn(1, 30, 64)
    txt, sigma = torch.randn(1, 7, config.joint), torch.tensor([0.4])
    with torch.no_grad():
        want = ref(
            torch.cat([img, clean], dim=1),
            encoder_hidden_states=txt,
            timestep=sigma,
            img_shapes=[grids],
            additional_t_cond=torch.tensor([0]),
        ).sample[:, : 30 * layers]
        mod = modulation(state.__getitem__, sigma, config.layers, addition=0)
        references = ReferenceContext(References(clean), layers)
        got = ours(Inputs(img, txt, mod, grids, references=references))
    error = measured(got, want)
    assert error < 1e-5, f"relative error {error:.2e}"
