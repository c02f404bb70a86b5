"""A training that writes into the folder of its pictures: what it wrote is no picture to learn."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from inkstone.headless.cli.main import main
from inkstone.pipeline.train_choices import TrainSettings
from inkstone.training.lora import session

OPTIONS = ("--steps", "1", "--rank", "1", "--targets", "attention", "--resolution", "64")


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a circle")
    monkeypatch.chdir(folder)
    return folder


def test_samples_and_plots_of_runs_are_not_learned(pictures, caplog):
    call = ["train-lora", ".", "-o", "zk.safetensors", "--sample-prompts", "a circle", *OPTIONS]
    assert main(call) == 0
    made = [path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png")]
    assert "zk-checkpoints/samples/sheet.png" in made and "zk-checkpoints/loss.png" in made, made
    with caplog.at_level(logging.INFO):
        assert main(call) == 0, "it resumes: these are the pictures of its first start"
    words = "1 folder is left out: a training wrote it, checkpoints and samples or encoded pictures"
    assert f"{words}: zk-checkpoints" in caplog.text
    other = TrainSettings(data=Path("."), output=Path("other.safetensors"), resolution=64)
    found = session.report_of(other)
    assert found.facts["pictures"] == 2 and f"{words}: zk-checkpoints" in found.lines


def test_the_folders_that_it_is_given_are_left_out_before_they_have_anything_of_a_run(pictures):
    for name in ("zk-checkpoints", "room", "other"):
        Path(name).mkdir()
        Image.new("RGB", (64, 64), "green").save(f"{name}/{name}.png")
        (Path(name) / "run.json").write_text('{"of": "another program"}')
    call = {"data": Path("."), "output": Path("zk.safetensors"), "cache_dir": Path("room")}
    run = session.prepared(TrainSettings(**call, resolution=64))
    names = [work.item.name for work in run.arranged.works]
    assert names == ["a.png", "b.png", "other/other.png"]
    found = [one.name for one in run.arranged.findings if one.kind == "of a training"]
    assert found == ["room", "zk-checkpoints"]


def test_the_folder_of_the_pictures_may_be_of_a_run_and_hold_the_cache(pictures):
    """Who gives the samples of a run as DATA means them."""
    Path("run.json").write_text('{"pictures-digest": "1"}')
    call = {"data": Path("."), "output": Path("zk.safetensors"), "cache_dir": pictures}
    assert len(session.prepared(TrainSettings(**call, resolution=64)).arranged.works) == 2
