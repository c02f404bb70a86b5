"""Several models behind one server: kept by use, and files that change while it runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from inkstone.headless.serve.desk.settings import ServeCall
from inkstone.kernels.memory import process_bytes
from inkstone.loaders.memory.residency import Residency, residencies
from inkstone.loaders.models.load import EMBEDDED_FOLDER
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_request import QuantizeCall

from ...support.quantizing import quiet
from .running import Served, serving

JOB = {"prompt": "a red circle", "size": "64x64", "steps": 1, "cfg": 1.0}
NAMES = ("a", "b", "c")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A models folder with three copies of the embedded model."""
    for name in NAMES:
        shutil.copytree(EMBEDDED_FOLDER, tmp_path / "models" / "diffusers" / name)
    return tmp_path / "models"


def weights_of(folder: Path, name: str) -> Path:
    """The file of a copy's diffusion model."""
    return folder / "diffusers" / name / "transformer" / "diffusion_pytorch_model.safetensors"


def sent(server: Served, model: str, **more: object) -> str:
    """The id of a job."""
    answer = server.client.post("/v1/jobs", json={**JOB, "model": model, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def done(server: Served, model: str, **more: object) -> bytes:
    """The picture of a job."""
    job = server.ended(sent(server, model, **more))
    assert job["state"] == "done", job
    return server.client.get(job["files"][0]).content


def drawer(server: Served):
    """Who draws."""
    return server.desk._hands[0]._worker.drawer


def diffusion_models(server: Served) -> dict[str, Residency]:
    """The weights of the diffusion models that are open, by the names of their folders."""
    cache = drawer(server).executor.cache
    results = [*cache._results.values(), *cache._models.values()]
    models = [one for values in results for one in values if hasattr(one, "step_cache")]
    return {model.path.name: model.weights for model in models}


def test_three_models_in_turn_stay_open_and_memory_is_flat(folder):
    with serving(ServeCall(models=folder)) as server:
        for name in NAMES * 3:
            done(server, name)
        opened, before, files = drawer(server).models_loaded, process_bytes(), open_files()
        for turn in range(30):
            done(server, NAMES[turn % 3], seed=turn)
        assert drawer(server).models_loaded == opened, "none is opened again"
        grown = process_bytes() - before
        assert grown < 24e6, f"{grown / 1e6:.1f} MB more after 30 jobs"
        assert open_files() <= files + 4


def open_files() -> int:
    """Open files of this process, where the system says it."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_the_model_that_was_used_longest_ago_leaves_memory_first(folder, monkeypatch):
    for weights in residencies():  # of other tests: to unload them would make room for all three
        weights.park()
    with serving(ServeCall(models=folder)) as server:
        done(server, "a")
        one = diffusion_models(server)["a"]

        def room(self: Residency, budget: object, working: int, makes: bool = True) -> int:
            small = sum(r.reserved for r in self._others() if r.name != one.name)
            return working + small + self.nbytes * (self.name != one.name) + int(2.5 * one.nbytes)

        monkeypatch.setattr(Residency, "_room", room)
        for order in (("b", "c"), ("a", "c"), ("b", "a")):
            for name in order:
                done(server, name)
            inside = {name for name, weights in diffusion_models(server).items() if weights.loaded}
            assert inside == set(order), f"{inside} after {order}"
            assert set(diffusion_models(server)) >= set(NAMES[:2])


def test_gguf_and_safetensors_share_one_text_encoder_and_vae(tmp_path):
    source = EMBEDDED_FOLDER / "transformer"
    files = tmp_path / "diffusion_models"
    files.mkdir()
    shutil.copy(source / "diffusion_pytorch_model.safetensors", files / "plain.safetensors")
    quantize(QuantizeCall(files / "plain.safetensors", files / "small.gguf", "Q8_0"), quiet)
    parts = {"text_encoder": EMBEDDED_FOLDER / "text_encoder", "vae": EMBEDDED_FOLDER / "vae"}
    defaults = {"model": files / "plain.safetensors", **parts}
    with serving(ServeCall(models=tmp_path, defaults=defaults)) as server:
        first = {name: done(server, name, seed=1) for name in ("plain.safetensors", "small.gguf")}
        opened = drawer(server).models_loaded
        again = {name: done(server, name, seed=1) for name in first}
        assert drawer(server).models_loaded == opened
        assert drawer(server).prompts_encoded == 1, "the text encoder is the same one"
        assert first.keys() == again.keys() and len(set(first.values())) == 2


@pytest.mark.parametrize("how", ["in place", "by another file"])
def test_a_file_that_was_replaced_is_loaded_again(folder, how):
    path = weights_of(folder, "a")
    data = bytearray(path.read_bytes())
    with serving(ServeCall(models=folder)) as server:
        before = done(server, "a", seed=1)
        assert done(server, "a", seed=1) == before
        data[-200_000:] = bytes(200_000)
        if how == "in place":
            path.write_bytes(data)
        else:
            other = path.with_suffix(".new")
            other.write_bytes(data)
            other.rename(path)
        assert done(server, "a", seed=1) != before
        assert len(diffusion_models(server)) <= 2, "the old one is not kept"
        assert done(server, "b", seed=1), "another model is none the worse"


def test_a_broken_file_fails_its_own_jobs_with_a_sentence(folder):
    path = weights_of(folder, "a")
    data = path.read_bytes()
    with serving(ServeCall(models=folder)) as server:
        done(server, "a")
        path.write_bytes(data[:1000])
        for _ in range(2):
            job = server.ended(sent(server, "a"))
            assert job["state"] == "failed" and "not a valid .safetensors file" in job["error"]
            assert str(folder) not in job["error"]
            done(server, "b")
        path.write_bytes(data)
        done(server, "a")


def test_a_model_that_is_deleted_while_jobs_wait(folder):
    with serving(ServeCall(models=folder)) as server:
        with server.slowly(60, first=True):
            slow = sent(server, "c", steps=100)
            server.running(slow)
            waiting = sent(server, "a")
            shutil.rmtree(folder / "diffusers" / "a")
            server.client.delete(f"/v1/jobs/{slow}")
        job = server.ended(waiting)
        assert job["state"] == "failed" and len(job["error"]) > 20, job
        assert str(folder) not in job["error"], job
        assert server.client.post("/v1/jobs", json={**JOB, "model": "a"}).status_code == 404
        done(server, "b")
