"""`inkstone inspect`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CallError, InkstoneError
from ..arg_types import command

if TYPE_CHECKING:
    from ...loaders.arch.recognizers import FileFacts


def _inspect(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    absent = [f for f in args.files if not f.exists()]
    if absent:
        raise CallError(f"{absent[0]}: no such file or folder. Check the path.")
    found = [_identified(part) for path in args.files for part in _parts(path)]
    if args.json:
        print(json.dumps([asdict(f) for f in found], indent=1, default=str))
    else:
        print("\n".join(f"{f.path}: {f.sentence}" for f in found))
    return 1 if any(f.problem for f in found) else 0


def _identified(path: Path) -> FileFacts:
    """Facts of one file; a damaged one is told in its own line, the others still follow."""
    from ...loaders.arch.identify import identify
    from ...loaders.arch.recognizers import FileFacts

    try:
        return identify(path)
    except InkstoneError as error:
        text = str(error).removeprefix(f"{path}: ")
        return FileFacts("unknown", problem=text, sentence=text, path=str(path))


def _parts(path: Path) -> list[Path]:
    """The weight folders of a whole model folder, else the path itself."""
    parts = [path / name for name in ("transformer", "text_encoder", "vae", "controlnet")]
    return [p for p in parts if p.is_dir()] or [path]


def _add_inspect(commands) -> None:
    p = command(
        commands,
        "inspect",
        "say what a weight file is",
        "inkstone inspect qwen_image_bf16.safetensors",
    )
    p.add_argument("files", nargs="+", type=Path, metavar="FILE")
    p.add_argument("--json", action="store_true", help="print facts as JSON")
