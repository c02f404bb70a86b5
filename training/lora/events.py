"""A run's curves and samples for TensorBoard's page, where its package is installed (extra
`tensorboard`). A run that resumes hides what an earlier one wrote after the step it resumes from.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CallError, InkstoneError

if TYPE_CHECKING:
    from torch import Tensor


def require_tensorboard() -> None:
    """Raises CallError where the package is missing; asked before a run begins."""
    if importlib.util.find_spec("tensorboard") is None:
        raise CallError(
            "--tensorboard needs TensorBoard, which is not installed: pip install "
            "'inkstone[tensorboard]'. Without it a run still writes loss.png and its samples."
        )


class Events:
    """The event file of one run, in a folder of its own."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        """step: the one that the run starts or resumes from. Raises CallError without the
        package, InkstoneError where the folder cannot be written.
        """
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(folder), purge_step=step + 1)
        except OSError as error:
            raise InkstoneError(
                f"{folder}: TensorBoard's events cannot be written: {error.strerror}. Check the "
                "folder and the free space, or leave out --tensorboard."
            ) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves, by the name of the curve: loss, lr, grad_norm."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, Tensor]) -> None:
        """Samples [H,W,3] in 0..1, by their name; written at once, to be seen while it trains."""
        for name, picture in pictures.items():
            self._writer.add_image(name, picture.clamp(0, 1), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Writes what is not on the disk yet."""
        self._writer.close()
