"""Captions that the text encoder writes for pictures without one: the embedded model answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from inkstone.errors import InkstoneError
from inkstone.loaders.memory.residency import residencies
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_text_encoder
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.ask import ask
from inkstone.pipeline.train_choices import TrainSettings
from inkstone.sampling.next_token import GREEDY
from inkstone.training.dataset import captions
from inkstone.training.dataset.captions import ask_captions
from inkstone.training.dataset.findings import lines
from inkstone.training.dataset.read import read
from inkstone.training.lora.session import report_of


def encoder():
    return load_text_encoder(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, colour in (
        ("a.png", "red"),
        ("b.jpg", "blue"),
        ("b.png", "blue"),
        ("c.png", "green"),
    ):
        image = Image.new("RGB", (128, 128), "white")
        ImageDraw.Draw(image).ellipse((30, 30, 98, 98), fill=colour)
        image.save(folder / name)
    (folder / "c.txt").write_text("my own words")
    return folder


def test_missing_captions_are_answers_beside_the_pictures(data):
    stages = []
    before = {r for r in residencies() if r.reserved}
    dataset = ask_captions(read(data), encoder, on_item=lambda *got: stages.append(got))
    assert not [r for r in residencies() if r.reserved and r not in before]
    captions_of = {item.name: item.caption for item in dataset.items}
    assert "red circle" in captions_of["a.png"] and "blue circle" in captions_of["b.jpg"]
    assert captions_of["c.png"] == "my own words" == (data / "c.txt").read_text()
    assert captions_of["b.jpg"] == captions_of["b.png"], "one name, one caption"
    assert stages == [("writing captions", n, 3) for n in (1, 2, 3)]
    assert (data / "a.txt").read_text() == captions_of["a.png"] + "\n"
    said = "\n".join(lines(dataset.findings))
    assert (
        "3 captions were written by the text encoder, beside their pictures: a.png, b.jpg" in said
    )
    assert "no caption" not in said
    again = ask_captions(read(data), lambda: pytest.fail("nothing is missing"))
    assert {item.name: item.caption for item in again.items} == captions_of
    assert (
        sorted(p.name for p in data.iterdir())
        == "a.png a.txt b.jpg b.png b.txt c.png c.txt".split()
    )


def test_a_report_says_that_captions_will_be_written(data):
    call = {"data": data, "output": data / "x.safetensors", "resolution": 64, "captions": "ask"}
    lines = report_of(TrainSettings(**call)).lines
    assert (
        "3 pictures have no caption: the text encoder writes them beside them, before the training"
        ": a.png, b.jpg, b.png" in lines
    )
    assert not (data / "a.txt").exists()


def test_a_question_of_ones_own(data):
    from inkstone.files.images import read_picture

    question = "what colour is the circle?"
    dataset = ask_captions(read(data), encoder, question)
    want = ask(encoder(), question, [read_picture(data / "a.png")], GREEDY).text.strip()
    assert dataset.items[0].caption == want


def test_a_file_that_came_meanwhile_is_kept(data, monkeypatch):
    dataset = read(data)
    answer = captions.ask

    def slow(*arguments, **options):
        (data / "a.txt").write_text("from somebody else")
        return answer(*arguments, **options)

    monkeypatch.setattr(captions, "ask", slow)
    assert ask_captions(dataset, encoder).items[0].caption == "from somebody else"
    assert (data / "a.txt").read_text() == "from somebody else"


def test_a_folder_that_cannot_be_written_is_a_sentence(data, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InkstoneError, match=r"a\.txt: the caption cannot be written: Permission"):
        ask_captions(read(data), encoder)
    assert not list(data.glob(".*"))
