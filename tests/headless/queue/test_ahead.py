"""What a queue does ahead of a job is not done again when the job runs."""

from __future__ import annotations

import logging

import pytest
from PIL import Image

from inkstone.files import hashes
from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.draw.request import DrawCall

from ...support.batches import QUICK

RED = "a red circle"
SIZE = (64, 64)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize(SIZE).convert("RGB").save("picture.png")
    mask = Image.new("L", SIZE)
    mask.paste(255, (16, 16, 48, 48))
    mask.save("mask.png")
    return tmp_path


def inpainting(place, seed: int = 0) -> DrawCall:
    image, mask = place / "picture.png", place / "mask.png"
    return DrawCall(RED, image=[image], mask=mask, seed=seed, steps=1, cfg=1.0)


def drawn(drawer: Drawer, call: DrawCall) -> None:
    drawer.draw(call, lambda done, of: None)


def test_a_job_is_decided_once(place, caplog):
    caplog.set_level(logging.INFO, "inkstone")
    drawer = Drawer()
    calls = [inpainting(place, seed) for seed in range(2)]
    for call in calls:
        drawer.encode_ahead(call)
    for call in calls:
        drawn(drawer, call)
    lines = [
        r.getMessage() for r in caplog.records if "mask.png: 25.0 % is white" in r.getMessage()
    ]
    assert len(lines) == 2, "once a job"


def test_a_mask_that_changed_since_is_decided_again(place, caplog):
    caplog.set_level(logging.INFO, "inkstone")
    drawer = Drawer()
    drawer.encode_ahead(inpainting(place))
    Image.new("L", SIZE, 255).save(place / "mask.png")
    drawn(drawer, inpainting(place))
    assert "mask.png: 100.0 % is white" in caplog.text


def test_files_of_a_drawing_are_read_once_for_its_fingerprints(place, monkeypatch):
    reads, real = [], hashes.file_hash
    monkeypatch.setattr(hashes, "file_hash", lambda path: reads.append(path.name) or real(path))
    drawn(Drawer(once=True), inpainting(place))
    assert sorted(reads) == ["mask.png", "picture.png"]


@pytest.mark.parametrize(("cfg", "count"), [(1.0, 1), (2.0, 2)])
def test_prompts_are_counted_rather_than_nodes(cfg, count):
    drawer = Drawer()
    call = DrawCall(RED, size=SIZE, steps=QUICK["steps"], cfg=cfg)
    drawer.encode_ahead(call)
    drawn(drawer, call)
    assert drawer.prompts_encoded == count
