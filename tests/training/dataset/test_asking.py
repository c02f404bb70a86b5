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
from inkstone.training.lora.session import _report, _with_captions, prepared, report_of


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


def outside(data: Path) -> Path:
    """A file beside the folder of the pictures."""
    path = data.parent / "secret"
    path.write_text("secret words")
    return path


def latin(data: Path) -> None:
    (data / "a.txt").write_bytes("\xfcber".encode("latin-1"))


UNUSABLE = {
    "a link that leads out": (
        lambda data: (data / "a.txt").symlink_to(outside(data)),
        "a.txt is a link that leads out of its folder",
    ),
    "a link to nothing": (lambda data: (data / "a.txt").symlink_to("gone"), "a.txt: No such file"),
    "a folder": (lambda data: (data / "a.txt").mkdir(), "a.txt: it is a folder, expected a file"),
    "a caption of another ending": (
        lambda data: (data / "a.caption").write_text("x"),
        "a.caption is there: rename it to a.txt to use it",
    ),
}


BOTH = [(case, jsonl) for case in UNUSABLE for jsonl in (False, True)]
BOTH.remove(("a link to nothing", False))  # without `ask` too this picture of a folder is left out


@pytest.mark.parametrize("case, jsonl", BOTH)
def test_what_is_in_the_place_of_a_caption_is_said_and_left_alone(data, case, jsonl):
    """A link is never followed out of the folder, nor replaced."""
    make, words = UNUSABLE[case]
    make(data)
    source = data
    if jsonl:
        source = data / "list.jsonl"
        source.write_text('{"image": "a.png"}\n{"image": "b.png"}\n')
    before = {path.name for path in data.iterdir()}
    call = {"data": source, "output": data.parent / "x.safetensors", "resolution": 64}
    report = "\n".join(report_of(TrainSettings(**call, captions="ask")).lines)
    says = f"1 picture stays without a caption: the text encoder writes none: a.png ({words}"
    assert says in report and "written by" not in report
    assert "a.png" not in report.split(" no caption: the text encoder writes")[1].splitlines()[0]
    dataset = ask_captions(read(source), encoder)
    captions_of = {item.name: item.caption for item in dataset.items}
    assert captions_of["a.png"] is None and "blue circle" in captions_of["b.png"]
    said = "\n".join(lines(dataset.findings))
    assert says in said and "secret words" not in said and " no caption" not in said
    assert {path.name for path in data.iterdir()} == before | {"b.txt"}
    assert not list(data.glob("a.txt/*"))


@pytest.mark.parametrize("case", ["link", "latin"])
def test_what_comes_meanwhile_and_cannot_be_used(data, monkeypatch, case):
    (data / "b.txt").write_text("mine")
    dataset = read(data)
    answer = captions.ask

    def slow(*arguments, **options):
        if case == "link":
            (data / "a.txt").symlink_to(outside(data))
        else:
            latin(data)
        return answer(*arguments, **options)

    monkeypatch.setattr(captions, "ask", slow)
    found = ask_captions(dataset, encoder)
    assert found.items[0].caption is None
    (line,) = [one for one in lines(found.findings) if "writes none" in one]
    assert ("leads out of its folder" if case == "link" else "it is not UTF-8") in line


def test_only_pictures_that_are_trained_get_captions(data):
    for name in ("b.jpg", "b.png"):
        (data / name).unlink()
    Image.new("RGB", (8, 8)).save(data / "tiny.png")
    call = {"data": data, "output": data / "x.safetensors", "resolution": 64, "captions": "ask"}
    run = prepared(TrainSettings(**call))
    (line,) = [one for one in _report(run).lines if "the text encoder writes" in one]
    assert line.startswith("1 picture has no caption") and line.endswith(": a.png")
    asked = _with_captions(run, lambda *_: None)
    assert [work.item.name for work in asked.arranged.works] == ["a.png", "c.png"]
    assert "red circle" in asked.arranged.works[0].item.caption
    assert not (data / "tiny.txt").exists()
