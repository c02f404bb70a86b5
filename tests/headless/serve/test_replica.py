"""What travels to a replica, and a replica in this process: no Ray is needed."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from inkstone.headless.draw.control_option import ControlOption
from inkstone.headless.draw.request import DrawCall
from inkstone.headless.queue.worker import Places
from inkstone.headless.serve.desk.deadline import job_named
from inkstone.headless.serve.desk.hand import LocalHand
from inkstone.headless.serve.desk.tickets import CANCELLED, Ticket
from inkstone.headless.serve.replicas.parcel import Progress, pack, unpack
from inkstone.headless.serve.replicas.replica import Replica
from inkstone.loaders.models.load import EMBEDDED_FOLDER

CALL = DrawCall("a red circle", size=(64, 64), steps=3, seed=5)
LONG = replace(CALL, steps=1000, size=(256, 256))


def picture(path: Path, colour: str) -> Path:
    Image.new("RGB", (32, 32), colour).save(path)
    return path


def test_pictures_travel_and_models_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("order", "there"):
        Path(name).mkdir()
    red, mask = picture(Path("order/i.png"), "red"), picture(Path("order/m.jpg"), "white")
    call = replace(
        CALL,
        model=Path("models/m.safetensors"),
        lora=[(Path("models/l.safetensors"), 0.5)],
        image=[red, red],
        mask=mask,
        control=[ControlOption("map", red, 1, 0, 1)],
    )
    parcel = pack(job_named("a", call=call), Path("order"))
    assert sorted(parcel.files) == ["0.png", "1.jpg"]
    there = unpack(parcel, tmp_path / "there", tmp_path / "there").call
    assert there.model == tmp_path / "models" / "m.safetensors"
    assert there.lora == [(tmp_path / "models" / "l.safetensors", 0.5)]
    assert there.image == [tmp_path / "there" / "0.png"] * 2
    assert there.control[0].path == tmp_path / "there" / "0.png"
    assert there.mask.read_bytes() == mask.read_bytes()
    assert not [path for path in there.pictures if not path.is_relative_to(tmp_path / "there")]


def test_every_machine_has_the_embedded_model_itself(tmp_path):
    call = replace(CALL, model=EMBEDDED_FOLDER)
    assert pack(job_named("a", call=call), tmp_path).job.call.model is None


def test_a_graph_travels_with_its_pictures_only(tmp_path):
    here, there = tmp_path / "input", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (here / "a_1.png").write_bytes(b"mine")
    (here / "b_1.png").write_bytes(b"another's")
    graph = tmp_path / "graph.json"
    graph.write_text("{}")
    job = unpack(pack(job_named("a", graph=graph), here), tmp_path / "there", there)
    assert job.graph.read_text() == "{}" and job.graph != graph
    assert sorted(path.name for path in there.iterdir()) == ["0.json", "a_1.png"]


@pytest.fixture
def replica(monkeypatch):
    monkeypatch.setattr("inkstone.headless.serve.replicas.replica.keep_quiet", lambda: None)
    one = Replica(Places(), DrawCall(""), "r1")
    yield one
    folder = one._folder
    one.close()
    assert not folder.exists()


def parcel_of(call: DrawCall, tmp_path: Path):
    return pack(job_named("a", call=call), tmp_path)


async def items_of(replica: Replica, parcel) -> list[object]:
    return [item async for item in replica.run(parcel)]


def test_a_replica_draws_the_picture_of_this_process(replica, tmp_path):
    assert asyncio.run(replica.ready())[1] is None
    replica.check_health()
    call = replace(CALL, image=[picture(tmp_path / "i.png", "red")], size=None)
    parcel = parcel_of(call, tmp_path)
    *progress, end = asyncio.run(items_of(replica, parcel))
    assert all(isinstance(item, Progress) for item in progress)
    assert end.status == "done" and list(end.files) == ["a.png"]
    assert end.facts["process"] == os.getpid() and end.facts["worker"] == "r1"
    hand = LocalHand(tmp_path / "work", Places())
    own = hand.run(job_named("a", call=call), Ticket("a", "anybody", lasting=False)).files[0]
    there = Image.open(io.BytesIO(end.files["a.png"]))
    assert there.tobytes() == Image.open(own).tobytes()


def test_a_replica_sends_steps_and_previews(replica, tmp_path):
    parcel = parcel_of(replace(CALL, steps=100, size=(128, 128)), tmp_path)
    *progress, end = asyncio.run(items_of(replica, parcel))
    steps = [item.step for item in progress]
    assert steps == sorted(steps) and progress[-1].steps == 100 and end.status == "done"
    previews = [item.preview for item in progress if item.preview]
    assert previews and previews[0].startswith(b"\xff\xd8"), "JPEG"
    assert len(set(previews)) == len(previews), "each once"


@pytest.mark.parametrize("way", ["the task is cancelled", "the stream is left"])
def test_a_cancelled_job_ends_there_and_the_next_one_is_drawn(replica, tmp_path, way):
    async def run() -> float:
        items = replica.run(parcel_of(LONG, tmp_path))
        await anext(items)
        began = time.monotonic()
        if way == "the stream is left":
            await items.aclose()
        else:
            task = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        took = time.monotonic() - began
        assert (await items_of(replica, parcel_of(CALL, tmp_path)))[-1].status == "done"
        return took

    took = asyncio.run(run())
    assert took < 1, f"{took:.2f} s"


def test_a_replica_whose_server_has_gone_draws_nothing_more(replica, tmp_path):
    threading.Timer(0.3, replica.leave).start()
    assert asyncio.run(items_of(replica, parcel_of(LONG, tmp_path)))[-1].status == CANCELLED
    assert asyncio.run(items_of(replica, parcel_of(CALL, tmp_path)))[-1].status == CANCELLED


def test_an_error_of_a_replica_names_none_of_its_folders(replica, tmp_path):
    broken = tmp_path / "i.png"
    broken.write_bytes(b"no picture")
    parcel = parcel_of(replace(CALL, image=[broken], size=None), tmp_path)
    end = asyncio.run(items_of(replica, parcel))[-1]
    assert end.status == "failed" and "0.png" in end.facts["error"]
    assert str(replica._folder) not in end.facts["error"], end.facts["error"]


def test_a_replica_without_its_model_says_so_and_is_not_healthy(tmp_path, monkeypatch):
    monkeypatch.setattr("inkstone.headless.serve.replicas.replica.keep_quiet", lambda: None)
    one = Replica(Places(), DrawCall("", model=tmp_path / "absent.safetensors"), "r1")
    try:
        fault = asyncio.run(one.ready())[1]
        assert "absent.safetensors" in str(fault)
        with pytest.raises(RuntimeError, match="absent"):
            one.check_health()
    finally:
        one.close()


def test_a_log_of_a_replica_repeats_no_prompt(capfd):
    from inkstone.headless.serve.desk.quiet_log import DRAWS, keep_quiet

    package = logging.getLogger("inkstone")
    before, propagates = list(package.handlers), package.propagate
    try:
        keep_quiet()
        lines = [("inkstone.pipeline.x", "zyzzogeton"), ("inkstone.headless.queue.worker", "fault")]
        for name, text in lines:
            work = threading.Thread(target=logging.getLogger(name).warning, args=(text,))
            work.name = f"{DRAWS}_0"
            work.start()
            work.join()
        assert "fault" in (err := capfd.readouterr().err) and "zyzzogeton" not in err
    finally:
        package.handlers, package.propagate = before, propagates
