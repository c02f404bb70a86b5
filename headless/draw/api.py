"""The Python API: `inkstone.draw(...)` gives pictures, `inkstone.load(...)` keeps models between
calls. Keywords have the names and meanings of the command line's options.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image

from ...errors import CallError
from .drawer import Drawer, Progress, Result
from .option_values import parse_values
from .request import DrawCall, check_call

if TYPE_CHECKING:
    from numpy import ndarray

Option: TypeAlias = object
"""A number, a text or path, True or False, a picture, (width, height), or a list of them."""

_MODEL_OPTIONS = ("model", "text_encoder", "vae", "lora", "dtype", "memory", "device", "variant")
_PICTURES = ("image", "mask")


def draw(
    prompt: str, *, on_step: Callable[[int, int], None] | None = None, **options: Option
) -> list[Image.Image]:
    """Draws pictures from a prompt; nothing is kept for the next call.

    options: model, text_encoder, vae, lora, size, steps, cfg, negative, seed, batch, fast, image,
    mask, strength, layers, control, control_model, variant, dtype, memory, device; see
    `inkstone draw --help` and docs/api.md. on_step(done, total) is called after every step.
    Returns PIL pictures: `batch` of them, of Qwen-Image-Layered `batch * layers` with alpha.
    Raises errors.CallError where the call is wrong, errors.InkstoneError where drawing failed.
    """
    with _call(prompt, options) as call:
        return _pictures(Drawer(once=True).draw(call, on_step or _quiet))


def load(**options: Option) -> Models:
    """Opens models and keeps them: the options model, text_encoder, vae, lora, dtype, memory,
    device and variant of `draw`. Raises as `draw`.
    """
    unknown = sorted(set(options) - set(_MODEL_OPTIONS))
    if unknown:
        raise CallError(
            f"load() has no option {unknown[0]!r}: expected {', '.join(_MODEL_OPTIONS)}. Give the "
            "others to draw()."
        )
    return Models(options)


class Models:
    """Loaded models. Encoded prompts are kept too: a new seed encodes nothing again."""

    def __init__(self, options: Mapping[str, Option]) -> None:
        self._drawer, self._options = Drawer(), dict(options)
        with _call("", self._options) as call:
            self._drawer.load(call)

    def draw(
        self, prompt: str, *, on_step: Callable[[int, int], None] | None = None, **options: Option
    ) -> list[Image.Image]:
        """Draws like `inkstone.draw`, with these models. A LoRA that is named here replaces those
        of `load`.
        """
        fixed = sorted((set(options) & set(_MODEL_OPTIONS)) - {"lora"})
        if fixed:
            raise CallError(f"{fixed[0]} belongs to load(): the models are loaded already.")
        with _call(prompt, self._options | options) as call:
            return _pictures(self._drawer.draw(call, on_step or _quiet))

    def close(self) -> None:
        """Frees the memory of the models."""
        self._drawer.clear()

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _quiet(done: int, total: int) -> None:
    """Shows no progress."""


def _pictures(result: Result) -> list[Image.Image]:
    """PIL pictures, rounded to 8 bits."""
    arrays: ndarray = (result.images * 255).round().clamp(0, 255).byte().numpy()
    return [Image.fromarray(array) for array in arrays]


@contextmanager
def _call(prompt: str, options: Mapping[str, Option]) -> Iterator[DrawCall]:
    """The checked call. Pictures in memory are files for as long as it lasts."""
    if not isinstance(prompt, str):
        raise CallError(f"prompt is of type {type(prompt).__name__}, expected a text.")
    with tempfile.TemporaryDirectory(prefix="inkstone-") as folder:
        texts = {name: _as_text(name, value, Path(folder)) for name, value in options.items()}
        values = parse_values({name: text for name, text in texts.items() if text is not None})
        call = replace(DrawCall(prompt), **values)
        check_call(call)
        yield call


def _as_text(name: str, value: Option, folder: Path) -> Option:
    """A value as the command line writes it; pictures are saved into the folder."""
    if isinstance(value, Image.Image):
        if name not in _PICTURES:
            raise CallError(f"{name} is a picture: expected the path of a file.")
        return _saved(name, value, folder)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if name == "size" and isinstance(value, (tuple, list)):
        return "x".join(map(str, value))
    if name == "lora" and isinstance(value, tuple):
        path, strength = value
        return f"{os.fspath(path)}:{strength}"
    if name == "control" and isinstance(value, tuple):
        kind, picture, *more = value
        path = _saved(name, picture, folder) if isinstance(picture, Image.Image) else picture
        return ":".join([f"{kind}:{os.fspath(path)}", *map(str, more)])
    if name == "memory" and isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_as_text(name, item, folder) for item in value]
    return value


def _saved(name: str, picture: Image.Image, folder: Path) -> str:
    """The file of a picture in memory, without loss."""
    path = folder / f"{name}_{len(os.listdir(folder)) + 1}.png"
    try:
        picture.save(path)
    except OSError:  # a mode that PNG has not: CMYK, YCbCr
        picture.convert("RGB").save(path)
    return str(path)


__all__ = ["Models", "Progress", "draw", "load"]
