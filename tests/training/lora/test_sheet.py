"""The contact sheet: which picture is in which cell, and pictures that cannot be read."""

import numpy as np
import pytest
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.training.lora import sheet
from inkstone.training.lora.sheet import draw_sheet, label, sample_path, steps_in, write_sheet

COLOURS = {(100, 1): (200, 0, 0), (100, 2): (0, 200, 0), (250, 1): (0, 0, 200)}


def filled(folder, colours=COLOURS, size=(64, 48)):
    for (step, number), colour in colours.items():
        Image.new("RGB", size, colour).save(sample_path(folder, step, number))
    return folder


def cell(image, row, column):
    """The colour in the middle of a cell."""
    x = sheet._SIDE + column * (sheet._CELL + sheet._GAP) + sheet._CELL // 2
    y = sheet._HEAD + row * (sheet._CELL + sheet._GAP) + sheet._CELL // 2
    return image.getpixel((x, y))


def test_rows_are_steps_and_columns_prompts(tmp_path):
    image = draw_sheet(filled(tmp_path), ["a cat", "a dog"])
    assert cell(image, 0, 0) == (200, 0, 0) and cell(image, 0, 1) == (0, 200, 0)
    assert cell(image, 1, 0) == (0, 0, 200)
    assert cell(image, 1, 1) == sheet._EMPTY, "no picture yet"
    assert image.size == (sheet._SIDE + 2 * 264, sheet._HEAD + 2 * 264)


def test_headings_and_steps_are_written(tmp_path):
    image = np.asarray(draw_sheet(filled(tmp_path), ["a cat", "a dog"]))
    dark = (image < 120).all(axis=2)
    for column in range(2):
        left = sheet._SIDE + column * 264
        assert dark[: sheet._HEAD, left : left + 100].any(), "a heading"
    for row in range(2):
        middle = sheet._HEAD + row * 264 + 128
        assert dark[middle - 10 : middle + 10, : sheet._SIDE].any(), "a step"


def test_a_tall_picture_keeps_its_shape(tmp_path):
    filled(tmp_path, {(1, 1): (0, 0, 0)}, size=(100, 400))
    dark = (np.asarray(draw_sheet(tmp_path, ["x"])) < 40).all(axis=2)[sheet._HEAD :, sheet._SIDE :]
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert (len(rows), len(columns)) == (256, 64)
    assert columns[0] == 96, "in the middle of its cell"


def test_long_runs_keep_first_and_last(tmp_path):
    filled(tmp_path, {(step, 1): (step, 0, 0) for step in range(1, 61)}, size=(8, 8))
    image = draw_sheet(tmp_path, ["x"])
    assert image.height == sheet._HEAD + sheet.MOST_ROWS * 264
    assert cell(image, 0, 0) == (1, 0, 0) and cell(image, sheet.MOST_ROWS - 1, 0) == (60, 0, 0)


def test_what_is_no_picture_is_an_empty_cell(tmp_path):
    filled(tmp_path)
    sample_path(tmp_path, 100, 1).write_bytes(b"no picture")
    (tmp_path / "step-x.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("mine")
    assert steps_in(tmp_path) == [100, 250]
    assert cell(draw_sheet(tmp_path, ["a", "b"]), 0, 0) == sheet._EMPTY


def test_what_is_transparent_lies_over_white(tmp_path):
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(sample_path(tmp_path, 1, 1))
    assert cell(draw_sheet(tmp_path, ["x"]), 0, 0) == (255, 255, 255)


def test_headings_fit_or_are_numbers():
    assert label("a  red\ncat", 1, lambda t: True) == "a red cat"
    assert label("a very long prompt", 2, lambda t: len(t) <= 9) == "a very..."
    assert label("一只猫", 3, lambda t: True) == "prompt 3"


def test_the_file_is_replaced_whole(tmp_path):
    filled(tmp_path)
    path = write_sheet(tmp_path, ["a cat", "a dog"])
    with Image.open(path) as image:
        assert image.format == "PNG"
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []
    path.unlink()
    path.mkdir()
    with pytest.raises(InkstoneError, match="cannot be written"):
        write_sheet(tmp_path, ["a cat"])
