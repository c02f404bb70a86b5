"""Blockwise (DiffSynth) and Fun (VideoX-Fun) controls against a plain restatement on diffusers'
transformer: final latents within 1e-4 relative at float32, with CFG, in parts of the steps, in
batches, several kinds at once.
"""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image

from inkstone.controlnet.canvas import canvas_of
from inkstone.controlnet.control_picture import ControlInput, Effect
from inkstone.errors import InkstoneError
from inkstone.files.images import read_picture
from inkstone.headless.draw.control_option import ControlOption
from inkstone.headless.draw.decide import decide
from inkstone.headless.draw.models import CallModels
from inkstone.headless.draw.request import DrawCall
from inkstone.loaders.arch.identify import identify
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.edit import repaint_for
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas

from ..support import tiny
from ..support.control_kinds import Acting, acting, kept, packed, random_control, saved, tokens
from ..support.controls import mask_of
from ..support.oracle import measured, relative
from ..support.vision import image
from .test_control_pipelines import LIMIT, compare, ours, theirs

SHAPE = "five layers, one wide head"  # Fun with two blocks: behind blocks 0, 2, and not 4
KINDS = {"canny": 5, "inpaint": 5, "fun": 2}  # kind -> layers


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(plain pipeline, bundle of the same weights, {kind: (restatement, our branch)})."""
    torch.manual_seed(6)
    root = tmp_path_factory.mktemp("kinds")
    plain = tiny.pipeline(SHAPE)
    bundle = load_all(tiny.save(plain, root / "model"), LoadOptions(torch.float32))
    nets = {}
    for kind, layers in KINDS.items():
        net = random_control(kind, SHAPE, layers)
        path = saved(net, root / f"{kind}.safetensors", "diffusion_model." * (kind == "fun"))
        nets[kind] = net, load_control(path)
    branch = nets["fun"][1].network
    assert branch.config.axes == bundle.model.network.config.axes
    return plain, bundle, nets


def condition(plain, kind: str, pixels, mask, source=None):
    """The inputs of a control of a kind, by the published rules."""
    if kind == "canny":
        return tokens(plain, pixels)
    if kind == "inpaint":
        return torch.cat([tokens(plain, pixels * (mask < 0.5)[..., None]), kept(mask)], -1)
    rest = torch.zeros(1, pixels.shape[1] * pixels.shape[2] // 256, 68)
    if source is not None:
        grey = (source * 2 - 1) * (mask < 0.5)[..., None]  # 0 in -1..1
        rest = torch.cat([kept(mask), tokens(plain, grey / 2 + 0.5)], -1)
    return torch.cat([tokens(plain, pixels), rest], -1)


RUNS = [  # size, strength, start, end, steps, cfg, batch
    ((80, 48), 1.0, 0.0, 1.0, 2, 4.0, 1),
    ((48, 64), 0.7, 0.25, 0.75, 4, 4.0, 2),
    ((32, 32), 0.4, 0.0, 0.5, 3, 1.0, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize("size, strength, start, end, steps, cfg, batch", RUNS)
@pytest.mark.parametrize("kind", ["canny", "inpaint", "fun", "fun with a picture"])
def test_one_control(world, kind, size, strength, start, end, steps, cfg, batch):
    plain, bundle, nets = world
    net, model = nets[kind.split()[0]]
    pixels, source = image(*size, seed=3)[1][None], None
    mask = None if kind in ("canny", "fun") else mask_of(*size)
    if kind == "fun with a picture":
        source = image(*size, seed=8)[1][None]
    run = dict(steps=steps, cfg=cfg, batch=batch)
    shown = condition(plain, kind.split()[0], pixels, mask, source)
    with acting(plain, [Acting(net, shown, strength, start, end)], run):
        want = theirs(plain, {}, run, size)
    effect = Effect(strength, start, end)
    control = ControlInput(model, bundle.vae, pixels, effect, mask, source)
    compare(ours(bundle, [control], size, run), want, ours(bundle, [], size, run))


@pytest.mark.slow
def test_several_kinds_at_once(world):
    """All see the same stream, so their order does not matter: what they add is a sum."""
    plain, bundle, nets = world
    size, run = (64, 48), dict(steps=3, cfg=4.0, batch=2)
    mask = mask_of(*size)
    asked = [
        ("canny", Effect(0.8, 0.0, 0.7)),
        ("fun", Effect(0.5)),
        ("inpaint", Effect(-0.3)),
        ("canny", Effect(0.4, 0.3, 1.0)),
    ]
    references, controls = [], []
    for seed, (kind, e) in enumerate(asked):
        net, model = nets[kind]
        pixels, own = image(*size, seed=seed)[1][None], mask if kind == "inpaint" else None
        shown = condition(plain, kind, pixels, own)
        references.append(Acting(net, shown, e.strength, e.start, e.end))
        controls.append(ControlInput(model, bundle.vae, pixels, e, own))
    with acting(plain, references, run):
        want = theirs(plain, {}, run, size)
    got = ours(bundle, controls, size, run)
    compare(got, want, ours(bundle, [], size, run))
    turned = relative(ours(bundle, controls[::-1], size, run), got)
    assert turned < 1e-5, f"in another order {turned:.1e}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_singles_and_strength_0_is_nothing(world, kind):
    plain, bundle, nets = world
    _, model = nets[kind]
    size, text = (48, 32), bundle.text_encoder.encode("a star").states
    pixels = torch.cat([image(*size, seed=n)[1][None] for n in (1, 2)])
    mask = mask_of(*size) if kind == "inpaint" else None

    def drawn(pictures, strength, seed, batch):
        made = (
            ()
            if pictures is None
            else (
                ControlInput(model, bundle.vae, pictures, Effect(strength), mask).on(
                    canvas_of(*size)
                ),
            )
        )
        table = sigmas(LINEAR, 2, 6)
        request = Request(*size, table, seed=seed, batch=batch, controls=made)
        return denoise(bundle.model, text, None, request)

    both = drawn(pixels, 1.0, 4, 2)
    for k in (0, 1):
        alone = drawn(pixels[k : k + 1], 1.0, 4 + k, 1)
        assert relative(both[k : k + 1], alone) < 1e-6
    assert torch.equal(drawn(pixels, 0.0, 4, 2), drawn(None, 0, 4, 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["canny", "fun"])
def test_a_region_keeps_the_rest_of_the_first_block_as_it_is(world, kind):
    """A patch or a sample counts by token: with a region of nothing it adds nothing."""
    plain, bundle, nets = world
    size, text = (48, 32), bundle.text_encoder.encode("a star").states
    pixels, table = image(*size, seed=1)[1][None], sigmas(LINEAR, 1, 6)

    def drawn(mask):
        made = ControlInput(nets[kind][1], bundle.vae, pixels, Effect(), mask)
        request = Request(*size, table, seed=4, controls=(made.on(canvas_of(*size)),))
        return denoise(bundle.model, text, None, request)

    whole, half = drawn(None), drawn(mask_of(*size))
    plainly = denoise(bundle.model, text, None, Request(*size, table, seed=4))
    assert torch.equal(drawn(torch.zeros(1, 32, 48)), plainly)
    assert torch.equal(drawn(torch.ones(1, 32, 48)), whole)
    assert relative(half, whole) > LIMIT < relative(half, plainly)


@pytest.mark.slow
def test_fun_follows_the_model_that_it_controls(world, tmp_path):
    """Its table is made of the model's time embedding: one control, two models, a LoRA there."""
    plain, bundle, nets = world
    size, text = (48, 32), bundle.text_encoder.encode("a star").states
    pixels, table = image(*size, seed=1)[1][None], sigmas(LINEAR, 2, 6)
    names = [f"time_text_embed.timestep_embedder.linear_{i}" for i in (1, 2)]
    g, lora, other = torch.Generator().manual_seed(3), {}, copy.deepcopy(plain)
    for name in names:
        linear = other.transformer.get_submodule(name)
        out, into = linear.weight.shape
        a, b = (torch.randn(shape, generator=g) * 0.3 for shape in ((2, into), (out, 2)))
        linear.weight.data += b @ a
        lora |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    save_safetensors(tmp_path / "lora.safetensors", lora, {})
    moved = load_all(tiny.save(other, tmp_path / "other"), LoadOptions(torch.float32)).model
    dressed = bundle.model.with_loras([Adapter(load_lora(tmp_path / "lora.safetensors"))])
    one = nets["fun"][1]

    def drawn(model, branch):
        control = ControlInput(branch, bundle.vae, pixels).on(canvas_of(*size))
        return denoise(model, text, None, Request(*size, table, seed=4, controls=(control,)))

    first = drawn(bundle.model, one)
    want = drawn(moved, load_control(one.path))
    assert relative(want, first) > 100 * LIMIT
    assert torch.equal(drawn(moved, one), want), "a table of another model was taken"
    error = measured(drawn(dressed, one), want)
    assert error < LIMIT, f"with a LoRA on the time embedding {error:.1e}"
    assert torch.equal(drawn(bundle.model, one), first)


def test_a_call_that_repaints_shows_fun_the_picture(world, tmp_path):
    """--image, --mask and a map: the picture and the mask reach Fun, a canny patch only its map."""
    plain, bundle, nets = world
    size, mask = (64, 48), mask_of(64, 48)
    picture, pixels = (image(*size, seed=n)[1][None] for n in (1, 2))
    repaint = repaint_for(bundle.model.family, picture, mask, (0, 0), ("auto", "off"))
    for name, values in (("picture", picture), ("map", pixels), ("mask", mask[..., None])):
        array = (values[0].squeeze(-1) * 255).round().byte().numpy()
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    picture, pixels = (read_picture(tmp_path / name) for name in ("picture.png", "map.png"))
    call = DrawCall(
        "x",
        image=[tmp_path / "picture.png"],
        mask=tmp_path / "mask.png",
        control=[ControlOption("map", tmp_path / "map.png")],
    )
    placed = {}
    for kind in ("fun", "canny"):
        drawing = decide(call, CallModels(bundle, (nets[kind][1],)))
        gets = drawing.controls[0]
        source, shown = (picture if gets.source else None), (mask if gets.mask else None)
        given = ControlInput(nets[kind][1], bundle.vae, pixels, Effect(), shown, source)
        placed[kind] = given.on(canvas_of(*size, repaint.crop))
    want = ControlInput(nets["fun"][1], bundle.vae, pixels, Effect(), mask, picture)
    want, got = want.on(canvas_of(*size)), placed["fun"]
    for name in ("latent", "keep_mask", "source"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    alone = placed["canny"]
    assert (alone.keep_mask, alone.source, alone.where) == (None, None, None)


def test_mask_channels_are_the_last_four_features():
    channels = torch.arange(17.0).view(1, 17, 1, 1).expand(1, 17, 4, 4)
    assert packed(channels)[0, 0].view(17, 4)[:, 0].tolist() == list(range(17))
    assert torch.equal(packed(channels)[..., 64:], torch.full((1, 4, 4), 16.0))


def test_files_are_identified_by_content(world, tmp_path):
    plain, bundle, nets = world
    for kind, variant in (
        ("canny", "blockwise"),
        ("inpaint", "blockwise inpainting"),
        ("fun", "fun union"),
    ):
        facts = identify(nets[kind][1].path)
        assert (facts.role, facts.variant, facts.problem) == ("controlnet", variant, "")
        assert facts.layers == KINDS[kind]


@pytest.mark.parametrize("kind, words", [("canny", "patch 3"), ("fun", "a sample")])
def test_numbers_that_are_none_name_their_control(world, tmp_path, kind, words):
    _, bundle, nets = world
    net, size = copy.deepcopy(nets[kind][0]), (48, 32)
    model = load_control(saved(net, tmp_path / "broken.safetensors"))
    if kind == "canny":
        broken = [each.controlnet_blocks[3].output_proj for each in (net, model.network)]
    else:
        broken = [net.control_blocks[1].after_proj, model.network.controlnet_blocks[1]]
    for layer in broken:
        layer.bias.data[5] = torch.nan
    with pytest.raises(InkstoneError, match=r"\.bias: 1 of \d+ values are not finite"):
        load_control(saved(net, tmp_path / "file.safetensors"))
    control = ControlInput(model, bundle.vae, image(*size, seed=1)[1][None], Effect(1, 0.5, 1))
    text = bundle.text_encoder.encode("a star").states
    request = Request(*size, sigmas(LINEAR, 4, 6), controls=(control.on(canvas_of(*size)),))
    with pytest.raises(InkstoneError, match=f"control broken.safetensors, {words}: .*not finite"):
        denoise(bundle.model, text, None, request)


def test_a_control_for_another_model_is_refused(world, tmp_path):
    _, bundle, nets = world
    size = (32, 32)
    pixels = image(*size, seed=1)[1][None]
    text, table = bundle.text_encoder.encode("a star").states, sigmas(LINEAR, 1, 4)
    for kind, layers, words in (
        ("canny", 4, "blocks 4 where the model has 5"),
        ("fun", 2, "width 96 where the model has 64"),
    ):
        shape = SHAPE if kind == "canny" else "odd layers, three heads"
        model = load_control(
            saved(random_control(kind, shape, layers), tmp_path / f"{kind}.safetensors")
        )
        control = ControlInput(model, bundle.vae, pixels).on(canvas_of(*size))
        with pytest.raises(InkstoneError, match=words):
            denoise(bundle.model, text, None, Request(*size, table, controls=(control,)))
    with pytest.raises(InkstoneError, match="got no mask"):
        ControlInput(nets["inpaint"][1], bundle.vae, pixels).on(canvas_of(*size))
    with pytest.raises(InkstoneError, match="only Fun Union does"):
        ControlInput(nets["canny"][1], bundle.vae, pixels, source=pixels).on(canvas_of(*size))
    with pytest.raises(InkstoneError, match="got no mask"):
        ControlInput(nets["fun"][1], bundle.vae, pixels, source=pixels).on(canvas_of(*size))
