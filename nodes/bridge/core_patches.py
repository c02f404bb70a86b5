"""Core's transformer_options and controls, as our network obeys or refuses them.

Residuals added after a block (ControlNet, DiffSynth's patches) are added to ours. Other patches of
core's network are not supported and are refused by name, never dropped. The options of core's
Qwen Image 2.1 Cache node decide where keys and values of the prompt are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypedDict

from torch import Tensor

from ...errors import InkstoneError
from ..conditioning import REGIONS

if TYPE_CHECKING:
    from ...kernels.forward import After

_AFTER = "double_block"  # patches of the image stream after a block
CACHE: Final = "qwen_image21_cache"


class CoreCache(TypedDict, total=False):
    """core's qwen_image21_cache: `device` and `dtype` of its Qwen Image 2.1 Cache node."""

    device: str
    dtype: str


class CorePatches(TypedDict, total=False):
    """core's transformer_options: the keys that the network reads."""

    sample_sigmas: Tensor
    patches: Mapping[str, Sequence[Callable[[dict[str, object]], dict[str, Tensor]]]]
    patches_replace: Mapping[str, object]
    qwen_image21_cache: CoreCache


CoreControl = Mapping[str, Sequence[Tensor | None]]
"""Residuals of core's ControlNet by the place where they are added."""


def refuse_regions(prompt: Mapping[str, object]) -> None:
    """Raise where a conditioning, as core's sampler sees it, has regional prompts."""
    if prompt.get(REGIONS) is not None:
        raise InkstoneError(
            "The prompt has regions (Inkstone Regional Prompts), which core's samplers do not "
            "read. Use Inkstone Sampler, or remove the regions."
        )


def core_control(control: CoreControl | None) -> list[After]:
    """Residuals of core's ControlNet for the image stream after each block."""
    samples = list((control or {}).get("input", ()))
    rest = [name for name, values in (control or {}).items() if name != "input" and values]
    if rest:
        raise InkstoneError(
            f"The ControlNet gives residuals for {', '.join(rest)}: Qwen-Image takes those for "
            "'input' only. It was made for another model: use a ControlNet for Qwen-Image."
        )

    def add(index: int, layers: int, x: Tensor) -> Tensor:
        sample = samples[index] if index < len(samples) else None
        if sample is not None:
            x[:, : sample.shape[1]] += sample.to(x)
        return x

    return [add] if samples else []


def block_patches(options: CorePatches, x: Tensor) -> list[After]:
    """Patches after core's double blocks, for our image stream. Raises for patches of other kinds.

    x: the latent as core passes it. Patches do not get the text stream: DiffSynth's do not use it.
    """
    patches = dict(options.get("patches") or {})
    after = patches.pop(_AFTER, ())
    others = {"patches": patches, "patches_replace": options.get("patches_replace")}
    names = [f"{part}: {', '.join(map(str, keys))}" for part, keys in others.items() if keys]
    if names:
        raise InkstoneError(
            f"Another node patches the inside of core's network ({'; '.join(names)}), which this "
            "model does not have. Remove that node."
        )

    def patched(index: int, layers: int, img: Tensor) -> Tensor:
        facts = {"txt": None, "x": x, "block_index": index, "transformer_options": options}
        for patch in after:
            img = patch({"img": img, **facts})["img"]
        return img

    return [patched] if after else []
