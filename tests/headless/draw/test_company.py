"""Calls that share a pass: the same pictures, and one that ends leaves the others alone."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from inkstone.headless.draw import company
from inkstone.headless.draw.company import Watch, company_key, denoise_ahead
from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.draw.request import DrawCall
from inkstone.host.headless import Interrupted

CALL = DrawCall("", size=(64, 64), steps=3, cfg=2.0)
PROMPTS = ("a red circle", "a large blue square on a yellow background", 'the word "ink"')
CALLS = [replace(CALL, prompt=text, seed=seed) for seed, text in enumerate(PROMPTS)]


class Watched:
    """A call's steps and previews."""

    def __init__(self, stops_at: int = 0) -> None:
        self.steps: list[tuple[int, int]] = []
        self.previews, self.stop, self._stops_at = 0, threading.Event(), stops_at

    def watch(self) -> Watch:
        """For `denoise_ahead`."""
        return Watch(self.on_step, self.on_preview, self.stop)

    def on_step(self, done: int, of: int) -> None:
        """Notes a step."""
        self.steps.append((done, of))
        if done == self._stops_at:
            self.stop.set()

    def on_preview(self, picture: object) -> None:
        """Counts a preview."""
        self.previews += 1


def drawn(drawer: Drawer, call: DrawCall) -> tuple[torch.Tensor, int]:
    """The pictures of a call, and the steps that this took."""
    steps: list[int] = []
    images = drawer.draw(call, lambda done, of: steps.append(done)).images
    return images, len(steps)


@pytest.fixture
def alone() -> list[torch.Tensor]:
    """The pictures of calls that were drawn one by one."""
    drawer = Drawer()
    return [drawn(drawer, call)[0] for call in CALLS]


def test_each_picture_is_the_one_that_it_is_alone(alone):
    drawer, watched = Drawer(), [Watched() for _ in CALLS]
    keys = denoise_ahead(drawer, CALLS, [one.watch() for one in watched])
    assert None not in keys and len(keys) == len(CALLS)
    assert [one.steps for one in watched] == [[(1, 3), (2, 3), (3, 3)]] * 3
    assert all(one.previews == 3 for one in watched)
    for call, picture in zip(CALLS, alone, strict=True):
        images, steps = drawn(drawer, call)
        assert not steps, "its latents are done"
        assert torch.equal(images, picture), (images - picture).abs().max()
    drawer.executor.cache.drop(keys)
    assert drawn(drawer, CALLS[0])[1] == 3, "nothing of it is left"


@pytest.mark.parametrize("step", [1, 2])
def test_one_that_is_stopped_leaves_the_others(alone, step):
    drawer, watched = Drawer(), [Watched(), Watched(step), Watched()]
    keys = denoise_ahead(drawer, CALLS, [one.watch() for one in watched])
    assert [key is None for key in keys] == [False, True, False]
    assert [len(one.steps) for one in watched] == [3, step, 3]
    for number in (0, 2):
        images, steps = drawn(drawer, CALLS[number])
        assert not steps and torch.equal(images, alone[number])


def test_one_that_is_stopped_within_a_step_leaves_the_others(alone, monkeypatch):
    """As by `beat`, which raises wherever the pass is."""
    drawer, watched = Drawer(), [Watched() for _ in CALLS]
    real = company.denoise_together

    def stopping(model, parts):
        network, walk, calls = model.network, type(model.network).walk, []

        def counted(self, inputs, hooks=None):
            calls.append(1)
            if len(calls) == 9:  # within step 2: three pictures have six walks a step
                watched[0].stop.set()
                raise Interrupted("stopped")
            yield from ()
            return (yield from walk(network, inputs, hooks))

        object.__setattr__(network, "walk", counted.__get__(network))
        try:
            return real(model, parts)
        finally:
            object.__delattr__(network, "walk")

    monkeypatch.setattr(company, "denoise_together", stopping)
    keys = denoise_ahead(drawer, CALLS, [one.watch() for one in watched])
    assert [key is None for key in keys] == [True, False, False]
    assert [len(one.steps) for one in watched] == [1, 3, 3]
    for number in (1, 2):
        assert torch.equal(drawn(drawer, CALLS[number])[0], alone[number])


def test_a_stop_of_all_is_raised():
    drawer = Drawer()
    drawer.stop.set()
    with pytest.raises(Interrupted):
        denoise_ahead(drawer, CALLS[:2], [Watched().watch(), Watched().watch()])


def test_only_calls_of_one_kind_have_one_key(tmp_path):
    key = company_key(CALLS[0])
    assert key == company_key(CALLS[1]) is not None
    for other in (
        {"size": (128, 64)},
        {"steps": 4},
        {"cfg": 1.0},
        {"lora": [(tmp_path / "a.safetensors", 1.0)]},
        {"model": tmp_path},
    ):
        assert company_key(replace(CALLS[1], **other)) != key, other
    for own in ({"batch": 2}, {"image": [tmp_path]}, {"upscale": 2.0}, {"enhance": True}):
        assert company_key(replace(CALLS[1], **own)) is None, own


def test_a_text_encoder_that_was_unloaded_is_needed():
    drawer = Drawer()
    assert drawer.needs_encoder(CALLS[0])
    drawn(drawer, CALLS[0])
    assert not drawer.needs_encoder(CALLS[0])
    drawer.load(CALLS[0]).text_encoder.weights.park()
    assert drawer.needs_encoder(CALLS[0])
