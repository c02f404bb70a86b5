"""A Hugging Face model folder: the places of a model's parts, and their configs.

A part may be named by its folder, its index, or the weight file itself; its config.json counts in
all three cases, and so do `scheduler/` and `vae/` of the folder that it is in.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ...errors import InkstoneError
from ...files.json_text import parse_json
from ...files.paths import kind_of

log = logging.getLogger(__name__)
_MOST = 16 << 20  # bytes of a plausible config.json
_USUAL = ("diffusion_pytorch_model", "model")  # stems of weight files in published folders
_UNREADABLE = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".onnx")
_LATER_GGUF = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$|mmproj")

# A config.json next to a single file counts only when it names one of these.
CLASSES = frozenset(
    {
        "QwenImageTransformer2DModel",
        "QwenImageControlNetModel",
        "AutoencoderKLQwenImage",
        "QwenImage21Transformer2DModel",
        "AutoencoderKLQwenImage21",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLModel",
        "Qwen2_5_VLTextModel",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLModel",
        "Qwen3VLTextModel",
        "qwen3_vl",
        "qwen3_vl_text",
    }
)


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a small file; {} where there is none."""
    if kind_of(path) != "a file":
        return {}
    try:
        if path.stat().st_size > _MOST:
            raise InkstoneError(
                f"{path}: {path.stat().st_size} bytes, a config file has at most {_MOST}. "
                "Download it again."
            )
        value = parse_json(path.read_text(encoding="utf-8"))
    except InkstoneError:
        raise
    except (OSError, ValueError) as error:
        raise InkstoneError(
            f"{path}: not readable as JSON ({error}). Download the file again."
        ) from None
    if not isinstance(value, dict):
        raise InkstoneError(
            f"{path}: expected a JSON object, got {type(value).__name__}. Download the file again."
        )
    return value


def part_of(path: Path, name: str) -> Path:
    """A component folder of a Hugging Face folder, or the path itself."""
    return path / name if kind_of(path) == kind_of(path / name) == "a folder" else path


def weights_in(folder: Path) -> Path:
    """The one index or weight file of a folder, the usual names first; else InkstoneError."""
    for suffix in (".safetensors.index.json", ".safetensors", ".gguf"):
        files = sorted(p for p in folder.iterdir() if p.name.endswith(suffix) and p.is_file())
        if suffix == ".gguf":  # later parts are opened with the first, mmproj with the encoder
            files = [p for p in files if not _LATER_GGUF.search(p.name)] or files
        usual = [p for p in files if p.name in {stem + suffix for stem in _USUAL}]
        candidates = usual or files
        if len(candidates) == 1:
            return candidates[0]
        if len(candidates) > 1:
            names = ", ".join(p.name for p in candidates[:5])
            hint = " (shards without their index JSON?)" if "-of-" in names else ""
            raise InkstoneError(
                f"{folder} has {len(candidates)} candidates: {names}{hint}. Name one file."
            )
    others = [p.name for p in sorted(folder.iterdir()) if p.suffix in _UNREADABLE]
    inner = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())[:8])
    remedy = f" Name the file or one of its folders ({inner})." if inner else " Name the file."
    if others:
        remedy = (
            f" It has {', '.join(others[:3])}, which this version does not read: use the "
            "publisher's .safetensors files."
        )
    raise InkstoneError(
        f"{folder} has no weight file (.safetensors, .gguf) and no index JSON.{remedy}"
    )


def known_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The config where it names a known class, else {}."""
    listed = config.get("architectures")
    names = [config.get("_class_name"), config.get("model_type")]
    names += listed if isinstance(listed, list) else []
    return config if any(isinstance(n, str) and n in CLASSES for n in names) else {}


def config_of(
    part: Path, read: Callable[[Path], Mapping[str, object]] = read_json
) -> Mapping[str, object]:
    """config.json of a weight folder, or next to an index or a file. `read` reads a JSON file.

    Next to a file it counts only when the file is alone there and the config is of a known class:
    in a folder of many models it may belong to another one.
    """
    folder = part if kind_of(part) == "a folder" else part.parent
    if part == folder:
        return read(folder / "config.json")
    if part.suffix != ".json" and len(list(folder.glob("*" + part.suffix))) != 1:
        return {}
    return known_config(read(folder / "config.json"))


def homes(root: Path) -> Iterator[Path]:
    """Folders in which `vae/` and `scheduler/` of the model at `root` may be, nearest first."""
    folder = root if kind_of(root) == "a folder" else root.parent
    yield folder
    if kind_of(root) == "a folder" or (folder.parent / "model_index.json").is_file():
        yield folder.parent
