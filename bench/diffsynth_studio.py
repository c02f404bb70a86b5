"""DiffSynth-Studio's own program for diffsynth_parity.py, and random weights for both sides.

Packages that it imports and inference does not need are mocked where they are missing.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch import expected_tensors

UNUSED = (
    "torchvision",
    "imageio",
    "imageio.v3",
    "modelscope",
    "peft",
    "accelerate",
    "pandas",
    "torchaudio",
    "librosa",
    "swanlab",
    "wandb",
    "deepspeed",
    "lpips",
)
RANK = 64
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
State = dict[str, Tensor]


def studio(source: Path) -> SimpleNamespace:
    """The parts of a checkout that are used."""
    if not (source / "diffsynth").is_dir():
        raise SystemExit(f"{source} holds no folder diffsynth: give --source a checkout of it.")
    import transformers.modeling_utils  # noqa: F401  before the stand-ins: it asks what is there

    sys.path.insert(0, str(source))
    torch.compile = lambda function, **_: function  # it asks for compiled attention at import
    absent = [n for n in UNUSED if importlib.util.find_spec(n.partition(".")[0]) is None]
    for name in absent:
        spec = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = mock.MagicMock(name=name, __spec__=spec, __path__=[])
    from diffsynth.diffusion.base_pipeline import ControlNetInput
    from diffsynth.models import qwen_image_dit
    from diffsynth.models.qwen_image_controlnet import QwenImageBlockWiseControlNet
    from diffsynth.pipelines import qwen_image as pipeline

    return SimpleNamespace(
        input=ControlNetInput,
        net=QwenImageBlockWiseControlNet,
        network=qwen_image_dit.QwenImageDiT,
        together=pipeline.QwenImageBlockwiseMultiControlNet,
        velocity=pipeline.model_fn_qwen_image,
        activation=qwen_image_dit.ApproximateGELU,
    )


def tanh_gelu(layer: Any, x: Tensor) -> Tensor:
    """The form that diffusers has."""
    return F.gelu(layer.proj(x), approximate="tanh")


def random_state(shapes: expected_tensors.Layout, seed: int) -> State:
    """Every tensor non-trivial: norms near 1, vectors small, matrices by fan-in. Noise is drawn
    once and repeated, from another place in each tensor: drawing all of it takes minutes.
    """
    drawn = torch.randn(1 << 22, generator=torch.Generator().manual_seed(seed))
    state = {}
    for number, (name, shape) in enumerate(shapes.items(), 1):
        flat, count = len(shape) == 1, torch.Size(shape).numel()
        noise_ = drawn.roll(number * 7919).repeat(-(-count // len(drawn)))[:count].view(shape)
        near_one = flat and name.endswith("weight")
        state[name] = noise_ * (0.1 if flat else shape[-1] ** -0.5) + near_one
    return state


def random_lora(layers: int, seed: int) -> State:
    """An in-context LoRA in its published spelling."""
    shapes = expected_tensors.mmdit_layout(MMDiTConfig(layers))
    g, state = torch.Generator().manual_seed(seed), {}
    for i in range(layers):
        for target in TARGETS:
            name = f"transformer_blocks.{i}.{target}"
            out, into = shapes[f"{name}.weight"]
            down, up = ((RANK, into), into), ((out, RANK), RANK)
            for part, (shape, fan) in (("A", down), ("B", up)):
                x = torch.randn(shape, generator=g) * (0.3 * fan**-0.5)
                state[f"{name}.lora_{part}.default.weight"] = x
    return state


def merged(state: Mapping[str, Tensor], lora: Mapping[str, Tensor]) -> State:
    """The weights with a LoRA in them."""
    weights = dict(state)
    for name in lora:
        if ".lora_A." in name:
            key = name.replace(".lora_A.default", "")
            weights[key] = state[key] + lora[name.replace("lora_A", "lora_B")] @ lora[name]
    return weights


def built(kind: Callable[[], Any], state: State) -> Any:
    """A network of theirs with these weights."""
    with torch.device("meta"):
        network = kind()
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)
