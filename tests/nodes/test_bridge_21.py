"""Qwen-Image-2.1 on core's sockets: CLIP and VAE as core's Text Encode Qwen Image 2.1 calls them,
what its cache node asks for. The MODEL in a real ComfyUI is in test_bridge.py.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from inkstone.loaders.arch.family import EDIT_21, QWEN_IMAGE_21
from inkstone.loaders.models.load import load_text_encoder, load_vae
from inkstone.nodes.bridge.clip_vae import CoreCLIP, CoreVAE, head_tokens
from inkstone.nodes.bridge.network import _keep, _shared
from inkstone.sampling.request import placed

from ..loaders.test_vae_21_files import single_file
from ..support.oracle import measured, relative
from ..support.vision import image, save_encoder
from ..support.vision_deep import random_qwen3


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return CoreCLIP(load_text_encoder(save_encoder(random_qwen3(), tmp_path_factory.mktemp("q3"))))


def are_apart(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape != b.shape or relative(a, b) > 1e-3


def test_pictures_leave_their_places(clip):
    """Core's node hands over pictures and no template; its model reads `image_slots`."""
    pictures = [image(*size, seed=n)[1] for n, size in enumerate([(96, 64), (64, 64)])]
    want = clip.inkstone.encode_edit("swap them", pictures, EDIT_21)
    tokens = clip.tokenize("swap them", images=[p[None] for p in pictures], prevent_empty_text=True)
    ((states, options),) = clip.encode_from_tokens_scheduled(tokens)
    assert torch.equal(states, want.states.float())
    assert options["image_slots"] == list(want.slots) and len(want.slots) == 2
    made = clip.encode_from_tokens(tokens, return_dict=True)
    assert made["image_slots"] == options["image_slots"] and torch.equal(made["cond"], states)
    plain = clip.encode_from_tokens_scheduled(clip.tokenize("swap them"))[0]
    assert "image_slots" not in plain[1] and are_apart(plain[0], states)


def test_without_a_vae_the_rows_of_pictures_stay(clip):
    picture = image(96, 64)[1]
    kept = clip.tokenize("blue", images=[picture[None]], keep_vision=True)
    ((states, options),) = clip.encode_from_tokens_scheduled(kept)
    placed = clip.tokenize("blue", images=[picture[None]])
    ((text, places),) = clip.encode_from_tokens_scheduled(placed)
    (slot,) = places["image_slots"]
    assert "image_slots" not in options
    assert states.shape[1] == text.shape[1] + 96 * 64 // 32**2
    error = measured(torch.cat([states[:, :slot], states[:, slot + 6 :]], 1), text)
    assert error < 1e-6, f"the text around the picture differs by {error:.2e}"


def test_the_system_turn_is_cut_and_the_users_header_kept(clip):
    tokenizer = clip.inkstone.tokenizer
    head = QWEN_IMAGE_21.template.partition("<|im_start|>user")[0]
    count = head_tokens(tokenizer, QWEN_IMAGE_21.template.format("x"), False)
    assert tokenizer.decode(tokenizer.encode(QWEN_IMAGE_21.template)[:count]) == head
    encoder = replace(clip.inkstone, family=replace(QWEN_IMAGE_21, drop=count))
    ours = CoreCLIP(encoder)
    error = measured(ours.encode(QWEN_IMAGE_21.template.format("a cat")), ours.encode("a cat"))
    assert error < 1e-6, f"a text with its template differs by {error:.2e}"


def test_vae_latents_have_no_frames(tmp_path):
    vae = CoreVAE(load_vae(single_file(tmp_path / "vae.safetensors", torch.float32)))
    pixels = torch.rand(2, 50, 67, 4, generator=torch.Generator().manual_seed(1))
    latent = vae.encode(pixels)
    assert latent.shape == (2, 64, 2, 4) and vae.latent_dim == 2, "sides are multiples of 32"
    middle = pixels[1:, 9:41, 1:65]
    assert torch.equal(latent[1:], vae.inkstone.encode(middle)[:, :, 0]), "cut in the middle"
    opaque = vae.encode(pixels[..., :3])
    assert are_apart(opaque, latent), "alpha is read"
    pictures = vae.decode(latent)
    assert pictures.shape == (2, 32, 64, 4) and vae.output_channels == 4
    assert torch.equal(vae.decode_tiled(latent[:, :, None])[:, 0], pictures)
    assert vae.spacial_compression_encode() == vae.downscale_ratio == 16


@pytest.mark.parametrize(
    "device, place", [("auto", "auto"), ("gpu", "device"), ("cpu", "host"), ("off", "off")]
)
def test_cores_cache_node_says_where_the_prompt_is_kept(device, place, caplog):
    caplog.set_level(logging.INFO)
    assert _keep({"device": device, "dtype": "default"}) == place and not caplog.text
    assert _keep({"device": device, "dtype": "int4"}) == place
    assert "asks for int4: keys and values are kept exactly" in caplog.text
    assert _keep({}) == "auto"


def test_references_that_a_prompt_does_not_place_come_behind_it():
    assert placed((3, 5), 3, 9) == (3, 5, 9) and placed((3, 5), 1, 9) == (3,)
    assert placed((), 0, 9) == ()


def test_one_prompt_of_a_batch_is_read_once():
    rows = torch.randn(1, 3, 4).repeat(2, 1, 1)
    assert _shared(rows).stride(0) == 0 and torch.equal(_shared(rows), rows)
    other = torch.randn(2, 3, 4)
    assert _shared(other) is other
