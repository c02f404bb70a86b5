"""InstantX controls against diffusers' pipelines on the same weights, noise and pictures, float32.

Final latents within 1e-4 relative: one control, several, in a part of the steps, with CFG, in
batches; and the branch alone, sample by sample.
"""

from __future__ import annotations

import pytest
import torch

from inkstone.controlnet.canvas import canvas_of
from inkstone.controlnet.control_picture import ControlInput, Effect
from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.control_instantx import ControlBranch, ControlInputs
from inkstone.kernels.modulation import modulation
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas

from ..support import tiny
from ..support.controls import branch, mask_of, means, pipeline, saved
from ..support.edits import raw
from ..support.oracle import library, measured, relative
from ..support.vision import image

reference = library("diffusers.models.controlnets.controlnet_qwenimage")

PROMPT, NEGATIVE = "a red circle on a white wall", "blurry"
LIMIT = 1e-4
SHAPE = "odd layers, three heads"  # 3 blocks and 2 samples: two blocks share one


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(plain pipeline, bundle of the same weights, {kind: (reference branch, ours)})."""
    torch.manual_seed(5)
    root = tmp_path_factory.mktemp("controls")
    plain = tiny.pipeline(SHAPE)
    bundle = load_all(tiny.save(plain, root / "model"), LoadOptions(torch.float32))
    nets = {}
    for kind, layers in (("union", 2), ("inpainting", 3)):
        net = branch(SHAPE, layers, kind)
        nets[kind] = net, load_control(saved(net, root / kind))
    return plain, bundle, nets


def ours(bundle, controls, size, run) -> torch.Tensor:
    canvas = canvas_of(*size)
    texts = [bundle.text_encoder.encode(t).states for t in (PROMPT, NEGATIVE)]
    if run["cfg"] <= 1:
        texts[1] = None
    levels = sigmas(bundle.model.schedule, run["steps"], size[0] // 16 * (size[1] // 16))
    request = Request(
        *size,
        levels,
        seed=5,
        batch=run["batch"],
        cfg=run["cfg"],
        controls=tuple(c.on(canvas) for c in controls),
    )
    return denoise(bundle.model, *texts, request)


def theirs(pipe, call: dict, run: dict, size) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(5 + k) for k in range(run["batch"])]
    with torch.no_grad(), means():
        packed = pipe(
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            true_cfg_scale=run["cfg"],
            num_inference_steps=run["steps"],
            num_images_per_prompt=run["batch"],
            width=size[0],
            height=size[1],
            generator=generators,
            output_type="latent",
            **call,
        ).images
    return raw(pipe, packed, size)


def compare(got: torch.Tensor, want: torch.Tensor, plain: torch.Tensor) -> None:
    error, effect = measured(got, want), relative(got, plain)
    print(f"latents {error:.1e} relative, the control moves them by {effect:.2f}")
    assert error < LIMIT, f"latents differ by {error:.2e} relative"
    assert effect > 100 * LIMIT, f"the control moves the latents by {effect:.1e} only"


RUNS = [  # size, strength, start, end, steps, cfg, batch
    ((80, 48), 1.0, 0.0, 1.0, 2, 4.0, 1),
    ((48, 64), 0.7, 0.25, 0.75, 4, 4.0, 2),
    ((32, 32), 0.4, 0.0, 0.5, 3, 1.0, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize("size, strength, start, end, steps, cfg, batch", RUNS)
@pytest.mark.parametrize("kind", ["union", "inpainting"])
def test_one_control(world, kind, size, strength, start, end, steps, cfg, batch):
    plain, bundle, nets = world
    net, model = nets[kind]
    picture, pixels = image(*size, seed=3)
    run = dict(steps=steps, cfg=cfg, batch=batch)
    call = dict(
        control_image=picture,
        controlnet_conditioning_scale=strength,
        control_guidance_start=start,
        control_guidance_end=end,
    )
    mask = mask_of(*size) if kind == "inpainting" else None
    if mask is not None:
        call["control_mask"] = mask[None]
        call["control_image"] = pixels.permute(2, 0, 1)[None] * 2 - 1
    want = theirs(pipeline(plain, net, kind), call, run, size)
    control = ControlInput(model, bundle.vae, pixels[None], Effect(strength, start, end), mask)
    compare(ours(bundle, [control], size, run), want, ours(bundle, [], size, run))


@pytest.mark.slow
def test_several_pictures_for_one_net(world):
    """The reference's multi control: one net, once per picture, each with its strength and steps"""
    plain, bundle, nets = world
    net, model = nets["union"]
    size, run = (64, 48), dict(steps=3, cfg=4.0, batch=2)
    pictures = [image(*size, seed=n) for n in (3, 4, 9)]
    effects = [Effect(0.8, 0.0, 0.6), Effect(0.5, 0.0, 1.0), Effect(-0.3, 0.4, 1.0)]
    pipe = pipeline(plain, reference.QwenImageMultiControlNetModel([net]), "union")
    call = dict(
        control_image=[p for p, _ in pictures],
        controlnet_conditioning_scale=[e.strength for e in effects],
        control_guidance_start=[e.start for e in effects],
        control_guidance_end=[e.end for e in effects],
    )
    want = theirs(pipe, call, run, size)
    controls = [
        ControlInput(model, bundle.vae, pixels[None], effect)
        for (_, pixels), effect in zip(pictures, effects)
    ]
    compare(ours(bundle, controls, size, run), want, ours(bundle, [], size, run))


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize("grid", [(5, 7), (4, 4), (1, 3)])
def test_the_branch_sample_by_sample(extra, grid):
    """Odd grids, a batch with two pictures, a sigma between steps; gradients on and off."""
    torch.manual_seed(2)
    c = tiny.SHAPES["five layers, one wide head"]
    net = branch("five layers, one wide head", 3, "inpainting" if extra else "union")
    config = MMDiTConfig(3, c["heads"], c["head_dim"], 64, c["text"][0], 4 * 64, c["axes"])
    mine, state = ControlBranch(config, 64 + extra), net.state_dict()
    mine.load_state_dict({k: state[k] for k in mine.state_dict()})
    tokens, sigma = grid[0] * grid[1], torch.tensor([0.37])
    x, seen = torch.randn(2, tokens, 64), torch.randn(2, tokens, 64 + extra)
    text = torch.randn(2, 9, c["text"][0])
    with torch.no_grad():
        want = net(x, seen, 1.0, text, None, sigma.expand(2), [[(1, *grid)]] * 2, return_dict=False)
    table = modulation(state.__getitem__, sigma, 3, final=False)
    assert table.out.numel() == 0
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            got = mine(ControlInputs(x.clone(), seen, text, table, (1, *grid)))
        for number, (a, b) in enumerate(zip(got, want, strict=True)):
            worst = (a - b).abs().max().item()
            assert worst < 2e-5, f"sample {number}, gradients {grad}: {worst:.1e}"
