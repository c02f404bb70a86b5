"""From files to what the network sees of an example: latents, text states, loss weights.

The same functions as inference: a picture that has the size of its bucket, and a prompt, give the
tensors that a drawing would get, bit for bit. References lie on the canvases that
`pipeline/edit.py` gives them, and are seen by the text encoder as there.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InkstoneError
from ...files.images import read_picture
from ...kernels.memory import hand_back
from ...loaders.memory.residency import residencies
from ...loaders.models import text_encoder as text_encoders
from ...loaders.models import vae as vaes
from ...loaders.models.diffusion_model import DiffusionModel
from ...loaders.models.text_encoder import EncodedText, TextEncoderModel
from ...loaders.models.vae import VAEModel
from ...pipeline.edit import edit_states, encode_on_canvas, references, seen_pictures
from ...sampling.masks import ends
from ...sampling.pixel_lock import Lock
from ...sampling.sampler import normalised
from .arrange import Work
from .pictures import Picture, mask_values

LATENTS, REFERENCES, WEIGHT, STATES, SLOTS = "latents", "references", "weight", "states", "slots"


def encoded_pictures(work: Work, model: DiffusionModel, vae: VAEModel) -> dict[str, Tensor]:
    """The target's latents [S,C] float32, packed and normalised, of its layers behind it; those of
    the references [R,C] and the loss weight [S] where there are such. Raises InkstoneError.
    """
    drawn = [work.item.picture, *work.item.layers]
    with _without(vaes.log, logging.INFO):  # a line for each size
        latents = [normalised(model, target_latents(work, vae, picture))[0] for picture in drawn]
        tensors = {LATENTS: torch.cat(latents)}
        pictures = [read_picture(reference.path) for reference in work.item.references]
        clean = [normalised(model, z)[0] for z in references(vae, pictures, work.locks)]
    if work.item.layers:
        clean = latents[:1]  # the picture that is split
    if clean:
        tensors[REFERENCES] = torch.cat(clean)
    if work.item.mask is not None:
        tensors[WEIGHT] = loss_weight(work, work.item.mask).repeat(len(drawn))
    return tensors


def target_latents(work: Work, vae: VAEModel, picture: Picture) -> Tensor:
    """Raw latents [1,C,1,h,w] of the part of a picture that is used, scaled to its bucket."""
    box, bucket = work.fit.box, work.fit.bucket
    return encode_on_canvas(
        vae, box.of(read_picture(picture.path)), Lock(box.size, bucket, bucket, work.latents)
    )


def loss_weight(work: Work, mask: Picture) -> Tensor:
    """[S] float32 in 0..1: for each token of a target the mean of its mask, 1 = learned."""
    learned, by_alpha = mask_values(mask.path)
    values = ends(torch.from_numpy(learned)[None])  # [1,H,W]
    width, height = work.fit.picture
    if values.shape[1:] != (height, width):
        values = F.adaptive_avg_pool2d(values, (height, width))
    _, rows, columns = work.grids[0]
    weight = F.adaptive_avg_pool2d(work.fit.box.of(values), (rows, columns)).flatten()
    if not weight.any():
        raise InkstoneError(
            f"{mask.path}: what is {'opaque' if by_alpha else 'white'} lies in the part of the "
            "picture that its bucket crops. Take the picture out, or crop it to what should be "
            "learned."
        )
    return weight


def encoded_text(work: Work, caption: str, text_encoder: TextEncoderModel) -> EncodedText:
    """The states of a caption, [1,L,J], with the example's references where the template has them.
    Raises InkstoneError.
    """
    with _without(text_encoders.log, logging.WARNING):  # said of every prompt: the report has them
        if not sees(work) or work.edit is None:
            return text_encoder.encode(caption)
        pictures = [read_picture(reference.path) for reference in work.item.references]
        seen = seen_pictures(work.edit, pictures, work.locks)
        return edit_states(text_encoder, work.edit, caption, seen)


def sees(work: Work) -> bool:
    """True where the prompt of an example has its references."""
    return work.edit is not None and work.edit.sees


def prompt_text(work: Work, caption: str, text_encoder: TextEncoderModel) -> str:
    """The whole text that is encoded, template included."""
    caption = caption or text_encoder.family.empty
    if work.edit is not None and work.edit.sees:
        return work.edit.text(caption, len(work.item.references))
    return text_encoder.family.template.format(caption)


@contextmanager
def leaving() -> Iterator[None]:
    """What is loaded within it leaves memory behind it."""
    before = {id(weights) for weights in residencies() if weights.reserved}
    try:
        yield
    finally:
        for weights in residencies():
            if weights.reserved and id(weights) not in before:
                weights.park()
        gc.collect()
        hand_back()


@contextmanager
def _without(log: logging.Logger, level: int) -> Iterator[None]:
    """Hides the lines of a level that would come again with every example."""

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno != level

    log.addFilter(passes)
    try:
        yield
    finally:
        log.removeFilter(passes)
