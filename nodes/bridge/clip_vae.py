"""Our VAE and text encoder as core's VAE and CLIP: objects with the methods that core nodes call.

Unlike core's, a batch of pictures is encoded as pictures, not as the frames of a film; tiles are
never needed (strips are exact), so the tiled variants are the plain ones. The text that a core node
writes, with its own template and labels of pictures, is encoded as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InkstoneError
from ..conditioning import PROMPT

if TYPE_CHECKING:
    from ...loaders.models.text_encoder import TextEncoderModel
    from ...loaders.models.tokenizer import Tokenizer
    from ...loaders.models.vae import VAEModel

_LABELS = re.compile(r"^(?:(?:Picture \d+: )?<\|vision_start\|><\|image_pad\|><\|vision_end\|>)+")
_STEP = 8  # pixels of a latent cell
MARK = "<|im_start|>"  # of a speaker; a text that begins with it is a template already
_WHOLE = "{}"


class CoreVAE:
    """VAE socket. Latents are raw, [n,16,1,h,w]."""

    latent_channels, latent_dim, downscale_ratio, upscale_ratio = 16, 3, _STEP, _STEP
    not_video = True

    def __init__(self, vae: VAEModel) -> None:
        self.inkstone, self.first_stage_model = vae, vae.network
        self.device = self.output_device = vae.device
        self.output_channels = vae.network.config.channels  # 4 of the layered variant
        self.vae_dtype = vae.dtype

    def decode(self, samples: Tensor, vae_options: Mapping[str, Any] | None = None) -> Tensor:
        """[n,16,h,w] -> [n,H,W,C]; [n,16,T,h,w] -> [n,T,H,W,C], pictures one by one."""
        frames = samples[:, :, None] if samples.dim() == 4 else samples
        n, _, t = frames.shape[:3]
        single = frames.transpose(1, 2).flatten(0, 1)[:, :, None]
        pictures = torch.cat([self.inkstone.decode(one[None]) for one in single])
        return pictures if samples.dim() == 4 else pictures.unflatten(0, (n, t))

    def decode_tiled(self, samples: Tensor, **tiles: Any) -> Tensor:
        """As `decode`: in strips that are exact, whatever tiles are asked for."""
        return self.decode(samples)

    def encode(self, pixels: Tensor) -> Tensor:
        """[n,H,W,C] in 0..1 -> [n,16,1,h,w]; sides are cut in the middle to multiples of 8, as core
        does it."""
        pictures = self.vae_encode_crop_pixels(pixels)
        return torch.cat([self.inkstone.encode(one[None]) for one in pictures])

    def encode_tiled(self, pixels: Tensor, **tiles: Any) -> Tensor:
        """As `encode`."""
        return self.encode(pixels)

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """Cuts sides in the middle to multiples of 8."""
        for axis in (1, 2):
            side = pixels.shape[axis] // _STEP * _STEP
            pixels = pixels.narrow(axis, (pixels.shape[axis] - side) // 2, side)
        return pixels

    def spacial_compression_encode(self) -> int:
        """Pixels of a latent cell."""
        return _STEP

    spacial_compression_decode = spacial_compression_encode

    def temporal_compression_decode(self) -> None:
        """No film."""

    def throw_exception_if_invalid(self) -> None:
        """It is valid: it was opened and checked."""

    def get_sd(self) -> dict[str, Tensor]:
        """Its weights, for nodes that save."""
        return self.first_stage_model.state_dict()


class CoreCLIP:
    """CLIP socket."""

    layer_idx = None
    use_clip_schedule = False

    def __init__(self, encoder: TextEncoderModel) -> None:
        self.inkstone = encoder
        self.cond_stage_model = torch.nn.Module()  # LoRA loaders look here and find no layers

    def clone(self) -> CoreCLIP:
        """Another of the same encoder."""
        return CoreCLIP(self.inkstone)

    def tokenize(
        self,
        text: str,
        return_word_ids: bool = False,
        images: Sequence[Tensor] = (),
        llama_template: str | None = None,
        **other: Any,
    ) -> dict[str, Any]:
        """What `encode_from_tokens` needs: the words and pictures themselves."""
        text = text.replace("\\(", "(").replace("\\)", ")")  # as core reads prompts
        return {"text": text, "images": list(images), "template": llama_template}

    def encode_from_tokens(
        self, tokens: Mapping[str, Any], return_pooled: bool = False, return_dict: bool = False
    ) -> Any:
        """States [1,L,J], as core's nodes ask for them."""
        states = self._states(tokens).float().cpu()
        if return_dict:
            return {"cond": states, "pooled_output": None}
        return (states, None) if return_pooled else states

    def encode_from_tokens_scheduled(
        self,
        tokens: Mapping[str, Any],
        unprojected: bool = False,
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,
    ) -> list:
        """A CONDITIONING."""
        states = self.encode_from_tokens(tokens)
        return [[states, {"pooled_output": None, PROMPT: tokens["text"], **(add_dict or {})}]]

    def encode(self, text: str) -> Tensor:
        """States of words."""
        return self.encode_from_tokens(self.tokenize(text))

    def add_patches(
        self, patches: Mapping, strength_patch: float = 1, strength_model: float = 1
    ) -> list:  # noqa: E501
        """LoRAs of core's loader for a text encoder: refused where there are some."""
        if patches:
            raise InkstoneError(
                f"{len(patches)} changes of the text encoder cannot be applied at this bridge. Put "
                "Inkstone Load LoRA before it."
            )
        return []

    def _states(self, tokens: Mapping[str, Any]) -> Tensor:
        from ...loaders.arch.family import EDIT

        encoder, text = self.inkstone, tokens["text"]
        pictures = [x for image in tokens["images"] for x in image[..., :3]]
        if not any(edit.sees for edit in encoder.family.edits):  # the embedded model: words alone
            return encoder.encode(_LABELS.sub("", text))
        template = _WHOLE if text.startswith(MARK) else tokens["template"]
        if template is None:
            return encoder.encode_edit(text, pictures, EDIT) if pictures else encoder.encode(text)
        return _templated(encoder, template, text, pictures)


def _templated(
    encoder: TextEncoderModel, template: str, text: str, pictures: Sequence[Tensor]
) -> Tensor:
    """States of a text in a template of a core node's or another pack's, with its pictures."""
    from ...loaders.arch.family import EDIT_PLUS
    from ...loaders.memory.lru import Recent

    drop = head_tokens(encoder.tokenizer, template.format(text))
    if pictures:
        edit = replace(EDIT_PLUS, name=template, template=template, picture="", drop=drop)
        return encoder.encode_edit(text, pictures, edit)
    family = replace(encoder.family, template=template, drop=drop)
    return replace(encoder, family=family, _texts=Recent(1)).encode(text)


def head_tokens(tokenizer: Tokenizer, text: str) -> int:
    """Tokens before the words of the user, which core cuts off: all up to the second mark of a
    speaker, and "user" with its line break behind it.
    """
    ids, mark = tokenizer.encode(text), tokenizer.token_id(MARK)
    marks = [place for place, token in enumerate(ids) if token == mark][:2]
    end = marks[-1] if marks else 0
    user = tokenizer.encode("user\n")
    return end + 1 + len(user) if ids[end + 1 :][: len(user)] == user else end
