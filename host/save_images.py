"""Saves images in the output or temp folder, as the Save Image node does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InkstoneError
from ..files.png import numbered_path, save_png, text_chunks
from . import directories


def save_pictures(images: Any, prefix: str, where: str, hidden: Any = None) -> list[dict[str, str]]:
    """Saves a batch [B,H,W,C] in 0..1 as NAME_00001_.png and so on below the folder `where`.

    `where` is "output" or "temp"; `hidden` gives the chunks `prompt`, `workflow` and others.
    Returns the page's form: [{"filename", "subfolder", "type"}].
    """
    import numpy as np

    base = directories.output_directory() if where == "output" else directories.temp_directory()
    batch = np.asarray(images.detach().float().cpu() if hasattr(images, "detach") else images)
    if batch.ndim != 4 or len(batch) == 0:
        raise InkstoneError(
            f"Expected pictures [B,H,W,C], got {list(batch.shape)}. Connect an IMAGE output."
        )
    folder, name, counter = numbered_path(base, prefix, batch.shape[2], batch.shape[1])
    subfolder = folder.relative_to(base.resolve()).as_posix()
    chunks, saved = text_chunks(hidden), []
    for index, picture in enumerate(batch):
        stem = name.replace("%batch_num%", str(index))
        file, counter = _saved(folder, stem, counter, picture, chunks)
        saved.append(
            {"filename": file, "subfolder": "" if subfolder == "." else subfolder, "type": where}
        )
    return saved


def _saved(
    folder: Path, stem: str, counter: int, picture: Any, chunks: Mapping[str, str]
) -> tuple[str, int]:
    """The name that a picture got, and the next counter. A number that another process took since
    the folder was read is passed over: its picture stays.
    """
    while True:
        file, counter = f"{stem}_{counter:05}_.png", counter + 1
        try:
            save_png(folder / file, picture, chunks, new=True)
            return file, counter
        except FileExistsError:
            continue
