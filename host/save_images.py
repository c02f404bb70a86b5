"""Saves images in the output or temp folder, as the Save Image node does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InkstoneError
from ..files.png import numbered_path, save_png, text_chunks
from . import directories

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Pictures = Tensor | np.ndarray  # [B,H,W,C] in 0..1


def save_pictures(
    images: Pictures, prefix: str, where: str, hidden: object = None
) -> list[dict[str, str]]:
    """Saves a batch [B,H,W,C] in 0..1 as NAME_00001_.png and so on below the folder `where`.

    `where` is "output" or "temp"; `hidden` gives the text chunks `prompt`, `workflow` and others.
    Returns the page's form: [{"filename", "subfolder", "type"}].
    """
    import numpy as np

    base = directories.output_directory() if where == "output" else directories.temp_directory()
    batch = np.asarray(images if isinstance(images, np.ndarray) else images.detach().float().cpu())
    if batch.ndim != 4 or len(batch) == 0:
        raise InkstoneError(
            f"Cannot save: expected pictures [B,H,W,C], got {list(batch.shape)}. Connect an IMAGE "
            "output."
        )
    folder, name, counter = numbered_path(base, prefix, batch.shape[2], batch.shape[1])
    subfolder = folder.relative_to(base.resolve()).as_posix()
    chunks, saved = text_chunks(hidden), []
    for index, picture in enumerate(batch):
        stem = name.replace("%batch_num%", str(index))
        file, counter = _save(folder, stem, counter, picture, chunks)
        saved.append(
            {"filename": file, "subfolder": "" if subfolder == "." else subfolder, "type": where}
        )
    return saved


def _save(
    folder: Path, stem: str, counter: int, picture: np.ndarray, chunks: Mapping[str, str]
) -> tuple[str, int]:
    """Saves one picture; returns its file name and the next counter. Skips a number that another
    process took since the folder was read: that picture stays.
    """
    while True:
        file, counter = f"{stem}_{counter:05}_.png", counter + 1
        try:
            save_png(folder / file, picture, chunks, new=True)
            return file, counter
        except FileExistsError:
            continue
