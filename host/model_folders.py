"""The model folders and the model names in them: ComfyUI's own, or those of a headless host."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import InkstoneError
from .headless import headless_host

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
    "diffusers": (("diffusers",), ""),
}


_MAX_DEPTH = 6


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
    """The file or folder behind a name of `model_files`; headless runs may also give any path.

    Raises InkstoneError that names the folders searched and the nearest names there.
    """
    plain = PurePosixPath(name.replace("\\", "/"))
    folders = model_folders(kind) + ([] if kind == "diffusers" else model_folders("diffusers"))
    if ".." not in plain.parts and not plain.is_absolute() and name:
        for root in folders:
            if (root / plain).exists():
                return root / plain
    if headless_host() is not None and name and Path(name).exists():
        return Path(name)
    names = model_files(kind)
    near = difflib.get_close_matches(name, names, 3, 0.4) or names[:3]
    hint = (
        f"Similar names there: {', '.join(near)}."
        if near
        else "There is no model there yet: put the file into the first folder."
    )
    searched = ", ".join(str(path) for path in folders)
    raise InkstoneError(f"No {kind} model named {name!r}. Searched: {searched}. {hint}")


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
        if entry.is_dir():
            yield from _walk(entry, component, files, stamps, depth + 1)
        elif files and entry.suffix.lower() in WEIGHT_SUFFIXES and not _LATER_PART(entry.name):
            yield entry
