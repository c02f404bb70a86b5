"""The OCR: how many true renderings it reads, and what is said without it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from inkstone.errors import CallError
from inkstone.score import ocr
from inkstone.score.ocr import OCRReader
from inkstone.score.render import fonts, render_texts, shape_pictures
from inkstone.score.sets import read_set
from inkstone.score.words import count_words

HAS_OCR = all(importlib.util.find_spec(n) for n in ("rapidocr", "onnxruntime", "cv2"))
HAN = Path(__file__).parents[1] / "support" / "han.otf"  # the 260 characters of the Chinese set
needs_ocr = pytest.mark.skipif(not HAS_OCR, reason="needs rapidocr and onnxruntime")


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(ocr.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CallError, match=r"pip install 'rapidocr>=3.10,<4' onnxruntime"):
        OCRReader()


@needs_ocr
def test_models_that_are_not_there(monkeypatch):
    """The package would download them."""
    monkeypatch.setattr(ocr, "_MODELS", ("*no*.onnx",))
    with pytest.raises(ValueError, match="has no models"):
        OCRReader()


@needs_ocr
@pytest.mark.slow
@pytest.mark.parametrize("name, least", [("english", 0.98), ("chinese", 0.98), ("latin", 0.95)])
def test_the_reader_reads_true_renderings(name, least):
    """A part of each set; the whole ones are in the documentation."""
    reader, at_hand = OCRReader(), fonts(HAN if name == "chinese" else None)
    right = asked = 0
    for task in read_set(name).limited(6).tasks:
        picture = render_texts(task.texts, (640, 640), at_hand)
        assert picture is not None, f"no font here has {task.texts[0]!r}"
        count = count_words(task.texts, reader.lines(picture))
        right, asked = right + count.right, asked + count.asked
    assert right / asked >= least, f"{right} of {asked}"


@needs_ocr
def test_small_and_empty_pictures():
    reader = OCRReader()
    assert reader.lines(np.full((8, 8, 3), 255, np.uint8)) == []
    picture = render_texts(["OPEN"], (160, 96), fonts())
    assert reader.lines(picture) == ["OPEN"]


def test_the_font_of_the_tests_has_the_chinese_set():
    (font,) = (one for one in fonts(HAN) if one.path == str(HAN))
    texts = [text for task in read_set("chinese").tasks for text in task.texts]
    assert len(texts) > 50 and [text for text in texts if not font.has(text)] == []


def test_renderings():
    at_hand = fonts()
    assert render_texts(["OPEN 24 HOURS"], (256, 256), at_hand).shape == (256, 256, 3)
    long = render_texts(["word " * 40], (512, 512), at_hand)
    assert long is not None and long[:20].min() == 255  # a margin
    assert render_texts(["word " * 4000], (512, 512), at_hand) is None
    assert render_texts(["\U000e0041"], (512, 512), at_hand) is None  # no ink
    assert render_texts(["\U0010ffff"], (512, 512), at_hand) is None  # no font has it


def test_a_font_that_is_none(tmp_path):
    (tmp_path / "x.ttf").write_bytes(b"no font")
    for path in (tmp_path / "x.ttf", tmp_path / "missing.ttf"):
        with pytest.raises(CallError, match="--font"):
            fonts(path)


def test_shapes():
    pictures = list(shape_pictures())
    assert len(pictures) == 20 and len({t.id for t, _ in pictures}) == 20
    assert all(p.shape == (768, 768, 3) and p.min() < 200 for _, p in pictures)
