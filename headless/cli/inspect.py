"""`inkstone inspect`: identifies weight files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InkstoneError
from ...files.paths import check_given
from ..arg_types import Commands, command, file_path
from .shared import add_json

if TYPE_CHECKING:
    from ...loaders.arch.file_facts import FileFacts


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "inspect",
        "identify a weight file: model, variant, formats, faults",
        "inkstone inspect qwen_image_bf16.safetensors",
    )
    p.add_argument(
        "files", nargs="+", type=file_path, metavar="FILE", help="a weight file or a model folder"
    )
    add_json(p)
    p.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Print a line per file; 1 if one of them has a problem."""
    for path in args.files:
        check_given(path)
    facts = [f for path in args.files for part in _parts(path) for f in _identified(part)]
    if args.json:
        print(json.dumps([asdict(f) for f in facts], indent=1, default=str))
    else:
        print("\n".join(f"{f.path}: {f.sentence}" for f in facts))
    return 1 if any(f.problem for f in facts) else 0


def _identified(path: Path) -> list[FileFacts]:
    """Facts about each model in a file; a damaged one gets its own line and others follow."""
    from ...loaders.arch.file_facts import FileFacts
    from ...loaders.arch.identify import identify_parts

    try:
        return identify_parts(path)
    except InkstoneError as error:
        text = str(error).removeprefix(f"{path}: ")
        return [FileFacts("unknown", problem=text, sentence=text, path=str(path))]


def _parts(path: Path) -> list[Path]:
    """The weight folders of a whole model folder, else the path itself."""
    parts = [path / name for name in ("transformer", "text_encoder", "vae", "controlnet")]
    return [p for p in parts if p.is_dir()] or [path]
