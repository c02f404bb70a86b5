"""TensorBoard's events: what its own reader finds, and what is said where it is not installed."""

import importlib.util

import pytest
import torch

from inkstone.errors import CallError, InkstoneError
from inkstone.training.lora import events
from inkstone.training.lora.events import Events, require_tensorboard

INSTALLED = importlib.util.find_spec("tensorboard") is not None
needs = pytest.mark.skipif(not INSTALLED, reason="needs tensorboard: pip install tensorboard")


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(events.importlib.util, "find_spec", lambda name: None)
    for call in (require_tensorboard, lambda: Events(tmp_path / "x")):
        with pytest.raises(CallError, match=r"pip install 'inkstone\[tensorboard\]'"):
            call()
    assert not (tmp_path / "x").exists()


@needs
def test_its_reader_finds_curves_and_pictures(tmp_path):
    run = Events(tmp_path / "e")
    for step in (1, 2, 3):
        run.scalars(step, {"loss": 0.5 / step, "lr": 1e-4, "grad_norm": 1.0})
    run.pictures(3, {"a hexagon": torch.rand(24, 32, 3) * 1.5})
    run.close()
    found = read(tmp_path / "e")
    assert sorted(found.Tags()["scalars"]) == ["grad_norm", "loss", "lr"]
    assert [(e.step, round(e.value, 4)) for e in found.Scalars("loss")] == [
        (1, 0.5),
        (2, 0.25),
        (3, 0.1667),
    ]
    (picture,) = found.Images("a hexagon")
    assert (picture.step, picture.width, picture.height) == (3, 32, 24)


@needs
def test_a_resumed_run_hides_the_steps_it_runs_again(tmp_path):
    first = Events(tmp_path)
    for step in range(1, 6):
        first.scalars(step, {"loss": 1.0})
    first.close()
    second = Events(tmp_path, 3)
    second.scalars(4, {"loss": 2.0})
    second.close()
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("loss")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (4, 2.0),
    ]


@needs
def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(InkstoneError, match="x: TensorBoard's events cannot be written"):
        Events(tmp_path / "x")
