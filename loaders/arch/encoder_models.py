"""The text encoders that Qwen-Image models read prompts with: what people know them by, as data.

Sentences about files take their names from here, so that none of them knows a family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...kernels.configs import (
    QWEN3_VL_TEXT,
    QWEN_VL_TEXT,
    DeepVisionConfig,
    TextConfig,
    VisionConfig,
)


@dataclass(frozen=True)
class EncoderModel:
    """A published language model with its vision tower."""

    name: str  # as a file's facts have it
    title: str
    size: str  # that the diffusion model needs
    diffusion_model: str
    config: TextConfig  # the published sizes
    architecture: str  # of a GGUF file
    folder: str  # where it is published with all its parts
    file: str  # of ComfyUI
    gguf: str
    other_sizes: Mapping[int, str] = field(default_factory=dict)  # by width: not for this model

    @property
    def full(self) -> str:
        """With the size: Qwen2.5-VL-7B."""
        return f"{self.title}-{self.size}"

    def size_of(self, width: int) -> str:
        """The size that people know a width by."""
        own = {self.config.width: self.size}
        return {**own, **self.other_sizes}.get(width, f"width {width}")

    def wrong_size(self, width: int) -> str:
        """A sentence about a width of another published size, or ""."""
        size = self.other_sizes.get(width)
        needed = f"{self.diffusion_model} needs the {self.size}"
        return f"it is {self.title}-{size}, {needed}" if size else ""


QWEN25_VL = EncoderModel(
    name="qwen2.5-vl",
    title="Qwen2.5-VL",
    size="7B",
    diffusion_model="Qwen-Image",
    config=QWEN_VL_TEXT,
    architecture="qwen2vl",
    folder="the folder text_encoder of Qwen/Qwen-Image or Qwen/Qwen-Image-Edit",
    file="qwen_2.5_vl_7b.safetensors",
    gguf="Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf",
    other_sizes={2048: "3B"},
)
QWEN3_VL = EncoderModel(
    name="qwen3-vl",
    title="Qwen3-VL",
    size="8B",
    diffusion_model="Qwen-Image-2.1",
    config=QWEN3_VL_TEXT,
    architecture="qwen3vl",
    folder="the folder text_encoder of Qwen/Qwen-Image-2.1",
    file="qwen3vl_8b_bf16.safetensors",
    gguf="Qwen3-VL-8B-Instruct-Q4_K_M.gguf",
    other_sizes={2048: "2B", 2560: "4B", 5120: "32B"},
)
ENCODER_MODELS = {model.name: model for model in (QWEN25_VL, QWEN3_VL)}


def encoder_model(config: TextConfig) -> EncoderModel:
    """The record of a language model by its shape."""
    return QWEN3_VL if config.qk_norm else QWEN25_VL


def tower_model(config: VisionConfig | DeepVisionConfig | None) -> EncoderModel:
    """The record of the language model that a vision tower belongs to."""
    return QWEN3_VL if isinstance(config, DeepVisionConfig) else QWEN25_VL
