"""A run that is stopped anywhere stops there, and lets go of what it held."""

from __future__ import annotations

import gc
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from inkstone.host.headless import HeadlessHost, Interrupted, using
from inkstone.host.progress import Heartbeat
from inkstone.host.step_bar import StepBar
from inkstone.kernels import interrupt
from inkstone.loaders.models.load import load_all
from inkstone.nodes.canvas import CUSTOM, EmptyLatent
from inkstone.nodes.decode import Decode
from inkstone.nodes.edit import EncodeEdit
from inkstone.nodes.encode import EncodePrompt
from inkstone.nodes.load import EMBEDDED, LoadAll
from inkstone.nodes.sample import Denoise
from inkstone.nodes.schedule import SCHEDULES, ScheduleSigmas


class StopAt:
    """A listener that raises at one beat, and counts those before it."""

    def __init__(self, beat: int | None) -> None:
        self.left, self.beats = beat, 0

    def __call__(self, task: str, amount: float, total: float) -> None:
        self.beats += 1
        if self.left is not None and self.beats > self.left:
            raise Interrupted(f"at beat {self.beats}")


@pytest.fixture(autouse=True)
def restored():
    before = interrupt.listen(None)
    yield
    interrupt.listen(before)


@pytest.fixture(scope="module")
def models():
    return load_all(None)


def work(models):
    """name -> what a node computes, each time anew."""
    latent = EmptyLatent.execute(CUSTOM, 64, 64, 2).result[0]
    sigmas = ScheduleSigmas.execute(models.model, latent, 2, SCHEDULES[0]).result[0]
    states = EncodePrompt.execute(models.text_encoder, "a red star", "").result
    number = iter(range(10**6))

    def words() -> str:
        return f"a red star, number {next(number)}"  # what was encoded before is kept

    return {
        "denoise": lambda: Denoise.execute(
            models.model,
            states[0],
            sigmas=sigmas,
            latent=latent,
            seed=1,
            cfg=2.0,
            negative=states[1],
        ),
        "text": lambda: EncodePrompt.execute(models.text_encoder, words(), ""),
        "decode": lambda: Decode.execute(models.vae, {"samples": torch.randn(1, 16, 1, 40, 8)}),
        "encode": lambda: models.vae.encode(torch.rand(1, 320, 64, 3)),
        "edit": lambda: EncodeEdit.execute(
            models.text_encoder,
            models.model,
            models.vae,
            words(),
            "",
            "auto",
            {"picture_1": torch.rand(1, 64, 64, 3)},
        ),
    }


def bytes_alive() -> int:
    gc.collect()
    sizes = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for x in gc.get_objects()
        if isinstance(x, torch.Tensor) and x.device.type == "cpu"
    }
    return sum(sizes.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoise", "text", "decode", "encode", "edit"])
def test_stopped_at_random_places_it_frees_memory_and_works_again(models, name):
    run, count = work(models)[name], StopAt(None)
    run()
    interrupt.listen(count)
    run()
    assert count.beats >= 4, f"{name} beats {count.beats} times"
    interrupt.listen(None)
    before = bytes_alive()
    source = random.Random(7)
    for _ in range(6):
        stop = StopAt(source.randrange(count.beats))
        interrupt.listen(stop)
        with pytest.raises(Interrupted):
            run()
        interrupt.listen(None)
        assert stop.beats == stop.left + 1, "it went on behind the stop"
    left = bytes_alive() - before
    assert left <= 4_000_000, f"{name}: {left} bytes are still held after 6 stops"
    run()


def test_loading_can_be_stopped_and_goes_on_later():
    with using(HeadlessHost(device="cpu")):
        model = LoadAll.execute(EMBEDDED, "auto").result[0]
        for beat in (0, 3, 11):
            interrupt.listen(StopAt(beat))
            with pytest.raises(Interrupted):
                model.weights.settle()
                model.weights.fill()
            interrupt.listen(None)
        model.weights.settle()
        model.weights.fill()
        assert all(p.device.type == "cpu" for p in model.network.parameters())


def test_quantizing_beats(tmp_path, models):
    from inkstone.pipeline.quantize import quantize
    from inkstone.pipeline.quantize_request import QuantizeCall

    call = QuantizeCall(models.model.path, tmp_path / "x.gguf", "Q8_0")
    for beat in (1, 5):
        interrupt.listen(StopAt(beat))
        with pytest.raises(Interrupted):
            quantize(call, lambda done, of: None)
    interrupt.listen(None)
    assert quantize(call, lambda done, of: None)["bytes"], "it goes on where it was stopped"


@pytest.mark.slow
def test_waiting_for_a_thread_beats():
    interrupt.listen(StopAt(1))
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Interrupted):
            interrupt.waited(pool.submit(time.sleep, 1.0))
        interrupt.listen(None)
        assert interrupt.waited(pool.submit(lambda: 5)) == 5


def test_the_host_stops_long_work_and_shows_it(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    host = HeadlessHost(on_detail=lines.append)
    heart = Heartbeat()
    with using(host):
        for layer in range(28):
            heart("text encoder, layer", layer, 28)
            now[0] += 0.1
        assert lines[0] == "text encoder, layer 5 of 28" and len(lines) < 10
        host.interrupt.set()
        with pytest.raises(Interrupted):
            heart("", 0, 0)


def test_a_long_step_says_its_blocks(monkeypatch):
    now, lines, steps = [0.0], [], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    host = HeadlessHost(on_detail=lines.append, on_progress=lambda *a: steps.append(a[:2]))
    with using(host):
        bar = StepBar(2, 60, torch.device("cpu"))
        for step in range(2):
            for block in range(60):
                bar.block(step, block)
                now[0] += 2.5
            bar.step(type("S", (), {"index": step, "total": 2})(), None)
    assert steps == [(1, 2), (2, 2)], "steps are whole numbers for programs"
    assert lines[0] == "step 1 of 2, block 2, 4:58 left"
    assert "step 2 of 2, block 31, 1:15 left" in lines
