"""The shapes of an example before it is encoded, and the bytes that a cache will take."""

from __future__ import annotations

import math

import torch

from ...loaders.models.text_encoder import TextEncoderModel
from .arrange import Arranged, Work
from .encode import prompt_text, sees
from .example import Example

_HEADER = 1024  # bytes of a file beside its tensors, about


def outline(work: Work, text_encoder: TextEncoderModel) -> Example:
    """An example with its shapes and no data, on the meta device. No weight is read."""
    spec, grids = work.latents, work.grids
    channels = spec.channels * spec.patch**2
    sizes = [math.prod(grid) for grid in grids]
    drawn, clean = sum(sizes[: work.drawn]), sum(sizes[work.drawn :])
    width = text_encoder.network.config.width
    rows = [text_rows(work, caption, text_encoder) for caption in (work.item.caption or "", "")]
    with torch.device("meta"):
        return Example(
            name=work.item.name,
            latents=torch.empty(drawn, channels),
            grids=grids,
            text=torch.empty(rows[0], width),
            dropped=torch.empty(rows[1], width),
            drawn=work.drawn,
            references=torch.empty(clean, channels) if clean else None,
            weight=None if work.item.mask is None else torch.empty(drawn),
        )


def text_rows(work: Work, caption: str, text_encoder: TextEncoderModel) -> int:
    """Rows of the states of a caption."""
    if not sees(work) or work.edit is None:
        return text_encoder.prompt_tokens(caption)[1]
    pictures, edit = work.item.references, work.edit
    rows = text_encoder.prompt_tokens(caption, edit, len(pictures))[1]
    if edit.shares_copy:
        return rows
    sight = text_encoder.tower("edits").sight
    seen = [edit.sizes(*picture.size, edit.area, sight)[1] for picture in pictures]
    return rows - len(pictures) + sum(w * h // sight.cell**2 for w, h in seen)


def expected(arranged: Arranged, text_encoder: TextEncoderModel) -> int:
    """Bytes of the files of all examples. No weight is read."""
    total, texts = 0, set[tuple[str, ...]]()
    row = text_encoder.network.config.width * text_encoder.dtype.itemsize
    for work in arranged.works:
        shapes = outline(work, text_encoder)
        parts = (shapes.latents, shapes.references, shapes.weight)
        total += _HEADER + sum(part.nbytes for part in parts if part is not None)
        captions = {work.item.caption or "": shapes.text}
        if arranged.settings.dropped:
            captions.setdefault("", shapes.dropped)
        for caption, states in captions.items():
            pictures = [picture.digest for picture in work.item.references] if sees(work) else []
            key = (prompt_text(work, caption, text_encoder), *pictures)
            if key not in texts:
                texts.add(key)
                total += _HEADER + len(states) * row
    return total
