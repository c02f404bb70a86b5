"""The in-context control: a LoRA and a map next to the picture, against diffusers' transformer with
the LoRA merged into its weights and the map's tokens behind the noisy ones.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging

import pytest
import torch
from PIL import Image

from inkstone.controlnet.canvas import canvas_of
from inkstone.controlnet.control_picture import ControlInput, Effect
from inkstone.controlnet.in_context import (
    PREFIX,
    InContext,
    InContextModel,
    apply_in_context_loras,
    load_any_control,
    with_prefix,
)
from inkstone.errors import InkstoneError
from inkstone.files.png import read_text_chunks
from inkstone.headless.cli.main import main
from inkstone.loaders.arch.identify import identify
from inkstone.loaders.arch.variant import VARIANTS
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.control import ControlModel
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.text_encoder import TextEncoderModel
from inkstone.loaders.models.weight_file import AS_FOUND, LoadOptions
from inkstone.nodes.control import ApplyControlNet
from inkstone.nodes.encode import EncodePrompt
from inkstone.nodes.sample import Denoise
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas

from ..support import tiny
from ..support.context_lora import TARGETS, beside, lora_file, reference, shapes_of
from ..support.control_kinds import Acting, acting, random_control, saved, tokens
from ..support.controls import embedded_control
from ..support.oracle import measured, relative
from ..support.vision import image
from .test_control_pipelines import LIMIT

SHAPE = "odd layers, three heads"
STRENGTH = 0.7


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(plain pipeline, one with the LoRA merged, bundle, our control)."""
    torch.manual_seed(8)
    root = tmp_path_factory.mktemp("context")
    plain = tiny.pipeline(SHAPE)
    bundle = load_all(tiny.save(plain, root / "model"), LoadOptions(torch.float32))
    layers = tiny.SHAPES[SHAPE]["layers"]
    found = lora_file(root / "union.safetensors", shapes_of(plain.transformer), layers)
    merged = copy.deepcopy(plain)
    with torch.no_grad():
        for name, (a, b) in found.items():
            merged.transformer.get_submodule(name).weight += STRENGTH * b @ a
    return plain, merged, bundle, load_any_control(root / "union.safetensors", AS_FOUND)


def ours(bundle, controls, size, run, prompt):
    placed = [c.on(canvas_of(*size)) for c in controls]
    model, branches, context = apply_in_context_loras(bundle.model, placed)
    texts = [bundle.text_encoder.encode(t).states for t in (prompt, "blurry")]
    table = sigmas(model.schedule, run["steps"], size[0] // 16 * (size[1] // 16))
    request = Request(
        *size, table, seed=5, batch=run["batch"], cfg=run["cfg"], controls=branches, context=context
    )
    return denoise(model, texts[0], texts[1] if run["cfg"] > 1 else None, request)


@pytest.mark.slow
@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize("size, cfg, batch", [((80, 48), 4.0, 1), ((32, 48), 1.0, 2)])
def test_against_a_merged_lora_and_tokens_behind(world, maps, size, cfg, batch):
    plain, merged, bundle, model = world
    run, prompt = dict(steps=2, cfg=cfg, batch=batch), PREFIX + "a red circle"
    pictures = [image(*size, seed=n)[1][None] for n in range(maps)]
    with beside(merged, [tokens(plain, p) for p in pictures]):
        want = reference(merged, prompt, run, size)
    controls = [ControlInput(model, bundle.vae, p, Effect(STRENGTH)) for p in pictures]
    got = ours(bundle, controls, size, run, prompt)
    error, effect = measured(got, want), relative(got, ours(bundle, [], size, run, prompt))
    assert error < LIMIT < effect, f"{error:.1e} relative, moved by {effect:.1e}"


@pytest.mark.slow
def test_a_batch_with_a_map_for_each_is_its_singles(world):
    """Beside a second map that is one for all."""
    _, _, bundle, model = world
    size, text = (48, 32), bundle.text_encoder.encode(PREFIX + "a star").states
    pixels = torch.cat([image(*size, seed=n)[1][None] for n in (1, 2, 3)])

    def drawn(maps, seed, batch):
        placed = [ControlInput(model, bundle.vae, p).on(canvas_of(*size)) for p in maps]
        dressed, _, context = apply_in_context_loras(bundle.model, placed)
        request = Request(*size, sigmas(LINEAR, 2, 6), seed=seed, batch=batch, context=context)
        return denoise(dressed, text, None, request)

    both = drawn([pixels[:2], pixels[2:]], 4, 2)
    for k in (0, 1):
        alone = drawn([pixels[k : k + 1], pixels[2:]], 4 + k, 1)
        error = measured(both[k : k + 1], alone)
        assert error < 1e-6, f"picture {k} of the batch: {error:.1e}"


def test_together_with_another_control(world, tmp_path):
    """With a blockwise control in the same run: what it adds reaches only the drawn tokens."""
    plain, merged, bundle, model = world
    size, run, prompt = (48, 32), dict(steps=2, cfg=4.0, batch=1), PREFIX + "a star"
    net = random_control("canny", SHAPE, 3)
    branch = load_any_control(saved(net, tmp_path / "canny.safetensors"), AS_FOUND)
    assert isinstance(branch, ControlModel) and isinstance(model, InContextModel)
    pixels = image(*size, seed=1)[1][None]
    seen = tokens(plain, pixels)
    # behind the drawn tokens a patch adds nothing: its picture ends there
    net.img_in = _Longer(net.img_in, seen.shape[1])
    mended = [_OnlyFirst(p, seen.shape[1]) for p in net.controlnet_blocks]
    net.controlnet_blocks = torch.nn.ModuleList(mended)
    with beside(merged, [seen]), acting(merged, [Acting(net, seen, 0.6)], run):
        want = reference(merged, prompt, run, size)
    controls = [
        ControlInput(model, bundle.vae, pixels, Effect(STRENGTH)),
        ControlInput(branch, bundle.vae, pixels, Effect(0.6)),
    ]
    error = measured(ours(bundle, controls, size, run, prompt), want)
    assert error < LIMIT, f"{error:.1e} relative"


class _Longer(torch.nn.Module):
    def __init__(self, inner, count):
        super().__init__()
        self.inner, self.count = inner, count

    def forward(self, x):
        return torch.cat([self.inner(x), self.inner(x) * 0], dim=1)


class _OnlyFirst(torch.nn.Module):
    def __init__(self, inner, count):
        super().__init__()
        self.inner, self.count = inner, count

    def forward(self, x, y):
        out = self.inner(x, y)
        out[:, self.count :] = 0
        return out


def test_strength_0_is_no_control_and_a_loaded_lora_counts_once(world, caplog):
    _, _, bundle, model = world
    size, run = (32, 32), dict(steps=1, cfg=1.0, batch=1)
    pixels = image(*size, seed=1)[1][None]
    off = ControlInput(model, bundle.vae, pixels, Effect(0.0))
    plainly = ours(bundle, [], size, run, "a star")
    assert torch.equal(ours(bundle, [off], size, run, "a star"), plainly)
    on = ControlInput(model, bundle.vae, pixels, Effect(0.5)).on(canvas_of(*size))
    worn = bundle.model.with_loras([Adapter(model.lora, 0.9)])
    with caplog.at_level(logging.INFO):
        dressed, branches, context = apply_in_context_loras(worn, [on])
    assert dressed is worn and not branches and len(context) == 1
    assert "is on the model already" in caplog.text
    other = InContext(model, on.latent, 0.4)
    with pytest.raises(InkstoneError, match="strengths 0.4 and 0.5"):
        apply_in_context_loras(bundle.model, [on, other])


def test_what_it_does_not_take_is_refused(world):
    _, _, bundle, model = world
    size, pixels = (32, 32), image(32, 32, seed=1)[1][None]
    canvas, text = canvas_of(*size), bundle.text_encoder.encode("a star").states

    def on(effect=None, mask=None, picture=pixels):
        return ControlInput(model, bundle.vae, picture, effect or Effect(), mask).on(canvas)

    with pytest.raises(InkstoneError, match="acts in all steps: start 0.2"):
        on(Effect(1.0, 0.2, 1.0))
    with pytest.raises(InkstoneError, match="takes its map and no mask"):
        on(mask=torch.ones(1, 32, 32))
    table = sigmas(LINEAR, 1, 4)
    dressed, _, context = apply_in_context_loras(
        bundle.model, [on(picture=pixels.expand(2, -1, -1, -1))]
    )
    for batch, words in ((1, "expected 1. Pass"), (3, "expected 1 or 3")):
        with pytest.raises(InkstoneError, match=f"holds 2 maps for a batch of {batch}: {words}"):
            denoise(dressed, text, None, Request(*size, table, batch=batch, context=context))
    dressed, _, context = apply_in_context_loras(bundle.model, [on()])
    with pytest.raises(InkstoneError, match="32x32, the canvas 48x32"):
        denoise(dressed, text, None, Request(48, 32, sigmas(LINEAR, 1, 6), context=context))
    edits = dataclasses.replace(dressed, variant=VARIANTS["edit-2511"])
    with pytest.raises(InkstoneError, match="edit-2511: in-context controls were trained for Qwen"):
        denoise(edits, text, None, Request(*size, table, context=context))


def test_inspect_says_what_such_a_file_may_be(tmp_path):
    """By the published modules and rank; nothing proves it, so another rank says nothing."""
    for rank, words in ((64, "perhaps the in-context control"), (32, "")):
        state = {}
        for target in TARGETS:
            for part, shape in (("A", (rank, 8)), ("B", (8, rank))):
                name = f"transformer_blocks.0.{target}.lora_{part}.default.weight"
                state[name] = torch.zeros(shape)
        save_safetensors(tmp_path / "lora.safetensors", state, {})
        facts = identify(tmp_path / "lora.safetensors")
        assert (facts.role, facts.variant, facts.problem) == ("lora", words, "")
        assert words in facts.sentence


def test_another_lora_is_not_taken_for_it(tmp_path):
    shapes = shapes_of(load_all(None).model.network)
    shapes |= {
        f"transformer_blocks.{i}.{s}_mod.1": (768, 128) for i in range(6) for s in ("img", "txt")
    }
    path = tmp_path / "style.safetensors"
    lora_file(path, shapes, 6, ("attn.to_q", "img_mlp.net.2"))
    with pytest.raises(InkstoneError, match="does not reach the modulation.*Load LoRA"):
        load_any_control(path, AS_FOUND)
    for prefix in ("transformer.", "diffusion_model."):
        lora_file(path, shapes, 5, TARGETS, prefix)
        assert len(load_lora(path).model) == 60
        assert isinstance(load_any_control(path, AS_FOUND), InContextModel)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An in-context LoRA for the embedded model drawn without edits, and models that take it."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("small") / "union.safetensors"
    models = load_all(None)
    shapes = shapes_of(models.model.network)
    shapes |= {
        f"transformer_blocks.{i}.{s}_mod.1": (768, 128) for i in range(6) for s in ("img", "txt")
    }
    lora_file(path, shapes, 5)
    plain = dataclasses.replace(models.model, variant=VARIANTS["qwen-image"])
    return path, dataclasses.replace(models, model=plain)


def test_nodes(small):
    path, models = small
    control = load_any_control(path, AS_FOUND)
    pixels = image(64, 48, seed=2)[1][None]
    latent = {"samples": torch.zeros(1, 16, 1, 6, 8)}
    wrong, _ = EncodePrompt.execute(models.text_encoder, "a red circle", " ").result
    with pytest.raises(InkstoneError, match='begin with "Context_Control. "'):
        ApplyControlNet.execute(wrong, control, models.vae, pixels, 0.5, 0.0, 1.0)
    right, _ = EncodePrompt.execute(models.text_encoder, PREFIX + "a red circle", " ").result
    held = ApplyControlNet.execute(right, control, models.vae, pixels, 0.5, 0.0, 1.0).result
    table = sigmas(LINEAR, 1, 12)
    got = Denoise.execute(
        models.model, held[0], sigmas=table, latent=latent, seed=3, cfg=1.0
    ).result[0]["samples"]
    on = ControlInput(control, models.vae, pixels, Effect(0.5)).on(canvas_of(64, 48))
    model, _, context = apply_in_context_loras(models.model, [on])
    text = models.text_encoder.encode(PREFIX + "a red circle").states
    want = denoise(model, text, None, Request(64, 48, table, seed=3, context=context))
    assert torch.equal(got, want)


@pytest.mark.slow
def test_the_command_line_puts_the_prefix_in_front(world, tmp_path, monkeypatch, capsys):
    plain, _, _, model = world
    monkeypatch.chdir(tmp_path)
    tiny.save(plain, tmp_path / "model")
    _, pixels = image(48, 32, seed=2)
    Image.fromarray((pixels * 255).byte().numpy()).save("map.png")
    call = [
        "draw",
        "a star",
        "--model",
        "model",
        "--control",
        "map:map.png:0.7",
        "--control-model",
        str(model.path),
        "--steps",
        "1",
        "--cfg",
        "1",
        "-o",
        "out.png",
        "--save-latent",
        "out.safetensors",
    ]
    encoded, encode = [], TextEncoderModel.encode
    monkeypatch.setattr(
        TextEncoderModel, "encode", lambda self, text: encoded.append(text) or encode(self, text)
    )
    assert main(call) == 0 and encoded == [PREFIX + "a star"]
    said = json.loads(read_text_chunks("out.png")["inkstone"])
    assert said["controls"][0]["control"].startswith("map:map.png:0.7")
    assert with_prefix(PREFIX + "a star") == PREFIX + "a star"
    assert main([*call[:5], "map:map.png:0.7:0-0.5", *call[6:]]) != 0
    assert "acts in all steps" in capsys.readouterr().err


def test_controls_of_another_kind_stay_what_they_are(tmp_path):
    path = embedded_control(tmp_path / "union.safetensors", 2)
    assert isinstance(load_any_control(path, AS_FOUND), ControlModel)
