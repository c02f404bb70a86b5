"""Two processes over gloo train as one with twice the accumulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inkstone.errors import CallError
from inkstone.loaders.formats.safetensors import SafetensorsFile
from inkstone.training.lora.distributed import Group, group_in_environment, own_device

from ...conftest import ROOT
from ...support.ports import free_port
from .toy import settings_of, train_toy

RUN = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests import conftest
import threading, torch
from pathlib import Path
from inkstone.training.lora.distributed import group_in_environment, joined
from tests.training.lora.toy import settings_of, train_toy
group, folder, stop = group_in_environment(), Path(sys.argv[1]), threading.Event()
def watch(report):
    if report.line.step == 9:
        stop.set()  # in the first process only: both must end
with joined(group, torch.device("cpu")):
    settings = settings_of(folder, accumulate=2, ema=0.9)
    try:
        train_toy(settings, group, stop=stop, on_step=watch)
        sys.exit("it did not stop")
    except KeyboardInterrupt:
        pass
    lines = len((settings.folder / "log.jsonl").read_text().splitlines())
    assert lines in (9, 10), lines
    group.wait()
    train_toy(settings, group)
"""


def two_processes(folder: Path) -> None:
    """Trains the toy in two processes, as torchrun starts them, with a stop in between."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = [
        subprocess.Popen(
            [sys.executable, "-B", "-c", RUN, str(folder)],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    errors = [one.communicate(timeout=120)[1].decode()[-2000:] for one in both]
    assert [one.returncode for one in both] == [0, 0], errors


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_accumulation(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = (settings_of(tmp_path / name, accumulate=4, ema=0.9) for name in ("one", "two"))
    train_toy(one)
    two_processes(tmp_path / "two")
    logs = []
    for settings in (one, two):
        text = (settings.folder / "log.jsonl").read_text()
        logs.append([json.loads(line) for line in text.splitlines()])
    assert [line["step"] for line in logs[1]] == list(range(1, 21))
    for a, b in zip(*logs):
        assert abs(a["loss"] / b["loss"] - 1) < 1e-5, (a, b)
        assert abs(a["grad"] / b["grad"] - 1) < 1e-5, (a, b)
        assert a["lr"] == b["lr"]
    with SafetensorsFile(one.output) as left, SafetensorsFile(two.output) as right:
        for name in left.entries:
            error = (left.read(name) - right.read(name)).abs().max().item()
            assert error < 1e-5, f"{name}: {error}"


def test_a_process_is_alone_without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert group_in_environment() == Group() and Group().first
    values = [torch.ones(2)]
    Group().sum(values)
    assert values[0].tolist() == [1, 1]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(CallError, match="expected numbers, as torchrun sets them"):
        group_in_environment()


def test_each_process_of_a_machine_has_its_own_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda")
    assert own_device(Group(), cuda) == cuda
    assert own_device(Group(3, 4, 1), cuda) == torch.device("cuda", 1)
    assert own_device(Group(1, 2, 1), torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(CallError, match="process 3 on this machine, which has 2 cards"):
        own_device(Group(2, 4, 2), cuda)
