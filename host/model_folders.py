"""The model folders and the model names in them: ComfyUI's own, or those of a headless host."""

from __future__ import annotations

import difflib
import itertools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import InkstoneError, shorten
from ..files.paths import kind_of, name_fault
from ..files.stamps import Stamp, stamp_of
from .headless import headless_host, is_own_path

log = logging.getLogger(__name__)


WEIGHT_SUFFIXES = (".safetensors", ".sft", ".gguf")


_LATER_PART = re.compile(r".*-(?!00001-)\d{5}-of-\d{5}\.gguf").fullmatch  # opened with the first


# kind -> (folders under models/, the component folder inside a Hugging Face model folder)
KINDS = {
    "diffusion_models": (("diffusion_models", "unet"), "transformer"),
    "text_encoders": (("text_encoders", "clip"), "text_encoder"),
    "vae": (("vae",), "vae"),
    "loras": (("loras",), "loras"),  # model folders have no LoRA part
    "controlnet": (("controlnet", "model_patches"), "controlnet"),  # for blockwise ones
    "annotators": (("annotators", "preprocessors", "depthanything"), "annotators"),  # control maps
    "checkpoints": (("checkpoints",), ""),  # three models in one file; whole folders count too
    "diffusers": (("diffusers",), ""),
}


_MAX_DEPTH = 6
_MAX_FILES = 1000  # of a model folder


_MODELS = ("a file", "a folder")


def model_folders(kind: str) -> list[Path]:
    """The folders searched for models of a kind, best first. Raises on an unknown kind."""
    if kind not in KINDS:
        raise InkstoneError(f"Unknown model kind {kind!r}; expected one of {', '.join(KINDS)}.")
    headless = headless_host()
    if headless is not None:
        return [Path(root) / name for root in headless.models for name in KINDS[kind][0]]
    import folder_paths

    known = [n for n in (kind, *KINDS[kind][0]) if n in folder_paths.folder_names_and_paths]
    paths = [Path(path) for name in known for path in folder_paths.get_folder_paths(name)]
    return list(dict.fromkeys(paths)) or [
        Path(folder_paths.models_dir) / name for name in KINDS[kind][0]
    ]


def folder_for_new(kind: str) -> Path:
    """Where new models of a kind are saved: models/KIND, which is not always searched first."""
    folders = model_folders(kind)
    return next((folder for folder in folders if folder.name == kind), folders[0])


def model_files(kind: str) -> list[str]:
    """Names of the models of a kind, sorted: weight files, and model folders that have the part.

    Names are relative, with "/" on every system. Files inside model folders are not listed.
    """
    component = KINDS.get(kind, ((), ""))[1]
    names: set[str] = set()
    for root in model_folders(kind):
        names.update(_scan(root, component, files=kind != "diffusers"))
    if kind != "diffusers":
        for root in model_folders("diffusers"):
            names.update(_scan(root, component, files=False))
    return sorted(names, key=str.lower)


def model_path(kind: str, name: str) -> Path:
    """The file or folder behind a name of `model_files`; without ComfyUI also others below these
    folders, and paths that the user gave.

    Raises InkstoneError: without ComfyUI it names the folders searched and the nearest names.
    """
    folders = model_folders(kind) + ([] if kind == "diffusers" else model_folders("diffusers"))
    names = model_files(kind)
    plain = name.replace("\\", "/") if isinstance(name, str) else ""  # of a graph from Windows
    if headless_host() is None and plain not in names:
        raise InkstoneError(f"Value not in list: {shorten(repr(name))} not in {_choices(names)}")
    fault = None if plain in names else name_fault(name)
    for root in folders if fault is None else []:
        if kind_of(root / plain) in _MODELS:  # whoever keeps models may link to other disks
            return root / plain
    own = isinstance(name, str) and is_own_path(name)
    if own and kind_of(Path(name)) in _MODELS:
        return Path(name)
    if fault is not None and not own:
        raise InkstoneError(
            f"The {kind} model's name {shorten(repr(name))} {fault}. Give a name below models/, or "
            "a path of your own with --set NODE.INPUT=PATH."
        )
    near = difflib.get_close_matches(name, names, 3, 0.4) or names[:3]
    hint = (
        f"Similar names there: {', '.join(near)}."
        if near
        else "There is no model there yet: put the file into the first folder."
    )
    searched = ", ".join(str(path) for path in folders)
    raise InkstoneError(
        f"No {kind} model named {shorten(repr(name))}. Searched: {searched}. {hint}"
    )


def _choices(names: list[str]) -> str:
    """As ComfyUI shows the choices of a list."""
    return str(names) if len(names) <= 20 else f"(list of length {len(names)})"


def model_stamp(kind: str, name: object) -> list[tuple[str, Stamp]]:
    """What the system keeps of a model's files; another where one of them was replaced or written
    to. Empty of what is no file of somebody's.
    """
    try:
        return stamps_of(model_path(kind, str(name)))
    except (OSError, InkstoneError):  # whoever opens it says what is wrong
        return []


def stamps_of(path: Path) -> list[tuple[str, Stamp]]:
    """What the system keeps of a file, or of the files in a folder. Raises OSError."""
    if path.is_file():
        return [("", stamp_of(path.stat()))]
    files = itertools.islice((file for file in path.rglob("*") if file.is_file()), _MAX_FILES)
    return sorted((str(file.relative_to(path)), stamp_of(file.stat())) for file in files)


def known_model(kind: str, name: str) -> bool | str:
    """For a loader's validate_inputs: True, or the error for a model that does not exist."""
    try:
        return bool(model_path(kind, name))
    except InkstoneError as error:
        return str(error)


_scans: dict[tuple[str, str, bool], tuple[dict[str, int], list[str]]] = {}


def _scan(root: Path, component: str, files: bool) -> list[str]:
    """Names under one folder, cached until the time stamp of a folder in it changes."""
    key = (str(root), component, files)
    if key in _scans and all(_stamp(path) == stamp for path, stamp in _scans[key][0].items()):
        return _scans[key][1]
    stamps: dict[str, int] = {}
    names = [
        str(PurePosixPath(path.relative_to(root).as_posix()))
        for path in _walk(root, component, files, stamps)
    ]
    _scans[key] = (stamps, names)
    return names


def _stamp(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def _is_around(link: Path, folder: Path) -> bool:
    """True if a link leads back to the folder that it is in, or to one around that."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(link))


def _walk(
    folder: Path, component: str, files: bool, stamps: dict[str, int], depth: int = 0
) -> Iterator[Path]:
    """Weight files and model folders below `folder`; adds every folder visited to `stamps`."""
    stamps[str(folder)] = _stamp(str(folder))
    if depth > _MAX_DEPTH or stamps[str(folder)] < 0:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        log.warning("cannot read the model folder %s: %s", folder, error)
        return
    if depth and (folder / "model_index.json").is_file():
        if (folder / component).is_dir():
            yield folder
        return
    if depth and files and any(entry.name.endswith(".safetensors.index.json") for entry in entries):
        yield folder
        return
    for entry in entries:
        if entry.is_symlink() and _is_around(entry, folder):
            continue  # a circle: every turn would multiply the names
        if entry.is_dir():
            yield from _walk(entry, component, files, stamps, depth + 1)
        elif files and entry.suffix.lower() in WEIGHT_SUFFIXES and not _LATER_PART(entry.name):
            yield entry
