"""The Python API: `inkstone.draw(...)` gives pictures, `inkstone.load(...)` keeps models between
calls. Keywords have the names and meanings of the command line's options.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image, ImageOps

from ...errors import CallError
from ..node_types import Json
from .drawer import Drawer, Progress, Result
from .option_values import parse_values
from .request import DrawCall, check_call, without_own_size

if TYPE_CHECKING:
    from numpy import ndarray

Option: TypeAlias = object
"""A number, a text or path, True or False, a picture, (width, height), or a list of them."""

_MODEL_OPTIONS = ("model", "text_encoder", "vae", "lora", "dtype", "memory", "device", "variant")
_PICTURES = ("image", "mask")
_EXPECTED = {  # of options that may be tuples
    "lora": "(path, strength), or a list of these",
    "region": "(prompt, (x, y, width, height)), (prompt, mask), or a list of these",
    "control": '(type, picture), (type, picture, strength), (type, picture, strength, "START-END"),'
    " or a list of these",
}
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_STEPS = {  # of modes that PNG does not have; of the rest: RGB
    "La": ("LA",),
    "RGBa": ("RGBA",),
    "PA": ("RGBA",),
    "I": ("I;16",),
    **{f"I;16{order}": ("I", "I;16") for order in "BLN"},
}


def draw(
    prompt: str, *, on_step: Callable[[int, int], None] | None = None, **options: Option
) -> list[Image.Image]:
    """Draws pictures from a prompt; nothing is kept for the next call.

    options: model, text_encoder, vae, lora, size, steps, cfg, schedule, negative, seed, batch,
    fast, enhance, instructions, image, mask, strength, layers, control, control_model, control_fit,
    region, region_method, reference_cache, cache, variety, upscale, upscale_strength, variant,
    dtype, memory, device; see `inkstone draw --help` and docs/api.md. on_step(done, total) is
    called after every step. Returns PIL pictures: `batch` of them, of Qwen-Image-Layered
    `batch * layers` with alpha.
    Raises errors.CallError where the call is wrong, errors.InkstoneError where drawing failed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="inkstone-") as folder,
        _call(prompt, options, Path(folder)) as call,
    ):
        return _pictures(Drawer(once=True).draw(call, on_step or _quiet))


def load(**options: Option) -> LoadedModels:
    """Opens models and keeps them: the options model, text_encoder, vae, lora, dtype, memory,
    device and variant of `draw`. Raises as `draw`.
    """
    unknown = sorted(set(options) - set(_MODEL_OPTIONS))
    if unknown:
        raise CallError(
            f"load() has no option {unknown[0]!r}: expected {', '.join(_MODEL_OPTIONS)}. Give the "
            "others to draw()."
        )
    return LoadedModels(options)


class LoadedModels:
    """Loaded models. Encoded prompts are kept too: a new seed encodes nothing again. Threads may
    share them; they draw one after the other.
    """

    def __init__(self, options: Mapping[str, Option]) -> None:
        self._drawer, self._options = Drawer(), dict(options)
        self._folder = Path(tempfile.mkdtemp(prefix="inkstone-"))  # for pictures in memory
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._lock = threading.RLock()  # no other call takes the models or pictures of this one
        with _call("", self._options, self._folder) as call:
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
        with self._lock, _call(prompt, self._options | options, self._folder) as call:
            return _pictures(self._drawer.draw(call, on_step or _quiet))

    def close(self) -> None:
        """Frees the memory of the models. A later `draw` opens them again."""
        self._drawer.clear()

    def __enter__(self) -> LoadedModels:
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
def _call(prompt: str, options: Mapping[str, Option], folder: Path) -> Iterator[DrawCall]:
    """The checked call. Pictures in memory are files in the folder for as long as it lasts."""
    if not isinstance(prompt, str):
        raise CallError(f"prompt is of type {type(prompt).__name__}, expected a text.")
    try:
        call = without_own_size(replace(DrawCall(prompt), **option_values(options, folder)))
        check_call(call)
        yield call
    finally:
        for file in folder.iterdir():
            file.unlink(missing_ok=True)


def option_values(options: Mapping[str, Option], folder: Path) -> dict[str, Json]:
    """Options as the values of DrawCall. Raises CallError; pictures are saved into the folder."""
    texts = {name: _as_text(name, value, folder) for name, value in options.items()}
    return parse_values({name: text for name, text in texts.items() if text is not None})


def _as_text(name: str, value: Option, folder: Path) -> Option:
    """A value as the command line writes it; pictures are saved into the folder."""
    if isinstance(value, Image.Image):
        if name not in _PICTURES:
            more = f", {_EXPECTED[name]}" if name in _EXPECTED else ""
            raise CallError(f"{name} is a picture: expected the path of a file{more}.")
        return _saved(name, value, folder)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if name == "size" and isinstance(value, (tuple, list)):
        return "x".join(map(str, value))
    if name in _EXPECTED and isinstance(value, tuple) and not _is_tuple_of_tuples(value):
        return _joined(name, value, folder)
    if isinstance(value, (list, tuple)):
        return [_as_text(name, item, folder) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, Real):  # NumPy's too
        number = int(value) if isinstance(value, Integral) else float(value)
        return str(int(number)) if name == "memory" else number
    raise CallError(
        f"{name} is of type {type(value).__name__}: expected a number, a text, a path, a PIL "
        "picture or a list of them, as docs/api.md says."
    )


def _is_tuple_of_tuples(value: tuple[Option, ...]) -> bool:
    return bool(value) and all(isinstance(item, tuple) for item in value)


def _joined(name: str, value: tuple[Option, ...], folder: Path) -> str:
    """(path, strength) of a LoRA, (prompt, box) of a region or (type, picture, strength,
    "START-END") of a control.
    """
    if name == "region":
        return _region(value, folder)
    at, most = (0, 2) if name == "lora" else (1, 4)  # of the file, of parts
    parts = [
        _saved(name, part, folder) if isinstance(part, Image.Image) and k == at else part
        for k, part in enumerate(value)
    ]
    kinds = [(str, os.PathLike) if k == at else (str, Real) for k in range(len(parts))]
    if not at < len(parts) <= most or not all(map(isinstance, parts, kinds)):
        raise CallError(f"{name} is {_short(value)}: expected {_EXPECTED[name]}.")
    return ":".join(_plain(part) for part in parts)


def _region(value: tuple[Option, ...], folder: Path) -> str:
    """(prompt, box): the box as a text, or as four numbers or texts with percent; (prompt, mask): a
    picture or its path.
    """
    prompt, box = value if len(value) == 2 else (None, None)
    mask = _saved("region", box, folder) if isinstance(box, Image.Image) else box
    if isinstance(prompt, str) and isinstance(mask, (str, os.PathLike)) and "," not in str(mask):
        return f'"{prompt}":{os.fspath(mask)}' if '"' not in prompt else f"{prompt}:{mask}"
    sides = box.split(",") if isinstance(box, str) else box
    if isinstance(sides, (tuple, list)) and isinstance(prompt, str) and len(sides) == 4:
        if all(isinstance(side, (str, Real)) for side in sides):
            return f"{prompt}:{','.join(_plain(side) for side in sides)}"
    raise CallError(f"region is {_short(value)}: expected {_EXPECTED['region']}.")


def _plain(part: Option) -> str:
    """A path or a number without an exponent."""
    if isinstance(part, Real):
        return f"{float(part):.12f}".rstrip("0").rstrip(".")
    return os.fspath(part) if isinstance(part, os.PathLike) else str(part)


def _short(value: tuple[Option, ...]) -> str:
    words = [x if isinstance(x, (str, Real)) else type(x).__name__ for x in value]
    return "(" + ", ".join(map(str, words)) + ")"


def _saved(name: str, picture: Image.Image, folder: Path) -> str:
    """The file of a picture in memory, upright and without loss. It is named by its content, so
    that what was encoded of the same picture is found again.
    """
    if not picture.width or not picture.height:
        raise CallError(f"{name} is a picture without pixels: {picture.width}x{picture.height}.")
    picture = ImageOps.exif_transpose(picture)
    for mode in _STEPS.get(picture.mode, () if picture.mode in _PNG_MODES else ("RGB",)):
        picture = picture.convert(mode)
    data = io.BytesIO()
    picture.save(data, "PNG")
    path = folder / f"{name}_{hashlib.sha256(data.getvalue()).hexdigest()[:32]}.png"
    path.write_bytes(data.getvalue())
    return str(path)


__all__ = ["LoadedModels", "Progress", "draw", "load"]
