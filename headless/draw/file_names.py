"""The files of a draw as a graph names them: by the names that the loader nodes list.

A loader node looks in the models folder, Load Image in the input folder, so that is what a name is
relative to. A file that is elsewhere goes by its own name, and a note says where to
put it. No path of this machine gets into a picture.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...files.hashes import model_hash
from ...host import directories, model_folders

INPUT = "input"  # the kind of pictures
_WHOLE = "diffusers"  # the folder of whole model folders


class FilePaths:
    """Names that are whole paths: what runs on this machine takes its files wherever they are."""

    def of(self, kind: str, path: Path) -> str:
        """The absolute path. Folders on the way are resolved where it goes up from one, which may
        be a link; the file is not: its own name says what it is.
        """
        return _unmistakable(kind, str(_absolute(path)))

    def away(self) -> list[str]:
        """Nothing has to be put anywhere."""
        return []


class FileNames:
    """The name of each file, in the order in which they are asked for."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, Path], str] = {}
        self._away: set[tuple[str, Path]] = set()

    def of(self, kind: str, path: Path) -> str:
        """Its name below the folder of a kind. What lies elsewhere gets its own name, with a number
        where another file of the graph has that.
        """
        key = (kind, _absolute(path))
        if key not in self._names:
            found = _below(key[1], kind)
            if found is None:
                self._away.add(key)
            taken = {name for (other, _), name in self._names.items() if other == kind}
            self._names[key] = found or _free(key[1], taken)
        return _unmistakable(kind, self._names[key])

    def away(self) -> list[str]:
        """Instructions for files outside the folders, one line per folder."""
        folders: dict[str, list[str]] = {}
        for (kind, path), name in self._names.items():
            if (kind, path) in self._away:
                said = name if name == path.name else f"{path.parent.name}/{path.name} as {name}"
                place = "the input folder" if kind == INPUT else f"models/{_kept_in(kind, path)}"
                folders.setdefault(place, []).append(said)
        return [f"put {', '.join(names)} into {place}" for place, names in folders.items()]

    def models(self) -> dict[str, dict[str, object]]:
        """Name -> folder, hash and size of every model file, as `extra.inkstone.models` has it."""
        return {
            name: {"directory": _kept_in(kind, p), "hash": model_hash(p), "size": _bytes(p)}
            for (kind, p), name in self._names.items()
            if kind != INPUT
        }


def _absolute(path: Path) -> Path:
    if path.name == "..":
        return path.resolve()
    return path.parent.resolve() / path.name if ".." in path.parts else Path(os.path.abspath(path))


def _unmistakable(kind: str, name: str) -> str:
    """Load Image reads "x [output]" as x in the output folder: such a name gets its own folder."""
    return f"{name} [{INPUT}]" if kind == INPUT and name.endswith("]") else name


def is_embedded(path: Path | None) -> bool:
    """True for the model that ships."""
    from ...loaders.models.load import EMBEDDED_FOLDER

    return path is None or _absolute(path) == EMBEDDED_FOLDER


def _below(path: Path, kind: str) -> str | None:
    """The path from a folder where this host looks, or from the nearest that is called like one."""
    if kind == INPUT:
        folders, names = [directories.input_directory()], {INPUT}
    else:
        folders = model_folders.model_folders(kind) + model_folders.model_folders(_WHOLE)
        names = {*model_folders.KINDS[kind][0], _WHOLE}
    for folder in folders:
        root = Path(os.path.abspath(folder))
        if root in path.parents:
            return path.relative_to(root).as_posix()
    for parent in path.parents:
        if parent.name in names:
            return path.relative_to(parent).as_posix()
    return None


def _free(path: Path, taken: set[str]) -> str:
    name, k = path.name, 1
    while name in taken:
        k += 1
        name = f"{path.stem}_{k}{path.suffix}"
    return name


def _kept_in(kind: str, path: Path) -> str:
    return _WHOLE if (path / "model_index.json").is_file() else kind


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    return sum(file.stat().st_size for file in files)
