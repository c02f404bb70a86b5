"""Pictures of given prompts while a LoRA trains, drawn with the weights as they are in memory.

Prompts, and the references of edits, are encoded before the training, once, and kept on disk with
the encoded dataset: text encoder and VAE need not stay. The VAE is loaded when pictures are decoded
and leaves again. Seeds never change, so a column of the contact sheet shows nothing but what was
learned; nothing here touches the random choices of the training.

A prompt of an edit is drawn on references of the dataset: the first prompt on those of the first
picture, and so on. Their canvas is the bucket of that picture; that of descriptions is the bucket
which most pictures have.
"""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ...errors import InkstoneError
from ...files.images import read_picture
from ...files.json_text import parse_json
from ...files.png import read_text_chunks, save_png
from ...kernels.memory import hand_back
from ...loaders.models.diffusion_model import DiffusionModel
from ...loaders.models.text_encoder import TextEncoderModel
from ...loaders.models.vae import VAEModel
from ...pipeline.edit import references
from ...pipeline.usual_settings import usual_settings
from ...sampling.geometry import token_grid
from ...sampling.masks import without_opaque
from ...sampling.request import Hooks, Request
from ...sampling.sampler import denoise
from ...sampling.schedule import sigmas
from ..dataset.arrange import Arranged, Work
from ..dataset.cache import Encoders, make_folder
from ..dataset.encode import encoded_text, leaving, prompt_text, target_latents
from ..dataset.stored import Stored, model_stamp
from .sheet import sample_path, write_sheet

log = logging.getLogger(__name__)

MOST_STEPS = 20  # of a sample, where the model's usual number is larger: they are for comparison
SAMPLES = "samples"  # folder of the pictures
_FACTS = "inkstone_sample"  # text chunk of a picture
_POSITIVE, _NEGATIVE, _SLOTS, _REFERENCE = "positive", "negative", "slots", "reference_{}"


class Stopped(Exception):
    """The run is to stop: samples are not drawn to their end."""


class Changes(Protocol):
    """The weights that are trained: see adapter.py."""

    def on(self, network: nn.Module) -> AbstractContextManager[None]:
        """Within the block the network has them."""


@dataclass(frozen=True)
class Sample:
    """One prompt, ready to draw."""

    prompt: str
    size: tuple[int, int]
    positive: Tensor  # [1,L,J]
    negative: Tensor | None  # of the same references; None without CFG
    slots: tuple[int, ...] = ()
    references: tuple[Tensor, ...] = ()  # raw latents [1,C,1,h,w]
    layers: int = 0


def encode_samples(
    prompts: Sequence[str], arranged: Arranged, encoders: Encoders, folder: Path
) -> list[Sample]:
    """The prompts, encoded where their files are not in the folder yet. Both models leave memory.
    Raises InkstoneError.
    """
    if not prompts:
        return []
    make_folder(folder)
    works = [_work(arranged, number) for number in range(len(prompts))]
    seen = any(work.item.references or work.item.layers for work in works)
    text_encoder = encoders.text_encoder()
    encoder = _Encoder(arranged.model, text_encoder, encoders.vae() if seen else None)
    files = [encoder.file(*pair, folder) for pair in zip(prompts, works)]
    missing = [file for file in dict.fromkeys(files) if file.fault() is not None]
    with leaving():
        for file, prompt, work in zip(files, prompts, works):
            if file in missing:
                file.save("a sample", encoder.tensors(prompt, work))
                missing.remove(file)
    return [_sample(*triple) for triple in zip(prompts, works, files)]


def _work(arranged: Arranged, number: int) -> Work:
    """The example whose canvas and references a prompt is drawn with."""
    works = arranged.works
    if any(work.item.references or work.item.layers for work in works):
        return works[number % len(works)]
    usual = Counter(work.fit.bucket for work in works).most_common(1)[0][0]
    return next(work for work in works if work.fit.bucket == usual)


@dataclass(frozen=True)
class _Encoder:
    """Encodes prompts and references for a model."""

    model: DiffusionModel
    text_encoder: TextEncoderModel
    vae: VAEModel | None  # None: no prompt has references

    def file(self, prompt: str, work: Work, folder: Path) -> Stored:
        """The file of a prompt, named by all that its tensors depend on."""
        texts = [prompt_text(work, text, self.text_encoder) for text in self._texts(work, prompt)]
        facts: dict[str, object] = {
            "text encoder": model_stamp(self.text_encoder.path, self.text_encoder.dtype),
            "tokens": [self.text_encoder.tokenizer.encode(text) for text in texts],
            "drop": self.text_encoder.family.drop,
        }
        if self.vae is not None:
            item = work.item
            facts |= {
                "vae": model_stamp(self.vae.path, self.vae.dtype),
                "pictures": [picture.digest for picture in (item.picture, *item.references)],
                "edit": [work.edit.name, work.edit.area, work.edit.drop] if work.edit else None,
                "canvases": [[own.picture, own.work, own.canvas] for own in work.locks],
                "part": [work.fit.box, work.fit.bucket],
            }
        return Stored.of(folder, "sample", facts)

    def tensors(self, prompt: str, work: Work) -> dict[str, Tensor]:
        """States of the prompts, and latents of the references."""
        positive, *negative = (
            encoded_text(work, text, self.text_encoder) for text in self._texts(work, prompt)
        )
        tensors = {
            _POSITIVE: positive.states.detach().cpu(),
            _SLOTS: torch.tensor(positive.slots, dtype=torch.int64),
        }
        for text in negative:
            tensors[_NEGATIVE] = text.states.detach().cpu()
        latents = self._references(work)
        return tensors | {_REFERENCE.format(n): z for n, z in enumerate(latents)}

    def _references(self, work: Work) -> Sequence[Tensor]:
        """Raw latents [1,C,1,h,w] of the references; of layers the picture that is split."""
        if self.vae is None:
            return ()
        if work.item.layers:
            return (target_latents(work, self.vae, work.item.picture),)
        pictures = [read_picture(reference.path) for reference in work.item.references]
        return references(self.vae, pictures, work.locks)

    def _texts(self, work: Work, prompt: str) -> list[str]:
        """The prompt, and with CFG the negative one."""
        preset = usual_settings(self.model, len(work.item.references)).preset
        return [prompt, preset.negative] if preset.cfg > 1 else [prompt]


def _sample(prompt: str, work: Work, file: Stored) -> Sample:
    tensors = file.read()
    count = sum(name.startswith("reference_") for name in tensors)
    return Sample(
        prompt=prompt,
        size=work.fit.bucket,
        positive=tensors[_POSITIVE],
        negative=tensors.get(_NEGATIVE),
        slots=tuple(tensors[_SLOTS].tolist()),
        references=tuple(tensors[_REFERENCE.format(n)] for n in range(count)),
        layers=len(work.item.layers),
    )


class Samples:
    """The samples of a run, in a folder of pictures and their contact sheet."""

    def __init__(
        self,
        model: DiffusionModel,
        samples: Sequence[Sample],
        load_vae: Callable[[], VAEModel],
        folder: Path,
        seed: int,
        run: str = "",
    ) -> None:
        """run: a stamp of all that decides what the pictures of a step are."""
        # what 2.1 keeps of a prompt between runs has the weights of the run before in it
        self._model = replace(model, keep_prefix="off")
        self._samples, self._load_vae = tuple(samples), load_vae
        self._folder, self._seed, self._run = folder, seed, run

    def draw(
        self, step: int, changes: Changes, stop: threading.Event | None = None
    ) -> dict[str, Tensor]:
        """Draws every prompt with these weights, writes the pictures and the sheet, and returns the
        pictures [H,W,3 or 4] by their prompt's number and text. The model's weights are placed for
        drawing: whoever trains on places them again (`DiffusionModel.ready`). Raises InkstoneError,
        and Stopped once `stop` is set; nothing is written then.
        """

        def check(*_: object) -> None:
            if stop is not None and stop.is_set():
                raise Stopped

        hooks = Hooks(on_block=check, previews=False)
        with changes.on(self._model.network):
            latents = [self._latent(sample, hooks) for sample in self._samples]
        check()
        vae = self._load_vae()
        pictures = [_flat(vae.decode(latent)) for latent in latents]
        del vae
        gc.collect()
        hand_back()
        self._write(step, pictures)
        return self._named(pictures)

    def kept(self, step: int) -> dict[str, Tensor] | None:
        """What `draw` returned, where the folder has the pictures of a step and these prompts."""
        paths = [sample_path(self._folder, step, n) for n in range(1, len(self._samples) + 1)]
        try:
            if [read_text_chunks(path).get(_FACTS) for path in paths] != self._facts(step):
                return None
            return self._named([read_picture(path)[0] for path in paths])
        except InkstoneError:  # missing, cut, another file
            return None

    def _named(self, pictures: Sequence[Tensor]) -> dict[str, Tensor]:
        return {
            f"{n} {one.prompt}": p for n, (one, p) in enumerate(zip(self._samples, pictures), 1)
        }

    def _facts(self, step: int) -> list[str]:
        """What the picture of each prompt says of itself."""
        return [
            json.dumps({"prompt": one.prompt, "step": step, "seed": self._seed, "run": self._run})
            for one in self._samples
        ]

    def _is_own(self, path: Path, prompt: str) -> bool:
        """True for a picture of this run and prompt: an earlier run may have left others, and a run
        may go on with other prompts.
        """
        try:
            facts = parse_json(read_text_chunks(path).get(_FACTS, ""))
        except (InkstoneError, ValueError):
            return False
        return isinstance(facts, dict) and (facts.get("prompt"), facts.get("run")) == (
            prompt,
            self._run,
        )

    def _latent(self, sample: Sample, hooks: Hooks) -> Tensor:
        model, (width, height) = self._model, sample.size
        usual = usual_settings(model, len(sample.references))
        _, rows, columns = token_grid(width, height)
        steps = min(usual.preset.steps, MOST_STEPS)
        request = Request(
            width=width,
            height=height,
            sigmas=sigmas(usual.schedule, steps, rows * columns),
            seed=self._seed,
            cfg=usual.preset.cfg if sample.negative is not None else 1.0,
            references=sample.references,
            slots=sample.slots,
            layers=sample.layers,
        )
        return denoise(model, sample.positive, sample.negative, request, hooks)

    def _write(self, step: int, pictures: Sequence[Tensor]) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InkstoneError(
                f"{self._folder}: samples cannot be written: {error.strerror}. Check the folder "
                "and the free space; the same command resumes from the last checkpoint."
            ) from None
        for number, (facts, picture) in enumerate(zip(self._facts(step), pictures), 1):
            path = sample_path(self._folder, step, number)
            save_png(path, picture.numpy(), {_FACTS: facts})
        write_sheet(self._folder, [sample.prompt for sample in self._samples], self._is_own)
        log.info("samples of step %d are in %s", step, self._folder)


def _flat(pictures: Tensor) -> Tensor:
    """[n,H,W,C] -> [H,n*W,C]: layers beside one another, without an alpha that says nothing."""
    return torch.cat(list(without_opaque(pictures)), dim=1)
