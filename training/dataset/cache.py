"""The encoded examples of a training, on disk: latents and text states, computed once.

How a training calls this, step by step:

- `dataset.read(data, control_dir, mask_dir, on_item) -> Dataset`
- `arrange.arrange(dataset, model, CacheSettings(resolution)) -> Arranged`; reads no weights
- `report.report(arranged, text_encoder).lines`, one sentence a line; no weights either
- `outline(work, text_encoder) -> Example` on the meta device, for a plan, of each of
  `arranged.works`; `expected(arranged, text_encoder) -> int`: bytes that the folder will take
- `prepare(arranged, Encoders(load_text_encoder, load_vae), folder, on_item) -> Cache`
- `cache.buckets() -> {grids: [index, ...]}`, `cache.example(index) -> Example`, `len(cache)`,
  `cache.nbytes`

Pictures and texts are files of their own, named by a digest of all that they depend on: bytes of
the pictures, bucket, caption with its template as tokens, weights and type of the model that
encodes. So another caption encodes no picture again, and equal captions are encoded once. A file
is written whole or not at all, and what a kill leaves of one is removed by the next run; one that
does not match its own digest is made again.
"""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...files.hashes import picture_hash
from ...files.paths import check_given, kind_of
from ...kernels.memory import hand_back
from ...kernels.rope import Grid
from ...loaders.memory.lru import Recent
from ...loaders.models.bundle import check_latents, check_prompts
from ...loaders.models.text_encoder import EncodedText, TextEncoderModel
from ...loaders.models.vae import VAEModel
from .arrange import Arranged, Work
from .encode import (
    LATENTS,
    REFERENCES,
    SLOTS,
    STATES,
    WEIGHT,
    encoded_pictures,
    encoded_text,
    leaving,
    prompt_text,
    sees,
)
from .example import Example
from .findings import shown
from .outline import expected, outline
from .pictures import NO_PROGRESS, OnItem
from .report import size_words
from .stored import Stored, model_stamp, remove_partial

__all__ = ["Cache", "Encoders", "expected", "outline", "prepare"]

log = logging.getLogger(__name__)

_KEPT_TEXTS = 2  # that were read: the empty caption of descriptions is one file for all


class Encoders:
    """Text encoder and VAE, given as what loads them. The weights of both leave memory after use;
    of the text encoder the rest, its tokenizer above all, stays for the next use until `forget`.
    """

    def __init__(
        self, text_encoder: Callable[[], TextEncoderModel], vae: Callable[[], VAEModel]
    ) -> None:
        self._load, self.vae = text_encoder, vae
        self._text_encoder: TextEncoderModel | None = None

    def text_encoder(self) -> TextEncoderModel:
        """Loaded at the first call."""
        if self._text_encoder is None:
            self._text_encoder = self._load()
        return self._text_encoder

    def forget(self) -> None:
        """Lets the text encoder go."""
        self._text_encoder = None


@dataclass(frozen=True)
class Entry:
    """The files of one example."""

    work: Work
    pictures: Stored
    text: Stored
    dropped: Stored | None  # None where captions are never dropped


class Cache:
    """The examples of a dataset, encoded; each is read from its files when it is asked for."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self._texts: Recent[tuple[Tensor, tuple[int, ...]]] = Recent(_KEPT_TEXTS)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all files; one that several examples share counts once."""
        return sum(stored.nbytes for stored in dict.fromkeys(files_of(self.entries)))

    def buckets(self) -> dict[tuple[Grid, ...], list[int]]:
        """The examples of an epoch that may share a batch: all their images have the same sizes. An
        example that is repeated is there more than once.
        """
        groups: dict[tuple[Grid, ...], list[int]] = {}
        for index, entry in enumerate(self.entries):
            groups.setdefault(entry.work.grids, []).extend([index] * entry.work.item.repeats)
        return groups

    def example(self, index: int) -> Example:
        """One example; InkstoneError where its file was lost or damaged since `prepare`."""
        entry = self.entries[index]
        work = entry.work
        pictures = _again(entry.pictures, work)
        text, slots = self._text(entry.text, work)
        dropped, dropped_slots = text[:0], tuple[int, ...]()
        if entry.dropped is not None:
            dropped, dropped_slots = self._text(entry.dropped, work)
        return Example(
            name=work.item.name,
            latents=pictures[LATENTS],
            grids=work.grids,
            text=text,
            dropped=dropped,
            drawn=work.drawn,
            references=pictures.get(REFERENCES),
            slots=slots,
            dropped_slots=dropped_slots,
            weight=pictures.get(WEIGHT),
        )

    def _text(self, stored: Stored, work: Work) -> tuple[Tensor, tuple[int, ...]]:
        """States [L,J] float32, and the places of pictures among them."""

        def read() -> tuple[Tensor, tuple[int, ...]]:
            tensors = _again(stored, work)
            return tensors[STATES].float(), tuple(tensors[SLOTS].tolist())

        return self._texts.get(stored.key, read)


def files_of(entries: Iterable[Entry]) -> Iterable[Stored]:
    """The files of examples."""
    for entry in entries:
        yield from (entry.pictures, entry.text)
        if entry.dropped is not None:
            yield entry.dropped


def _again(stored: Stored, work: Work) -> dict[str, Tensor]:
    try:
        return stored.read()
    except InkstoneError as error:
        raise InkstoneError(
            f"The encoded {shown(work.item.name)} cannot be read: {error} Start the same command "
            "again: it encodes this file again and goes on."
        ) from None


def prepare(
    arranged: Arranged, encoders: Encoders, folder: Path, on_item: OnItem = NO_PROGRESS
) -> Cache:
    """Encodes what is not in the folder yet, pictures first, then captions, and lets both models
    leave memory. A run that was stopped goes on where it was. InkstoneError where a file cannot be
    read or the disk has no room; nothing is half written. on_item may raise to stop.
    """
    make_folder(folder)
    begin = time.time()
    text_encoder, vae = encoders.text_encoder(), encoders.vae()
    check_prompts(arranged.model, text_encoder)
    check_latents(arranged.model, vae)
    with leaving():
        cache = Cache(_entries(arranged, text_encoder, vae, folder))
        missing = _missing(cache, on_item)
        _check_room(folder, cache, missing, expected(arranged, text_encoder))
        _encode_pictures(cache, missing, arranged, vae, on_item)
        del vae  # its weights leave before those of the text encoder are read
        gc.collect()
        hand_back()
        _encode_texts(cache, missing, text_encoder, on_item)
    remove_partial(folder, begin)
    return cache


def make_folder(folder: Path) -> None:
    """Makes the folder of encoded files where it is not there. Raises CallError, InkstoneError."""
    if kind_of(folder):
        check_given(folder, kinds=("folder",))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InkstoneError(
            f"The folder {folder} for encoded pictures cannot be made: {error.strerror}. Check its "
            "path and the free space."
        ) from None


def _entries(
    arranged: Arranged, text_encoder: TextEncoderModel, vae: VAEModel, folder: Path
) -> list[Entry]:
    """The files of all examples, there or not."""
    model = arranged.model
    statistics = [model.latent_mean.flatten().tolist(), model.latent_std.flatten().tolist()]
    pixels = {"vae": model_stamp(vae.path, vae.dtype), "statistics": statistics}
    language = {"text encoder": model_stamp(text_encoder.path, text_encoder.dtype)}
    entries = []
    for work in arranged.works:
        texts = [work.item.caption or "", *([""] if arranged.settings.dropped else [])]
        stored = [
            Stored.of(folder, "text", language | _text_facts(work, text, text_encoder))
            for text in texts
        ]
        pictures = Stored.of(folder, "picture", pixels | _picture_facts(work))
        entries.append(Entry(work, pictures, stored[0], stored[1] if len(stored) > 1 else None))
    return entries


def _picture_facts(work: Work) -> dict[str, object]:
    item = work.item
    return {
        "drawn": [picture.digest for picture in (item.picture, *item.layers)],
        "part": [work.fit.box, work.fit.bucket],
        "references": [picture.digest for picture in item.references],
        "canvases": [[own.picture, own.work, own.canvas] for own in work.locks],
        "mask": None if item.mask is None else [item.mask.digest, item.mask.by_alpha],
    }


def _text_facts(work: Work, caption: str, text_encoder: TextEncoderModel) -> dict[str, object]:
    facts: dict[str, object] = {
        "tokens": text_encoder.tokenizer.encode(prompt_text(work, caption, text_encoder)),
        "drop": text_encoder.family.drop,
    }
    if work.edit is not None and sees(work):
        tower = text_encoder.tower("edits")
        facts |= {
            "tower": model_stamp(tower.path, tower.dtype),
            "edit": [work.edit.name, work.edit.area, work.edit.drop],
            "references": [picture.digest for picture in work.item.references],
        }
        if work.edit.shares_copy:
            facts["canvases"] = [[own.picture, own.work, own.canvas] for own in work.locks]
    return facts


def _missing(cache: Cache, on_item: OnItem) -> dict[Stored, bool]:
    """The files that have to be made: not there, or (True) damaged."""
    files, missing = list(dict.fromkeys(files_of(cache.entries))), dict[Stored, bool]()
    for number, stored in enumerate(files, 1):
        fault = stored.fault()
        if fault is not None:
            missing[stored] = bool(fault)
        if fault:
            log.warning("%s is damaged and is made again: %s", stored.path.name, fault)
        on_item("checking encoded files", number, len(files))
    return missing


def _check_room(folder: Path, cache: Cache, missing: Mapping[Stored, bool], every: int) -> None:
    """Raises where the disk has too little room for what is missing. every: bytes of all files."""
    if not missing:
        return
    free = shutil.disk_usage(folder).free
    there = sum(s.nbytes for s in dict.fromkeys(files_of(cache.entries)) if s not in missing)
    need = every - min(every, there)
    log.info("encoded pictures and captions take about %s in %s", size_words(every), folder)
    if need > free:
        of_it = f", of which {there / 1e9:.2f} GB are there" if there else ""
        raise InkstoneError(
            f"The encoded pictures and captions take about {every / 1e9:.2f} GB{of_it}, and "
            f"{folder} has {free / 1e9:.2f} GB free. Free {(need - free) / 1e9:.2f} GB, give "
            "another folder, or train at a lower resolution."
        )


def _encode_pictures(
    cache: Cache, missing: Mapping[Stored, bool], arranged: Arranged, vae: VAEModel, on_item: OnItem
) -> None:
    todo = {e.pictures: e.work for e in cache.entries if e.pictures in missing}
    if todo:
        log.info("encoding pictures: %d", len(todo))
    for number, (stored, work) in enumerate(todo.items(), 1):
        tensors = encoded_pictures(work, arranged.model, vae)
        _require_unchanged(work)
        stored.save(work.item.name, tensors)
        on_item("encoding pictures", number, len(todo))


def _require_unchanged(work: Work) -> None:
    """Raises where a picture is not the one whose digest names the file that is to be written."""
    item = work.item
    masks = [item.mask] if item.mask is not None else []
    for picture in (item.picture, *item.layers, *item.references, *masks):
        try:
            same = picture_hash(picture.path) == picture.digest
        except OSError:
            same = False
        if not same:
            raise InkstoneError(
                f"{picture.path} was changed while this command ran. Start it again: it goes on, "
                "with the pictures as they are then."
            )


def _encode_texts(
    cache: Cache, missing: Mapping[Stored, bool], text_encoder: TextEncoderModel, on_item: OnItem
) -> None:
    todo: dict[Stored, tuple[Work, str]] = {}
    for entry in cache.entries:
        if entry.text in missing:
            todo[entry.text] = entry.work, entry.work.item.caption or ""
        if entry.dropped in missing and entry.dropped is not None:
            todo.setdefault(entry.dropped, (entry.work, ""))
    if todo:
        log.info("encoding captions: %d", len(todo))
    for number, (stored, (work, caption)) in enumerate(todo.items(), 1):
        stored.save(work.item.name, _text_tensors(encoded_text(work, caption, text_encoder)))
        on_item("encoding captions", number, len(todo))


def _text_tensors(text: EncodedText) -> dict[str, Tensor]:
    slots = torch.tensor(text.slots, dtype=torch.int64)
    return {STATES: text.states[0].detach().cpu(), SLOTS: slots}
