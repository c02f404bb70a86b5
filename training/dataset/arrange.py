"""A dataset for one model: what of it the model can learn, in which bucket, with which canvases.

Nothing is read here but the records of the model, so a report and a plan cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import InkstoneError
from ...kernels.rope import Grid
from ...loaders.arch.chat import PICTURE_PAD
from ...loaders.arch.family import EditTemplate
from ...loaders.models.diffusion_model import DiffusionModel
from ...pipeline.edit import area_for, template_of
from ...pipeline.edit_choices import AUTO
from ...sampling.geometry import LatentSpec
from ...sampling.pixel_lock import Lock, lock
from ...sampling.vision_sizes import QWEN25_SIGHT
from . import buckets
from .buckets import Fit
from .findings import Finding
from .items import Dataset, Item, nothing_left

MUCH_CROPPED = 0.1  # said by name


@dataclass(frozen=True)
class CacheSettings:
    """What of the settings of a training decides about its examples."""

    resolution: int  # side of a square bucket, in pixels
    reference_resolution: int | None = None  # at most so many pixels squared; None = as inference
    dropped: bool = True  # empty captions are encoded too, for caption dropout


@dataclass(frozen=True)
class Work:
    """One example before it is encoded: its files and the sizes that they get."""

    item: Item
    fit: Fit
    locks: tuple[Lock, ...]  # of the references: their canvases
    latents: LatentSpec
    edit: EditTemplate | None = None  # of the prompt, where there are references

    @property
    def drawn(self) -> int:
        """Images that are drawn: the picture, and its layers behind it."""
        return 1 + len(self.item.layers)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Tokens of the drawn images, then of the references; of layers the picture is one."""
        token = self.latents.scale * self.latents.patch
        canvases = [own.canvas for own in self.locks]
        if self.item.layers:
            canvases = [self.fit.bucket]
        sizes = [self.fit.bucket] * self.drawn + canvases
        return tuple((1, height // token, width // token) for width, height in sizes)


@dataclass(frozen=True)
class Arranged:
    """The examples that a model can learn, and what was found on the way."""

    model: DiffusionModel
    settings: CacheSettings
    dataset: Dataset
    works: tuple[Work, ...]
    findings: tuple[Finding, ...]  # of the dataset too


def arrange(dataset: Dataset, model: DiffusionModel, settings: CacheSettings) -> Arranged:
    """Raises CallError for a resolution that this model has not, and InkstoneError where the model
    cannot learn from such a dataset at all.
    """
    step = model.latents.step
    buckets.check_resolution(settings.resolution, step)
    _check_kind(dataset, model)
    works, findings = [], list(dataset.findings)
    for item in dataset.items:
        fault = _fault(item, model, settings)
        work = _work(item, model, settings) if fault is None else fault
        if isinstance(work, Finding):
            findings.append(work)
        else:
            works.append(work)
            findings += _of_picture(work, settings.resolution)
    if not works:
        raise InkstoneError(nothing_left(dataset.root, findings))
    return Arranged(model, settings, dataset, tuple(works), tuple(findings))


def _check_kind(dataset: Dataset, model: DiffusionModel) -> None:
    """Raises where the dataset is for another kind of model."""
    items, name = dataset.items, model.path.name
    if any(item.references for item in items):
        template_of(model)
    if any(item.layers for item in items) and not model.layered:
        raise InkstoneError(
            f"The JSONL names layers, and {name} draws one picture. Train Qwen-Image-Layered, or "
            'remove the key "layers".'
        )
    if model.layered and not any(item.layers for item in items):
        raise InkstoneError(
            f"{name} is Qwen-Image-Layered, which learns from pictures and their layers. Give a "
            'JSONL with "image" and "layers" in each line.'
        )
    if _needs_references(model) and not any(item.references for item in items):
        raise InkstoneError(
            f"{name} edits pictures, and no picture has a reference: expected pairs. Add "
            '--control-dir FOLDER with the pictures before the edit, or "references" in the JSONL.'
        )


def _needs_references(model: DiffusionModel) -> bool:
    """True for models that only edit."""
    return model.edit is not None and model.variant is not None and not model.variant.draws


def _fault(item: Item, model: DiffusionModel, settings: CacheSettings) -> Finding | None:
    """Why the model cannot learn an example."""
    fault = buckets.fault(item.picture.size, settings.resolution, model.latents.step)
    if fault is not None:
        return Finding(fault[0], item.name, fault[1])
    if model.layered and not item.layers:
        return Finding("bad layers", item.name, "it has none")
    if _needs_references(model) and not item.references:
        return Finding("no reference", item.name)
    if item.references:
        if PICTURE_PAD in (item.caption or ""):
            return Finding("bad caption", item.name, f"{PICTURE_PAD} marks the place of a picture")
        try:
            _check_references(item, template_of(model))
        except InkstoneError as error:
            return Finding("bad reference", item.name, str(error))
    return None


def _check_references(item: Item, edit: EditTemplate) -> None:
    edit.check(len(item.references))
    for reference in item.references if edit.sees else ():
        edit.sizes(*reference.size, edit.area, QWEN25_SIGHT)  # refuses narrow ones


def _work(item: Item, model: DiffusionModel, settings: CacheSettings) -> Work | Finding:
    (fit,) = buckets.assign([item.picture.size], settings.resolution, model.latents.step)
    try:
        locks = tuple(reference_lock(model, picture.size, settings) for picture in item.references)
    except InkstoneError as error:  # more pixels on a side than any canvas has
        return Finding("bad reference", item.name, str(error))
    edit = template_of(model) if item.references else None
    return Work(item, fit, locks, model.latents, edit)


def reference_lock(model: DiffusionModel, size: tuple[int, int], settings: CacheSettings) -> Lock:
    """The canvas of a reference of this size: that of inference (`pipeline/edit.lock_for`), or a
    smaller one.
    """
    area = area_for(model.family, AUTO, size)
    if settings.reference_resolution is not None:
        most = settings.reference_resolution**2
        area = most if area is None else min(area, most)
        return lock(*size, area, enlarge=False, latents=model.latents)
    return lock(*size, area, latents=model.latents)


def _of_picture(work: Work, resolution: int) -> Iterator[Finding]:
    """What is said of a picture that is used."""
    name, fit = work.item.name, work.fit
    sizes = "{}x{} at {}x{}".format(*fit.picture, *fit.bucket)
    if buckets.is_smaller(fit, resolution):
        yield Finding("smaller", name, sizes)
    item, count = work.item, len(work.item.references)
    if not item.layers and any(p.transparent for p in (item.picture, *item.references)):
        own = next((n for n, p in enumerate(item.references, 1) if p.transparent), 0)
        yield Finding("transparent", name, "" if item.picture.transparent else f"Picture {own}")
    if work.edit is not None and count > work.edit.usual:
        yield Finding("many references", name, f"{count}, tried with {work.edit.usual}")
    if fit.cropped > MUCH_CROPPED:
        yield Finding("cropped", name, f"{sizes}, {fit.cropped:.0%}")
