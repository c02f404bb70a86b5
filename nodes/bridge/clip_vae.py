"""Our VAE and text encoder as core's VAE and CLIP: objects with the methods that core nodes call.

Unlike core's, a batch of pictures is encoded as pictures, not as the frames of a video; tiles are
never needed (strips are exact), so the tiled variants do the same as the plain ones. The text of a
core node, with its own template and picture labels, is encoded unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...host.page_text import for_page
from ..conditioning import PROMPT, SLOTS, Options, conditioning

if TYPE_CHECKING:
    from ...loaders.arch.family import EditTemplate
    from ...loaders.models.text_encoder import EncodedText, TextEncoderModel
    from ...loaders.models.tokenizer import Tokenizer
    from ...loaders.models.vae import VAEModel
    from ..conditioning import Conditioning

_LABELS = re.compile(r"^(?:(?:Picture \d+: )?<\|vision_start\|><\|image_pad\|><\|vision_end\|>)+")
MARK = "<|im_start|>"  # starts a speaker; a text that begins with it already has a template
_WHOLE = "{}"


class Tokens(TypedDict):
    """The tokens that core passes from `tokenize` to `encode_from_tokens`: text and pictures."""

    text: str
    written: str  # the text with its escapes
    images: Sequence[Tensor]
    template: str | None
    keep_vision: bool  # no latents take the places of the pictures


class CoreVAE:
    """VAE socket. Latents are raw, [n,C,1,h,w], or [n,C,h,w] of a family that has no frames in
    core.
    """

    not_video = True

    def __init__(self, vae: VAEModel) -> None:
        self.inkstone, self.first_stage_model = vae, vae.network
        self.frames = vae.family.core.frames
        self.latent_channels, self.latent_dim = vae.network.config.z, 3 if self.frames else 2
        self.downscale_ratio = self.upscale_ratio = vae.network.config.scale
        self.device = self.output_device = vae.device
        self.output_channels = vae.network.config.channels  # 4 where pictures have alpha
        self.vae_dtype = vae.dtype

    def __repr__(self) -> str:
        return "CoreVAE()"  # without the module, which is a path in ComfyUI

    @for_page
    def decode(self, samples: Tensor, vae_options: Mapping[str, object] | None = None) -> Tensor:
        """[n,C,h,w] -> [n,H,W,C]; [n,C,T,h,w] -> [n,T,H,W,C], pictures one by one."""
        frames = samples[:, :, None] if samples.dim() == 4 else samples
        n, _, t = frames.shape[:3]
        single = frames.transpose(1, 2).flatten(0, 1)[:, :, None]
        pictures = torch.cat([self.inkstone.decode(one[None]) for one in single])
        return pictures if samples.dim() == 4 else pictures.unflatten(0, (n, t))

    def decode_tiled(self, samples: Tensor, **tiles: object) -> Tensor:
        """The same as `decode`: strips are exact, so the tile options are not used."""
        return self.decode(samples)

    @for_page
    def encode(self, pixels: Tensor) -> Tensor:
        """[n,H,W,C] in 0..1 -> latents; centre-crops the sides, as core does."""
        pictures = self.vae_encode_crop_pixels(pixels)
        latents = torch.cat([self.inkstone.encode(one[None]) for one in pictures])
        return latents if self.frames else latents[:, :, 0]

    def encode_tiled(self, pixels: Tensor, **tiles: object) -> Tensor:
        """The same as `encode`."""
        return self.encode(pixels)

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """Centre-crops the sides to what the family draws: whole cells of a latent, as core does,
        or the step of its canvases (`LatentSpec.crop`).
        """
        step = self.inkstone.family.latents.crop
        for axis in (1, 2):
            side = pixels.shape[axis] // step * step
            pixels = pixels.narrow(axis, (pixels.shape[axis] - side) // 2, side)
        return pixels

    def spacial_compression_encode(self) -> int:
        """Pixels per latent cell."""
        return self.downscale_ratio

    spacial_compression_decode = spacial_compression_encode

    def temporal_compression_decode(self) -> None:
        """None: this is not a video VAE."""

    def throw_exception_if_invalid(self) -> None:
        """Does nothing: the file was validated when it was opened."""

    def get_sd(self) -> dict[str, Tensor]:
        """The weights, for nodes that save them."""
        return self.first_stage_model.state_dict()


class CoreCLIP:
    """CLIP socket."""

    layer_idx = None
    use_clip_schedule = False

    def __init__(self, encoder: TextEncoderModel) -> None:
        self.inkstone = encoder
        self.cond_stage_model = torch.nn.Module()  # LoRA loaders look here and find no layers

    def __repr__(self) -> str:
        return "CoreCLIP()"  # without the module, as above

    def clone(self) -> CoreCLIP:
        """A second CLIP of the same encoder."""
        return CoreCLIP(self.inkstone)

    def tokenize(
        self,
        text: str,
        return_word_ids: bool = False,
        images: Sequence[Tensor] = (),
        llama_template: str | None = None,
        keep_vision: bool = False,
        **other: object,
    ) -> Tokens:
        """The text and pictures themselves, for `encode_from_tokens`."""
        plain = text.replace("\\(", "(").replace("\\)", ")")  # as core reads prompts
        return {
            "text": plain,
            "written": text,
            "images": list(images),
            "template": llama_template,
            "keep_vision": keep_vision,
        }

    def encode_from_tokens(
        self, tokens: Tokens, return_pooled: bool = False, return_dict: bool = False
    ) -> Tensor | tuple[Tensor, None] | dict[str, object]:
        """States [1,L,J], in the form that a core node requests."""
        states, places = self._states(tokens)
        if return_dict:
            return {"cond": states, "pooled_output": None, **places}
        return (states, None) if return_pooled else states

    def encode_from_tokens_scheduled(
        self,
        tokens: Tokens,
        unprojected: bool = False,
        add_dict: Options | None = None,
        show_pbar: bool = True,
    ) -> Conditioning:
        """A CONDITIONING."""
        states, places = self._states(tokens)
        options: Options = {"pooled_output": None, PROMPT: tokens["text"], **places}
        return conditioning(states, {**options, **(add_dict or {})})

    def encode(self, text: str) -> Tensor:
        """States of a text."""
        return self._states(self.tokenize(text))[0]

    def add_patches(
        self, patches: Mapping[object, object], strength_patch: float = 1, strength_model: float = 1
    ) -> list[object]:
        """Refuses LoRAs of core's loader for the text encoder."""
        if patches:
            raise InkstoneError(
                f"The LoRA has {len(patches)} changes of the text encoder: a core LoRA loader "
                "cannot apply them here. Connect Inkstone Load LoRA before the bridge."
            )
        return []

    @for_page
    def _states(self, tokens: Tokens) -> tuple[Tensor, Options]:
        """The states, and where pictures stand between them."""
        encoded = self._encoded(tokens)
        places: Options = {SLOTS: list(encoded.slots)} if encoded.slots else {}
        return encoded.states.float().cpu(), places

    def _encoded(self, tokens: Tokens) -> EncodedText:
        encoder, text, written = self.inkstone, tokens["text"], tokens["written"]
        pictures = [x for image in tokens["images"] for x in image[..., :3]]
        if not any(edit.sees for edit in encoder.family.edits):  # the embedded model: text only
            return encoder.encode(_LABELS.sub("", text), written)
        template = _WHOLE if text.startswith(MARK) else tokens["template"]
        if template is None:
            if pictures:
                edit = _as_asked(encoder.family.edits[0], tokens)
                return encoder.encode_edit(text, pictures, edit, written)
            return encoder.encode(text, written)
        return _templated(encoder, template, tokens, pictures)


def _templated(
    encoder: TextEncoderModel, template: str, tokens: Tokens, pictures: Sequence[Tensor]
) -> EncodedText:
    """States of a text with the template of a core node or another pack, and its pictures."""
    from ...loaders.memory.lru import Recent

    text, written = tokens["text"], tokens["written"]
    user = encoder.family.core.drops_user
    drop = head_tokens(encoder.tokenizer, template.format(text), user)
    if pictures:
        plus = _as_asked(encoder.family.edits[-1], tokens)
        name = f"{template} {plus.name}"
        edit = replace(plus, name=name, template=template, picture="", between="", drop=drop)
        return encoder.encode_edit(text, pictures, edit, written)
    family = replace(encoder.family, template=template, drop=drop)
    return replace(encoder, family=family, _texts=Recent(1)).encode(text, written)


def _as_asked(edit: EditTemplate, tokens: Tokens) -> EditTemplate:
    """The template, or the same with the rows of pictures kept, where core has no latents for their
    places.
    """
    if not (edit.shares_copy and tokens["keep_vision"]):
        return edit
    return replace(edit, name=f"{edit.name}, rows kept", keeps_rows=True)


def head_tokens(tokenizer: Tokenizer, text: str, user_too: bool = True) -> int:
    """Number of tokens before the user's text, which core drops: all up to the second mark of a
    speaker, and with `user_too` that mark and "user" with its line break after it.
    """
    ids, mark = tokenizer.encode(text), tokenizer.token_id(MARK)
    marks = [place for place, token in enumerate(ids) if token == mark][:2]
    end = marks[-1] if marks else 0
    if not user_too:
        return end
    user = tokenizer.encode("user\n")
    return end + 1 + len(user) if ids[end + 1 :][: len(user)] == user else end
