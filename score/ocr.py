"""Reads the words of a picture with RapidOCR: PP-OCRv6 in ONNX, on the CPU.

Its models are files of the wheel. They are looked for before the package is asked, because it
downloads what it misses.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CallError, InkstoneError

INSTALL = "pip install 'rapidocr>=3.10,<4' onnxruntime"
_MODELS = ("*det*.onnx", "*rec*.onnx")
_LEAST_SIDE = 512  # pixels: smaller pictures are enlarged by a whole factor
_ROW = 0.5  # of a height: lines whose middles are closer stand in one row


class OCRReader:
    """RapidOCR with its usual models. Raises CallError where it is not installed."""

    def __init__(self) -> None:
        packages = ("rapidocr", "onnxruntime", "cv2")
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            raise CallError(
                "Words are read by RapidOCR, which is not installed here (missing: "
                f"{', '.join(missing)}). Install it with: {INSTALL}. Or score a set without words: "
                "objects."
            )
        self._engine, self.name = _engine()

    def lines(self, picture: np.ndarray) -> list[str]:
        """The lines of a picture uint8 [H,W,3] from top to bottom, of a row from left to right."""
        factor = -(-_LEAST_SIDE // max(1, min(picture.shape[:2])))
        if factor > 1:
            picture = _enlarged(picture, factor)
        result = self._engine(np.ascontiguousarray(picture[:, :, ::-1]))  # BGR, as OpenCV
        if result.txts is None or result.boxes is None:
            return []
        boxes = [np.asarray(box, float) for box in result.boxes]
        return [text for text, _ in sorted(zip(result.txts, boxes), key=_order(boxes)) if text]


def _engine() -> tuple[Any, str]:  # the package has no types
    """The engine and its name with its version."""
    import rapidocr

    folder = Path(rapidocr.__file__).parent / "models"
    if any(not list(folder.glob(pattern)) for pattern in _MODELS):
        raise InkstoneError(
            f"{folder} has no models: RapidOCR from 3.10 on ships them in its wheel. Install it "
            f"again with: {INSTALL}."
        )
    params = {"Global.log_level": "error", "Global.use_cls": False}  # no text is upside down
    engine = rapidocr.RapidOCR(params=params)
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    model = sorted(file.stem for file in folder.glob(_MODELS[1]))[0]
    return engine, f"RapidOCR, {model}"


def _enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    from PIL import Image

    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    return np.asarray(image.resize((width * factor, height * factor), Image.Resampling.LANCZOS))


def _order(boxes: list[np.ndarray]) -> Any:  # a key for `sorted`
    """Rows from top to bottom: a box is in the row of the first one that its middle is close to."""
    rows: list[tuple[float, float]] = []  # middle, height
    for box in sorted(boxes, key=lambda box: box[:, 1].mean()):
        middle, height = box[:, 1].mean(), np.ptp(box[:, 1])
        if not rows or middle - rows[-1][0] > _ROW * max(height, rows[-1][1]):
            rows.append((middle, height))
    middles = np.array([row[0] for row in rows])

    def key(item: tuple[str, np.ndarray]) -> tuple[int, float]:
        _, box = item
        return int(np.abs(middles - box[:, 1].mean()).argmin()), float(box[:, 0].min())

    return key
