"""Our models on core's sockets. Without ComfyUI: VAE and CLIP as core nodes call them, what is
refused. With one (INKSTONE_COMFYUI_SOURCE): samplers, LoRAs, guidance against core's own network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.modulation import modulation
from inkstone.loaders.arch.family import EDIT, EDIT_HEAD, EDIT_PLUS, PICTURE
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import load_all, load_text_encoder
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.nodes.bridge.clip_vae import CoreCLIP, head_tokens
from inkstone.nodes.bridge.core_loras import adapter_of
from inkstone.nodes.bridge.core_patches import block_patches, core_control, refuse_regions
from inkstone.nodes.bridge.network import _picked
from inkstone.nodes.bridge.nodes import ToCLIP, ToModel, ToVAE
from inkstone.nodes.conditioning import REGIONS

from ..kernels.test_mmdit import CONFIGS, pair
from ..support import models_21, tiny
from ..support.comfy_install import (
    default_cache,
    given_source,
    prepare_python,
    prepare_stubs,
    prepare_tree,
)
from ..support.edits import build
from ..support.oracle import relative

LIMIT = 1e-4


@pytest.fixture(scope="module")
def models():
    return load_all(None, LoadOptions(torch.float32))


def test_vae_as_core_calls_it(models):
    vae = ToVAE.execute(models.vae).result[0]
    pixels = torch.rand(2, 50, 67, 3, generator=torch.Generator().manual_seed(1))
    latent = vae.encode(pixels)
    assert latent.shape == (2, 16, 1, 6, 8), "pictures are no film"
    middle = pixels[1:, 1:49, 1:65]
    assert torch.equal(latent[1:], models.vae.encode(middle)), "cut in the middle"
    assert torch.equal(vae.encode_tiled(pixels, tile_x=32, tile_y=32, overlap=8), latent)
    flat, film = vae.decode(latent[:, :, 0]), vae.decode(latent)
    assert flat.shape == (2, 48, 64, 3) and film.shape == (2, 1, 48, 64, 3)
    assert torch.equal(film[:, 0], flat) and torch.equal(flat[:1], models.vae.decode(latent[:1]))
    assert torch.equal(vae.decode_tiled(latent, tile_x=64), film)
    frames = vae.decode(torch.cat([latent[:1], latent[1:]], dim=2))
    assert frames.shape == (1, 2, 48, 64, 3) and torch.equal(frames[0], flat)


def test_clip_as_core_calls_it(models):
    clip = ToCLIP.execute(models.text_encoder).result[0]
    made = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"), add_dict={"x": 1})
    want = models.text_encoder.encode("a red circle").states.float()
    assert torch.equal(made[0][0], want) and made[0][1]["x"] == 1
    assert made[0][1]["pooled_output"] is None
    assert torch.equal(clip.clone().encode("a red circle"), want)

    states, pooled = clip.encode_from_tokens(clip.tokenize("a red circle"), return_pooled=True)
    assert torch.equal(states, want) and pooled is None
    assert clip.add_patches({}) == []
    with pytest.raises(InkstoneError, match="2 changes of the text encoder.*Inkstone Load LoRA"):
        clip.add_patches({"a": 1, "b": 2})


@pytest.mark.slow
def test_clip_knows_cores_edit_nodes(tmp_path):
    """Words and pictures as TextEncodeQwenImageEdit and ...EditPlus hand them over: their text is
    encoded as it stands, behind the head that core cuts.
    """
    torch.manual_seed(5)
    encoder = load_text_encoder(tiny.save(tiny.pipeline("heads as published"), tmp_path))
    clip, image = CoreCLIP(encoder), torch.rand(1, 56, 84, 4)

    def states(text, **more):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text, **more))[0][0]

    rgb = image[0, ..., :3]
    # its tokenizer has bytes for tokens, so heads are longer than the published 34 and 64
    drop = head_tokens(encoder.tokenizer, EDIT.template.format("x"))
    assert encoder.tokenizer.decode(encoder.tokenizer.encode(EDIT.template)[:drop]) == EDIT_HEAD
    assert torch.equal(
        states("blue", images=[image]), encoder.encode_edit("blue", [rgb], EDIT).states
    )
    label, plus = "Picture {}: " + PICTURE, replace(EDIT_PLUS, drop=drop)
    text = label.format(1) + label.format(2) + "swap them"
    got = states(text, images=[image, image.flip(1)], llama_template=EDIT_PLUS.template)
    want = encoder.encode_edit("swap them", [rgb, rgb.flip(0)], plus).states
    assert torch.equal(got, want)
    only = states("swap them", llama_template=EDIT_PLUS.template)
    assert not torch.equal(only, states("swap them")), "the edit head, without a picture too"
    whole = states(EDIT_PLUS.template.format("swap them"))
    assert relative(whole, only) < 1e-6
    assert relative(states("a", llama_template="{}"), states("a")) > 0.1, "another pack's template"
    with pytest.raises(InkstoneError, match="marks the place of a picture"):
        states(PICTURE + PICTURE, images=[image], llama_template=EDIT_PLUS.template)


@pytest.mark.parametrize("template", [None, EDIT_PLUS.template])
@pytest.mark.parametrize("pictures", [0, 1])
def test_only_tags_that_are_not_escaped_are_named(tmp_path, caplog, template, pictures):
    torch.manual_seed(5)
    encoder = load_text_encoder(tiny.save(tiny.pipeline("heads as published"), tmp_path))
    clip, images = CoreCLIP(encoder), [torch.rand(1, 56, 84, 3)] * pictures
    for text, named in ((r"a cat \(big:1.3\)", False), (r"a (big:1.3) cat \(really\)", True)):
        caplog.clear()
        text = (PICTURE if pictures and template else "") + text
        clip.encode_from_tokens(clip.tokenize(text, images=images, llama_template=template))
        assert ("the prompt has (big:1.3), which" in caplog.text) == named, text


def test_clip_of_the_embedded_model_reads_words_alone(models):
    clip, image = CoreCLIP(models.text_encoder), torch.rand(1, 32, 48, 3)
    want = models.text_encoder.encode("make it blue").states
    for more in ({}, {"llama_template": EDIT_PLUS.template}):
        tokens = clip.tokenize("Picture 1: " + PICTURE + "make it blue", images=[image], **more)
        assert torch.equal(clip.encode_from_tokens(tokens), want.float())


def test_a_wrong_wire_and_no_comfyui_are_refused(models):
    for node, word in ((ToModel, "model"), (ToCLIP, "text_encoder"), (ToVAE, "vae")):
        with pytest.raises(InkstoneError, match=f"{word} got str"):
            node.execute("x")
    with pytest.raises(InkstoneError, match="Run this graph in ComfyUI"):
        ToModel.execute(models.model)


class LoRAAdapter:
    def __init__(self, *weights):
        self.weights = weights


class LoKrAdapter(LoRAAdapter):
    pass


def test_loras_of_core_become_branches(models):
    up, down = torch.randn(128, 4), torch.randn(4, 128)
    key = "diffusion_model.transformer_blocks.0.attn.to_q.weight"
    made = adapter_of({key: LoRAAdapter(up, down, 8.0, None, None, None)}, 0.5, 1.0)
    layer = made.lora.model["transformer_blocks.0.attn.to_q"]
    assert made.strength == 0.5 and relative(layer.change.delta.dense(), 2 * up @ down) < 1e-6
    assert models.model.with_loras([made]).adapters[0].adapter is made
    assert adapter_of({}, 1.0, 1.0) is None
    for patch in (
        LoKrAdapter(up, down, None, None, None, None, None, torch.ones(1)),
        LoRAAdapter(up, down, 1.0, torch.ones(128)),
        LoRAAdapter(up, down, 1.0, None, None, None, None),
        (torch.zeros(2),),
    ):
        with pytest.raises(InkstoneError, match="only LoRA, LoKr.*Inkstone Load LoRA"):
            adapter_of({key: patch}, 1.0, 1.0)
    with pytest.raises(InkstoneError, match="scales the weights of the model by 0.5"):
        adapter_of({key: LoRAAdapter(up, down, None)}, 1.0, 0.5)


def test_lokr_and_dora_of_core_become_branches():
    key = "diffusion_model.transformer_blocks.0.attn.to_q.weight"

    def change(patch):
        return adapter_of({key: patch}, 1.0, 1.0).lora.model["transformer_blocks.0.attn.to_q"]

    w1, a, b = torch.randn(4, 4), torch.randn(32, 2), torch.randn(2, 32)
    lokr = change(LoKrAdapter(w1, None, 1.0, None, None, a, b, None, None))
    assert relative(lokr.change.delta.dense(), torch.kron(w1, 0.5 * a @ b)) < 1e-6
    up, down, size = torch.randn(128, 4), torch.randn(4, 128), torch.rand(128, 1)
    dora = change(LoRAAdapter(up, down, None, None, size, None))
    assert dora.kind == "DoRA LoRA" and torch.equal(dora.change.magnitude, size)
    fused = key.replace("attn.to_q", "img_mlp.gate_up")
    layers = adapter_of({fused: LoRAAdapter(up, down, None)}, 1.0, 1.0).lora.model
    parts = [layers[f"transformer_blocks.0.img_mlp.{n}"] for n in ("gate_layer", "proj")]
    whole = torch.cat([part.change.delta.dense() for part in parts])
    assert relative(whole, up @ down) < 1e-6
    with pytest.raises(InkstoneError, match="LoRA of a core node.*ranks differ"):
        change(LoRAAdapter(up, torch.randn(5, 128), None))


def test_rows_of_a_batch_and_controls_of_core():
    config = CONFIGS["five layers"]
    _, _, state = pair(config)
    levels = torch.tensor([0.9, 0.5, 0.2])
    table = modulation(state.__getitem__, levels, config.layers)
    same, mixed = _picked(table, torch.tensor([1, 1])), _picked(table, torch.tensor([2, 0]))
    assert len(same.out) == 1 and torch.equal(same.img[0], table.img[0][1:2])
    assert torch.equal(mixed.txt[3], table.txt[3][[2, 0]])
    x = torch.zeros(1, 5, 8)
    (add,) = core_control({"input": [None, torch.ones(1, 3, 8)]})
    assert not add(0, 5, x).any() and add(1, 5, x)[:, :3].all() and not x[:, 3:].any()
    assert not add(4, 5, torch.zeros(1, 5, 8)).any() and core_control(None) == []
    with pytest.raises(InkstoneError, match="residuals for middle.*another model"):
        core_control({"input": [], "middle": [x]})
    assert block_patches({"patches": {}, "sample_sigmas": levels}, x) == []
    with pytest.raises(InkstoneError, match="patches_replace: dit"):
        block_patches({"patches_replace": {"dit": 1}}, x)
    with pytest.raises(InkstoneError, match="patches: attn1_patch, post_input"):
        block_patches({"patches": dict.fromkeys(("attn1_patch", "post_input", "double_block"))}, x)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The measurements of tests/support/bridge_parity.py inside a ComfyUI."""
    source = given_source()
    if source is None:
        pytest.skip("no ComfyUI: set INKSTONE_COMFYUI_SOURCE to a git directory or tree of it")
    cache, root = default_cache(), tmp_path_factory.mktemp("bridge")
    tree = prepare_tree(source, cache)
    python = prepare_python(tree, cache)
    stubs = prepare_stubs(python, cache)
    torch.manual_seed(4)
    plain = tiny.pipeline("heads as published")  # core knows no other
    tiny.save(plain, root / "qwen-image")
    models_21.save(models_21.pipeline(), root / "qwen-image-2.1")
    for kind in ("edit-2511", "layered"):
        build(kind, root / kind, "heads as published")
    state = {}
    for name, module in plain.transformer.named_modules():
        ours = name.startswith("transformer_blocks") and isinstance(module, torch.nn.Linear)
        if ours and any(part in name for part in ("to_q", "img_mod", "net.2")):
            down = torch.randn(4, module.in_features) * module.in_features**-0.5
            state[f"{name}.lora_A.weight"] = down
            state[f"{name}.lora_B.weight"] = torch.randn(module.out_features, 4) * 0.3
            state[f"{name}.alpha"] = torch.tensor(8.0)
    save_safetensors(root / "lora.safetensors", state, {})
    script = Path(__file__).resolve().parents[1] / "support" / "bridge_parity.py"
    done = subprocess.run(
        [str(python), str(script), str(tree), str(root), str(root / "lora.safetensors")],
        env=os.environ | {"PYTHONPATH": str(stubs)},
        capture_output=True,
        text=True,
        check=False,
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
    assert line, done.stderr[-3000:]
    print(line, file=sys.stderr)
    return json.loads(line[7:])


@pytest.mark.comfyui
@pytest.mark.parametrize(
    "name",
    [
        "euler/simple",
        "dpmpp_2m/beta",
        "heun/normal",
        "dpmpp_sde/simple",
        "euler_ancestral/simple",
        "batch of 2, cfg 1",
        "img2img with a mask",
        "one reference",
        "shift 3 and a post-CFG function",
        "LoRA of core's loader",
        "two of them",
        "without it again",
        "another reference in the negative",
        "a patch behind each block",
        "read when it runs",
        "after it left",
    ],
)
def test_core_samplers_draw_the_same_on_our_network(found, name):
    assert found[name] < LIMIT, f"latents differ by {found[name]:.2e} relative"


@pytest.mark.comfyui
def test_core_samplers_draw_a_2_1_as_ours(found):
    measured = {name: value for name, value in found.items() if name.startswith("2.1: ")}
    assert measured.pop("2.1: kept and computed again") == [True, True]
    assert measured.pop("2.1: heun against euler") > 100 * LIMIT, "another sampler"
    assert measured.pop("2.1: sigmas without ComfyUI") < 1e-6
    assert len(measured) == 9
    for name, value in measured.items():
        assert value < LIMIT, f"{name}: latents differ by {value:.2e} relative"


@pytest.mark.comfyui
@pytest.mark.parametrize("variant", ["edit-2511", "layered"])
def test_variants_place_their_references_as_core_does(found, variant):
    if variant not in found:
        pytest.skip("this ComfyUI's network has no option for it")
    for name in (variant, f"{variant}, 2 texts in one batch"):
        assert found[name] < LIMIT, f"{name}: latents differ by {found[name]:.2e} relative"
    if variant == "layered":
        assert found["odd layers"] == [1, 16, 3, 7, 9]
        assert "Empty Qwen Image Layered Latent" in found["one frame"]


@pytest.mark.comfyui
def test_cores_fun_control_works_with_our_network(found):
    if "core's Fun control" not in found:
        pytest.skip("this ComfyUI has no Fun control")
    difference = found["core's Fun control"]
    assert difference < LIMIT, f"latents differ by {difference:.2e} relative"


@pytest.mark.comfyui
def test_what_should_move_the_picture_does(found):
    moved = {name: value for name, value in found.items() if name.startswith("moved")}
    assert len(moved) >= 4 and min(moved.values()) > 100 * LIMIT, moved


@pytest.mark.comfyui
def test_core_nodes_on_our_vae_and_text_encoder(found):
    assert found["CLIPTextEncode"] == found["item 1"] == found["decoded"] == found["tiled"] == 0
    assert found["VAEEncode"] == [2, 16, 1, 6, 8] and found["VAEDecode"] == [2, 48, 64, 3]
    assert found["odd sides"] == [1, 16, 1, 7, 9]
    assert all("Inkstone keeps packed" in found[what] for what in ("merge", "hook"))
    assert found["tokens"] == found["templates"] == []
    assert found["inside"].startswith("Another node patches the inside of core's network")


@pytest.mark.comfyui
def test_the_host_knows_what_our_weights_take(found):
    assert found["held"] == [True]


def test_regions_are_refused_by_core_s_samplers_not_dropped():
    refuse_regions({"cross_attn": torch.zeros(1)})
    with pytest.raises(InkstoneError, match="core's samplers do not read"):
        refuse_regions({REGIONS: object()})
