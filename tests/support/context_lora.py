"""An in-context LoRA with random weights, and what it does restated on diffusers' transformer."""

from __future__ import annotations

import contextlib

import torch

from inkstone.loaders.formats.safetensors import save_safetensors

from .edits import raw

TARGETS = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_out.0",
    "attn.to_add_out",
    "img_mlp.net.2",
    "img_mod.1",
    "txt_mlp.net.2",
    "txt_mod.1",
)


RANK = 4


def lora_file(path, modules, layers, targets=TARGETS, prefix=""):
    """{module: (A, B)} of a random LoRA in the published spelling, as a file."""
    pairs, state = {}, {}
    for i in range(layers):
        for target in targets:
            name = f"transformer_blocks.{i}.{target}"
            out, into = modules[name]
            a, b = torch.randn(RANK, into) * into**-0.5, torch.randn(out, RANK) * 0.3
            pairs[name] = a, b
            state[f"{prefix}{name}.lora_A.default.weight"] = a
            state[f"{prefix}{name}.lora_B.default.weight"] = b
    save_safetensors(path, state, {})
    return pairs


def shapes_of(network) -> dict:
    return {
        n: tuple(m.weight.shape)
        for n, m in network.named_modules()
        if isinstance(m, torch.nn.Linear)
    }


@contextlib.contextmanager
def beside(pipe, maps):
    """Within it the transformer sees maps [1,S,64] behind its tokens, at frames 1, 2, ..."""

    def before(module, args, call):
        x, shapes = call["hidden_states"], call["img_shapes"]
        call["hidden_states"] = torch.cat([x, *(m.expand(len(x), -1, -1) for m in maps)], dim=1)
        call["img_shapes"] = [[*one, *one * len(maps)] for one in shapes]
        return args, call

    def behind(module, args, call, out):
        return (out[0][:, : call["hidden_states"].shape[1] // (1 + len(maps))],)

    handles = [
        pipe.transformer.register_forward_pre_hook(before, with_kwargs=True),
        pipe.transformer.register_forward_hook(behind, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def reference(pipe, prompt, run, size):
    generators = [torch.Generator().manual_seed(5 + k) for k in range(run["batch"])]
    with torch.no_grad():
        packed = pipe(
            prompt=prompt,
            negative_prompt="blurry",
            true_cfg_scale=run["cfg"],
            num_inference_steps=run["steps"],
            num_images_per_prompt=run["batch"],
            width=size[0],
            height=size[1],
            generator=generators,
            output_type="latent",
        ).images
    return raw(pipe, packed, size)
