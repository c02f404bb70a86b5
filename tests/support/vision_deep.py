"""A tiny Qwen3-VL of transformers with random weights, and our towers and language models of it."""

from __future__ import annotations

import torch

from inkstone.kernels.configs import DeepVisionConfig, TextConfig
from inkstone.kernels.text_encoder import TextEncoder
from inkstone.kernels.vision_deep import DeepVisionTower

from . import tiny
from .oracle import fill, library

transformers = library("transformers")

PAD = 261  # <|image_pad|> of the toy tokenizer
VISION = DeepVisionConfig(
    depth=4, width=32, heads=2, ff=48, out=32, places=64, taps=(0, 1, 3)
)  # 3 patches of 16 x 16 pixels for each of 8 x 8 places
TEXT = TextConfig(
    layers=4,
    width=32,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ff=64,
    vocab=300,
    theta=5e6,
    sections=(4, 2, 2),
    bias=False,
    qk_norm=True,
    interleaved=True,
    final_norm=False,
)


def their_config(text: TextConfig = TEXT, vision: DeepVisionConfig = VISION):
    """The same numbers as transformers calls them."""
    return transformers.Qwen3VLConfig(
        image_token_id=PAD,
        vision_start_token_id=259,
        vision_end_token_id=260,
        tie_word_embeddings=False,
        text_config=dict(
            hidden_size=text.width,
            intermediate_size=text.ff,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.kv_heads,
            head_dim=text.head_dim,
            vocab_size=text.vocab,
            rms_norm_eps=text.eps,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            rope_parameters=dict(
                rope_type="default",
                rope_theta=text.theta,
                mrope_section=list(text.axes),
                mrope_interleaved=True,
            ),
        ),
        vision_config=dict(
            depth=vision.depth,
            hidden_size=vision.width,
            intermediate_size=vision.ff,
            num_heads=vision.heads,
            patch_size=vision.patch,
            out_hidden_size=vision.out,
            deepstack_visual_indexes=list(vision.taps),
            num_position_embeddings=vision.places,
        ),
    )


def random_qwen3(text: TextConfig = TEXT, vision: DeepVisionConfig = VISION):
    """A tiny Qwen3-VL of transformers with random weights."""
    torch.manual_seed(7)
    return fill(transformers.Qwen3VLForConditionalGeneration(their_config(text, vision)))


def ours_of(model, text: TextConfig = TEXT, vision: DeepVisionConfig = VISION):
    """Our language model and tower with the weights of theirs."""
    words, tower = TextEncoder(text), DeepVisionTower(vision)
    words.load_state_dict(model.model.language_model.state_dict())
    tower.load_state_dict(model.model.visual.state_dict())
    return words.eval(), tower.eval()


def unnormed(model, **call):
    """States before the final norm, as diffusers' pipeline gets them, with token types."""
    norm = model.model.language_model.norm
    handle = norm.register_forward_hook(lambda module, args, output: args[0])
    types = (call["input_ids"] == PAD).int()
    try:
        with torch.no_grad():
            out = model(mm_token_type_ids=types, output_hidden_states=True, **call)
    finally:
        handle.remove()
    return out.hidden_states[-1]


def processor3(least: int = 65536):
    """Their processor of pictures with the numbers of Qwen3-VL-8B-Instruct. least: pixels."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        min_pixels=least,
        max_pixels=16777216,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


class Processor3:
    """Their processor, without torchvision; its head has as many tokens as the toy vocabulary makes
    of it, which the pipeline asks for."""

    def __init__(self) -> None:
        self.tokenizer, self.images = tiny.tokenizer(), processor3(least=1024)

    def apply_chat_template(self, messages, tokenize, return_dict):
        head = f"<|im_start|>system\n{messages[0]['content'][0]['text']}<|im_end|>\n"
        return [self.tokenizer(head)["input_ids"]]

    def __call__(self, text, padding, padding_side, return_tensors, images=None):
        seen = dict(self.images(images=images, return_tensors="pt")) if images else {}
        counts = iter((seen["image_grid_thw"].prod(1) // 4).tolist() if images else [])
        pad, full = "<|image_pad|>", []
        for one in text:
            first, *parts = one.split(pad)
            full.append(first + "".join(pad * next(counts) + part for part in parts))
        words = self.tokenizer(
            full, padding=True, padding_side=padding_side, return_tensors=return_tensors
        )
        types = (words["input_ids"] == PAD).int()
        rest = {"attention_mask": words["attention_mask"], "mm_token_type_ids": types}
        return transformers.BatchFeature({"input_ids": words["input_ids"], **rest, **seen})


def pipeline_21(model):
    """diffusers' pipeline with this text encoder alone."""
    return library("diffusers").QwenImage21Pipeline(
        scheduler=None, vae=None, text_encoder=model, processor=Processor3(), transformer=None
    )


def encode_21(pipe, prompt, images):
    """Its (states, mask, places of pictures)."""
    with torch.no_grad():
        return pipe.encode_prompt(prompt, image=images, device="cpu")
