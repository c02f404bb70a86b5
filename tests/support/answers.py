"""A stand-in for the language model: it answers what a test says, in pieces."""

from __future__ import annotations

import json

import pytest

from inkstone.loaders.models.generation import GeneratedText
from inkstone.pipeline import find as find_module
from inkstone.sampling.vision_sizes import answer_sizes


class Stub:
    """Answers every question with `text`; keeps what it was asked."""

    def __init__(self, text: str, ended: bool = True) -> None:
        self.text, self.ended, self.asked = text, ended, []

    def __call__(self, text_encoder, question, pictures, decoding, on_text, most) -> GeneratedText:
        self.asked.append((question, decoding, most))
        (picture,) = pictures
        seen = answer_sizes(picture.shape[-2], picture.shape[-3], most)[1]
        for k in range(0, len(self.text), 7):
            on_text(self.text[k : k + 7])
        return GeneratedText(self.text, (0,), self.ended, 9, (seen,), 1.0, 0.1)


def answering(monkeypatch: pytest.MonkeyPatch, text: str, ended: bool = True) -> Stub:
    """A stub in the place of the model."""
    stub = Stub(text, ended)
    monkeypatch.setattr(find_module, "ask", stub)
    return stub


def as_answer(spans, seen, size, label="thing") -> str:
    """Boxes in pixels of a picture of `size` as the model writes them, in pixels of `seen`."""
    scale = (seen[0] / size[0], seen[1] / size[1])
    rows = [[v * scale[k % 2] for k, v in enumerate(span)] for span in spans]
    text = json.dumps([{"bbox_2d": row, "label": label} for row in rows])
    return f"```json\n{text}\n```"
