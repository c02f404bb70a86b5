"""The files that one GGUF model consists of: opened, checked against each other, and joined."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import InkstoneError
from ...files.stamps import Stamp
from .file_reader import AGAIN, DiskFile
from .gguf_header import GGUFEntry, GGUFHeader, read_architecture, read_gguf_header
from .safetensors_header import show
from .weight_reader import Closable

MAX_PARTS = 1024
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_REMEDIES = ("download", "Rename", "Use ", "use ", "git lfs", "Log in", "Unpack")


@dataclass
class GGUFPart(Closable):
    """One open file, its stamp when the header was read, and the header."""

    disk: DiskFile
    stamp: Stamp
    header: GGUFHeader

    def close(self) -> None:
        self.disk.close()

    def require_unchanged(self, name: str) -> None:
        """InkstoneError where the file is no longer the one whose header was read."""
        self.disk.require_unchanged(self.stamp, name)

    def number(self, key: str, default: int) -> int:
        """A whole number of the metadata."""
        text = self.header.metadata.get(key, str(default))
        if not text.isdecimal():
            raise InkstoneError(
                f"{self.disk.path}: {key} is {show(text)}, expected a number. {AGAIN}"
            )
        return int(text)


def open_parts(path: Path) -> list[GGUFPart]:
    """The file, or all parts of it, whichever part was named."""
    first = _open_part(path)
    parts = []
    try:
        count = first.number("split.count", 1)
        if count <= 1:
            return [first]
        for part_path in _part_paths(path, count):
            parts.append(first if part_path == path else _open_part(part_path))
    except BaseException:
        for part in (first, *parts):
            part.close()
        raise
    return parts


def join(path: Path, parts: Sequence[GGUFPart]) -> dict[str, GGUFEntry]:
    """The tensors of all parts, which must fit together."""
    entries: dict[str, GGUFEntry] = {}
    count = len(parts)
    for index, part in enumerate(parts):
        number, total = part.number("split.no", 0), part.number("split.count", count)
        if count > 1 and (number, total) != (index, count):
            raise InkstoneError(
                f"{part.disk.path}: its header calls it part {number + 1} of {total}, "
                f"expected part {index + 1} of {count}. Download all parts again."
            )
        twice = entries.keys() & part.header.entries.keys()
        if twice:
            raise InkstoneError(
                f"{part.disk.path}: tensor {show(min(twice))} is in another "
                "part too. Download all parts again."
            )
        for name, entry in part.header.entries.items():
            entries[name] = replace(entry, part=index) if index else entry
    expected = parts[0].number("split.tensors.count", len(entries))
    if count > 1 and expected != len(entries):
        raise InkstoneError(
            f"{path}: its {count} parts contain {len(entries)} tensors, "
            f"expected {expected}. Download all parts again."
        )
    if not entries:
        raise InkstoneError(
            f"{path}: it contains no tensors, only settings or a tokenizer. "
            "Use the file with the weights."
        )
    return entries


def architecture_of(path: Path) -> str:
    """The architecture that a GGUF file names in its first keys; "" for any other file."""
    try:
        with DiskFile(path, ".gguf") as disk:
            size = disk.stamp().size
            return read_architecture(lambda view, at: disk.fill(view, at, path.name), size)
    except InkstoneError:
        return ""


def _open_part(path: Path) -> GGUFPart:
    disk = DiskFile(path, ".gguf")
    try:
        stamp = disk.stamp()
        header = read_gguf_header(lambda view, at: disk.fill(view, at, "the header"), stamp.size)
        return GGUFPart(disk, stamp, header)
    except InkstoneError as error:
        disk.close()
        fault = str(error).rstrip(".")
        remedy = "" if any(word in str(error) for word in _REMEDIES) else AGAIN
        raise InkstoneError(f"{path}: not a valid .gguf file: {fault}. {remedy}".rstrip()) from None
    except BaseException:
        disk.close()
        raise


def _part_paths(path: Path, count: int) -> list[Path]:
    if count > MAX_PARTS:
        raise InkstoneError(
            f"{path}: split.count is {count}, at most {MAX_PARTS} parts are read. {AGAIN}"
        )
    match = _PART.fullmatch(path.name)
    if not match or int(match[3]) != count:
        raise InkstoneError(
            f"{path}: it is one of {count} parts, so its name should end in "
            f"-00001-of-{count:05}.gguf. Give all parts the publisher's names again."
        )
    names = [f"{match[1]}-{number + 1:05}-of-{count:05}.gguf" for number in range(count)]
    paths = [path.with_name(name) for name in names]
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise InkstoneError(
            f"{path}: {len(missing)} of its {count} parts are missing: "
            f"{', '.join(missing[:5])}. Download them into the same folder."
        )
    return paths
