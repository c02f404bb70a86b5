"""Memory that runs out anywhere in a run is a sentence, by draw, run, a queue and a node."""

from __future__ import annotations

import errno
import json

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.host import exhaustion
from inkstone.host.exhaustion import memory_fault
from inkstone.host.page_text import for_page
from inkstone.kernels.mmdit import MMDiT
from inkstone.loaders.memory.residency import Prefetcher, residencies
from inkstone.loaders.models.text_encoder import TextEncoderModel
from inkstone.loaders.models.vae import VAEModel

CPU = "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried "
FAULTS = {
    "Python": (MemoryError(), None),
    "numpy": (MemoryError("Unable to allocate 12.5 GiB for an array with shape (9,)"), 13.42),
    "torch": (RuntimeError(CPU + "to allocate 12345678901 bytes."), 12.35),
    "posix": (RuntimeError("can't allocate memory: you tried to allocate 5000000000 bytes"), 5),
    "CUDA": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 2.15),
    "cuBLAS": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), None),
    "system": (OSError(errno.ENOMEM, "Cannot allocate memory"), None),
}
PLACES = {
    "prompt": (TextEncoderModel, "encode"),
    "weights": (Prefetcher, "_read"),
    "step": (MMDiT, "walk"),
    "VAE": (VAEModel, "decode"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_who_says_it_and_how(name):
    error, amount = FAULTS[name]
    sentence = str(memory_fault(error))
    assert "Memory ran out" in sentence and "smaller picture" in sentence and "--memory" in sentence
    assert (f"{amount:.2f} GB were needed at once" in sentence) if amount else ": 0" not in sentence
    assert ("graphics card" in sentence) == (name in ("CUDA", "cuBLAS"))


def test_other_errors_stay_what_they_are(monkeypatch):
    onednn = RuntimeError("could not create a primitive")
    for error in (RuntimeError("shapes differ"), OSError(errno.ENOENT, "x"), InkstoneError("y")):
        assert memory_fault(error) is None
    assert memory_fault(onednn) is None, "with memory left it is another fault"
    monkeypatch.setattr(exhaustion, "available_ram", lambda: 1_000_000)
    assert "Memory ran out" in str(memory_fault(onednn))


def fail_once(monkeypatch, place: str, error: Exception) -> None:
    """The first call there fails, later ones work."""
    owner, name = PLACES[place]
    work, left = getattr(owner, name), [error]

    def method(self, *given, **named):
        if left:
            raise left.pop()
        return work(self, *given, **named)

    monkeypatch.setattr(owner, name, method)


@pytest.mark.slow
@pytest.mark.parametrize("place_", PLACES)
def test_draw(place_, place, monkeypatch, capsys):
    call = ["draw", "a red circle", "--size", "64x64", "--steps", "2", "--quiet", "-o", "a.png"]
    fail_once(monkeypatch, place_, FAULTS["torch"][0])
    assert main(call) == 1
    message = capsys.readouterr().err
    assert message.startswith("inkstone draw: Memory ran out: 12.35 GB were needed"), message
    assert not list(place.glob("*.png*")) and not list(place.glob(".*")), "nothing half-written"
    assert not any(weights.reserved for weights in residencies())
    assert main(call) == 0


def test_a_graph_names_the_node(place, monkeypatch, capsys):
    fail_once(monkeypatch, "step", FAULTS["CUDA"][0])
    settings = ["--set", "Inkstone Sampler.steps=1", "--output", "out"]
    assert main(["run", "text_to_image_embedded", "--quiet", *settings]) == 1
    message = capsys.readouterr().err
    assert "Inkstone Sampler" in message and "Memory ran out: 2.15 GB" in message, message
    assert not list(place.glob("out/*"))


def test_a_queue_goes_on(place, monkeypatch):
    fail_once(monkeypatch, "step", FAULTS["Python"][0])
    line = {"prompt": "a red circle", "size": "64x64", "steps": 2}
    jobs = place / "jobs.jsonl"
    jobs.write_text("\n".join(json.dumps(line | {"seed": seed}) for seed in range(3)))
    assert main(["batch", str(jobs), "--output", str(place / "out"), "--quiet"]) == 1
    lines = (place / "out" / "results.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["status"] for record in records] == ["failed", "done", "done"]
    assert records[0]["error"].startswith("Memory ran out: "), records[0]
    assert len(list((place / "out").glob("*.png"))) == 2


def test_a_file_that_cannot_be_saved_leaves_nothing(place, monkeypatch, capsys):
    from inkstone.files import png

    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr(png, "save_png", fails)
    monkeypatch.setattr("inkstone.headless.draw.save.save_png", fails)
    call = ["draw", "a red circle", "--size", "64x64", "--steps", "1", "--quiet", "-o", "a.png"]
    assert main(call) == 1
    assert "Memory ran out" in capsys.readouterr().err
    assert not list(place.glob("*.png*")) and not list(place.glob(".*"))


def test_a_node_in_comfyui(monkeypatch):
    """The page gets the sentence, and the host unloads its models as it does at its own."""
    import sys
    import types

    from inkstone.host import headless

    calls = []
    manager = types.SimpleNamespace(
        unload_all_models=lambda: calls.append("unload"),
        soft_empty_cache=lambda: calls.append("empty"),
    )
    comfy = types.ModuleType("comfy")
    comfy.model_management = manager
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.model_management", manager)
    monkeypatch.setattr(headless, "IN_COMFYUI", True)

    def execute():
        raise FAULTS["CUDA"][0]

    with pytest.raises(InkstoneError, match="Memory ran out: 2.15 GB") as caught:
        for_page(execute)()
    assert type(caught.value) is InkstoneError and "--memory" not in str(caught.value)
    assert calls == ["unload", "empty"]
