"""A text encoder of the other family is refused before a prompt is encoded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from inkstone.errors import InkstoneError
from inkstone.loaders.arch.family import QWEN_IMAGE, QWEN_IMAGE_21
from inkstone.loaders.models.bundle import Bundle, check_latents, check_prompts
from inkstone.loaders.models.load import load_all

VAE_21 = SimpleNamespace(z=64, scale=16)


def of(family, width: int, name: str):
    """What the check reads of a model: both widths are this one."""
    network = SimpleNamespace(config=SimpleNamespace(joint=width, width=width))
    return SimpleNamespace(family=family, network=network, path=Path(name))


def test_both_directions_are_one_sentence():
    first, second = of(QWEN_IMAGE, 3584, "a.gguf"), of(QWEN_IMAGE_21, 4096, "b.gguf")
    for same in (first, second):
        check_prompts(same, same)
    words = (
        r"diffusion model b\.gguf reads prompts 4096 wide, and the text encoder a\.gguf writes "
        r"3584 \(Qwen2\.5-VL\)\. Load the text encoder of Qwen-Image-2\.1: Qwen3-VL-8B\.$"
    )
    with pytest.raises(InkstoneError, match=words):
        check_prompts(second, first)
    with pytest.raises(InkstoneError, match=r"4096 \(Qwen3-VL\)\. .* Qwen-Image: Qwen2\.5-VL-7B"):
        check_prompts(first, second)


def test_models_of_a_drawing_are_checked_together():
    bundle = load_all()
    other = of(QWEN_IMAGE_21, 4096, "b.gguf")
    with pytest.raises(InkstoneError, match="writes 4096"):
        Bundle(bundle.model, other, bundle.vae)
    words = "128 (of the embedded model). Load the text encoder of Qwen-Image-2.1: Qwen3-VL-8B."
    with pytest.raises(InkstoneError, match=re.escape(words)):
        check_prompts(other, bundle.text_encoder)
    with pytest.raises(InkstoneError, match=r"Load the text encoder of the embedded model\.$"):
        check_prompts(bundle.model, other)
    vae = SimpleNamespace(
        family=QWEN_IMAGE_21, path=Path("v"), network=SimpleNamespace(config=VAE_21)
    )
    words = "(of Qwen-Image-2.1). Load the VAE of the embedded model."
    with pytest.raises(InkstoneError, match=re.escape(words)):
        check_latents(bundle.model, vae)
    assert replace(bundle, text_encoder=None).vae is bundle.vae
