"""The pictures of a draw: read and checked before the models, put on their canvases, and the result
put back to the size of the picture.

What is done with them is the model's variant to say: an edit model takes them as Picture 1, 2, 3, a
text-to-image model starts from one, the layered model takes one apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...errors import CallError, InkstoneError
from ...files.hashes import picture_hash
from ...files.images import read_mask, read_picture

if TYPE_CHECKING:
    from torch import Tensor

    from ...loaders.models.bundle import Bundle
    from ...loaders.models.diffusion_model import DiffusionModel
    from ...sampling.inpaint import Repaint
    from ...sampling.pixel_lock import Lock

STRENGTH = 0.6  # of image-to-image and inpaint, as the reference
FEATHER = 8  # pixels over which a seam fades, inside the mask


class Call(Protocol):
    """What is asked of a draw call."""

    prompt: str
    size: tuple[int, int] | None
    image: Sequence[Path]
    mask: Path | None
    strength: float | None
    layers: int | None
    control: Sequence[object]


def check_pictures(call: Call) -> None:
    """Raises CallError where the options do not go together or a file is not there."""
    for name, path in [("--image", p) for p in call.image] + [("--mask", call.mask)]:
        if path is not None and not path.is_file():
            raise CallError(f"{name} {path}: no such picture file. Check the path.")
    for name in ("mask", "strength", "layers"):
        alone = name == "mask" and call.control  # a control takes it
        if getattr(call, name) is not None and not call.image and not alone:
            raise CallError(f"--{name} works on a picture: give it with --image F.")
    if call.image and call.size is not None:
        raise CallError(
            "--size and --image do not go together: the result has exactly the size of the "
            "picture. Leave --size out."
        )


@dataclass(frozen=True)
class Given:
    """The pictures [1,H,W,C] and the mask [1,H,W] of a call."""

    pictures: tuple[Tensor, ...] = ()
    mask: Tensor | None = None


def read_given(call: Call) -> Given:
    """Reads the files of a call."""
    mask = None if call.mask is None else read_mask(call.mask)
    return Given(tuple(read_picture(path) for path in call.image), mask)


def picture_facts(call: Call) -> dict:
    """Name and hash of the files, for the PNG."""
    named = [{"name": path.name, "hash": picture_hash(path)} for path in call.image]
    mask = call.mask and {"name": call.mask.name, "hash": picture_hash(call.mask)}
    return ({"pictures": named} if named else {}) | ({"mask": mask} if mask else {})


@dataclass(frozen=True)
class Task:
    """What is drawn from what. Nothing is encoded before it is asked for."""

    kind: str  # "text", "image", "edit" or "layers"
    pictures: tuple[Tensor, ...] = ()
    locks: tuple[Lock, ...] = ()
    repaint: Repaint | None = None
    strength: float = 1.0
    layers: int = 0

    @property
    def size(self) -> tuple[int, int] | None:
        """The canvas; None where no picture decides it."""
        return self.locks[0].canvas if self.locks else None

    @property
    def beside(self) -> tuple[tuple[int, int], ...]:
        """Canvases of the reference pictures."""
        return tuple(lock.canvas for lock in self.locks) if self.kind in ("edit", "layers") else ()

    def states(self, bundle: Bundle, text: str) -> Tensor:
        """The text, with the pictures where this model's text encoder sees them."""
        from ...pipeline.edit import edit_states, template_of

        if self.kind != "edit":
            return bundle.text_encoder.encode(text)
        return edit_states(bundle.text_encoder, template_of(bundle.model), text, self.pictures)

    def inputs(self, bundle: Bundle) -> dict:
        """What the pictures add to a Request."""
        from ...pipeline.edit import references

        if self.kind == "text":
            return {}
        found = references(bundle.vae, self.pictures, self.locks)
        mask = None if self.repaint is None else self.repaint.latent_mask()
        beside = found if self.kind in ("edit", "layers") else ()
        return {"latent": found[0], "references": beside, "repaint": mask, "layers": self.layers}

    def finish(self, decoded: Tensor) -> Tensor:
        """The decoded canvas [B,h,w,C] -> pictures of the size of Picture 1, with its alpha."""
        from ...sampling.inpaint import paste

        if self.repaint is not None:
            return self.repaint.stitch(decoded)
        if not self.locks:
            return decoded
        result = self.locks[0].from_canvas(decoded)
        own = self.kind == "layers" or not self.pictures
        return result if own else paste(self.pictures[0], result)


TEXT = Task("text")


def task_of(call: Call, model: DiffusionModel, given: Given) -> Task:
    """What this model does with these pictures. Raises where it cannot."""
    from ...pipeline.edit import LAYER_AREAS, locks_for, repaint_for, template_of
    from ...sampling.pixel_lock import lock, size_of
    from ...sampling.request import USUAL_LAYERS

    pictures, strength = given.pictures, call.strength
    if model.layered:
        if len(pictures) != 1:
            raise InkstoneError(
                f"{model.path}: Qwen-Image-Layered takes one picture apart, got {len(pictures)}. "
                "Give the picture with --image."
            )
        area = next(iter(LAYER_AREAS.values()))
        locks = tuple(lock(*size_of(p), area) for p in pictures)
        return Task("layers", pictures, locks, layers=call.layers or USUAL_LAYERS)
    if call.layers is not None:
        raise CallError("--layers is for Qwen-Image-Layered, this model draws one picture.")
    if not pictures:
        return TEXT
    started = call.strength is not None or given.mask is not None
    kind = "edit" if _edits(model, len(pictures), started) else "image"
    if kind == "edit":
        template_of(model).check(len(pictures))
    strength = strength if strength is not None else 1.0 if kind == "edit" else STRENGTH
    if given.mask is None:
        return Task(kind, pictures, locks_for(model.family, pictures), strength=strength)
    made = repaint_for(model.family, pictures[0], given.mask, (0, FEATHER), ("auto", "auto"))
    pictures = (made.canvas(), *pictures[1:])
    locks = locks_for(model.family, pictures)
    return Task(kind, pictures, locks, made, strength)


def _edits(model: DiffusionModel, pictures: int, started: bool) -> bool:
    """True for an edit model, unless it can draw too and the picture is `started` from (a strength,
    a mask); a text-to-image model takes one picture."""
    if model.variant is None:
        raise InkstoneError(
            f"{model.path.name} does not say which variant it is: the tensors of Qwen-Image, Edit "
            "and Edit-2509 are identical. Add --variant qwen-image to start from the picture, or "
            "--variant edit, edit-2509 or edit-2511 to edit it."
        )
    edits = model.edit is not None and not (model.variant.draws and started)
    if not edits and pictures > 1:
        raise CallError(
            f"{pictures} pictures for {model.variant.name}, which starts from one. Give one "
            "--image, or use a Qwen-Image-Edit model."
        )
    return edits
