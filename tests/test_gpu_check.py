"""bench/gpu_check.py without a GPU: the whole script at tiny sizes, and what faults do to it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_check
from bench.gpu import parts as gpu_parts
from bench.gpu import run as gpu_run
from bench.gpu.card import Card
from bench.gpu.formats import QUANTIZED, RANDOM
from bench.gpu.kernels import TYPES
from bench.gpu.report import Part, markdown
from bench.gpu.run import Run, Work
from inkstone.kernels.triton import backend
from inkstone.pipeline.gguf_recipes import MIXES
from inkstone.quant.gguf_types import BY_NAME

ROOT = Path(__file__).resolve().parents[1]


def _run(folder: Path, seconds: float = 60.0) -> Run:
    return Run(Card(tiny=True), False, time.monotonic() + seconds, folder)


@pytest.mark.slow
def test_the_whole_script_on_a_cpu(tmp_path):
    pytest.importorskip("triton", reason="triton is not installed: THE GPU CHECK IS NOT RUN")
    out = tmp_path / "facts.json"
    call = [sys.executable, str(ROOT / "bench" / "gpu_check.py"), "--tiny", "--json", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    facts = {part["name"]: part for part in json.loads(out.read_text())["parts"]}
    assert list(facts) == list(gpu_check.SHARES)
    for name, part in facts.items():
        assert part["rows"] and not part["faults"] and not part["cut"], part
        assert part["checks"] or name == "machine", f"{name} checks nothing"
        assert f"### {part['title']}" in done.stdout
    assert "all checks passed" in done.stdout


def test_every_part_has_a_share_and_every_type_its_turn():
    assert list(gpu_parts.TITLES) == list(gpu_check.SHARES)
    assert set(TYPES) == set(backend.TYPES)
    drawn = {*QUANTIZED, *RANDOM}
    assert set(MIXES) <= drawn, "types that `inkstone quantize` writes"
    blocks = {kind.name for kind in BY_NAME.values() if kind.packed and not kind.codebook}
    bases = {getattr(mix, part) for mix in MIXES.values() for part in ("base", "v", "down", "edge")}
    assert blocks <= {*bases, *RANDOM}, "GGUF types that no format of the check has"


def test_a_failure_is_a_fault_and_the_part_goes_on(tmp_path):
    def work(run: Run, part: Part) -> None:
        for name in run.each(["one", "two"]):
            with run.guarded(name):
                part.row(case=name)
                if name == "one":
                    raise ValueError("a wrong tile")
                part.check("an error", 2.0, 1.0)
                part.check("not a number", float("nan"), 1.0)

    part = _run(tmp_path).do(Work("p", "A part", 1, work), 0)
    assert [row["case"] for row in part.rows] == ["one", "two"]
    wrong, large, nothing = part.faults
    assert wrong == "one: ValueError: a wrong tile" and "expected at most 1" in large
    assert "nan" in nothing and part.checks == 3
    assert "0 of 3 checks passed" in markdown(part) and markdown(part).count("FAILED") == 3


def test_time_that_is_up_is_named(tmp_path):
    def slow(run: Run, part: Part) -> None:
        for name in run.each(["a", "b", "c"]):
            part.row(case=name)
            time.sleep(0.3)

    first = _run(tmp_path, 3.0).do(Work("p", "", 1, slow), 9)  # a tenth of the time
    assert len(first.rows) == 1 and first.cut == ["b", "c"]
    assert "cut for want of time: b, c" in markdown(first)
    late = _run(tmp_path, 0.5).do(Work("p", "", 1, slow), 0)
    assert late.cut == ["the whole part"] and not late.rows


def test_a_lost_card_ends_the_process_but_not_the_check(tmp_path, monkeypatch):
    def broken(run: Run, part: Part) -> None:
        with run.guarded("a kernel"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory"):
        _run(tmp_path).do(Work("p", "", 1, broken), 0)
    assert not gpu_run.lost(torch.OutOfMemoryError("CUDA out of memory"))

    given: list[dict] = []
    monkeypatch.setitem(gpu_parts.TITLES, "steps", ("", broken))
    args = argparse.Namespace(
        child="steps,cfg", tiny=True, budget=60.0, quick=True, folder=tmp_path
    )
    assert gpu_parts.run_parts(args, gpu_check.SHARES, given.append) == 1
    assert given[-1]["name"] == "steps" and "the card was lost" in given[-1]["faults"][0]
    assert "device" in given[0] and len(given) == 2


def test_parts_behind_a_dead_process_run_in_another(monkeypatch):
    """The first child gives one part and dies in the second without a word; the next goes on."""
    calls = []

    def watched(names, args, end):
        calls.append(names)
        first = Part(names[0], checks=1)
        return {1: [{"device": "d"}, vars(first)], 2: [{"device": "d"}]}.get(
            len(calls), [{"device": "d"}, *(vars(Part(name)) for name in names)]
        )

    monkeypatch.setattr(gpu_check, "watched", watched)
    args = argparse.Namespace(budget=60.0)
    head, parts = gpu_check.measured(["machine", "kernels", "steps", "cfg"], args)
    assert head == {"device": "d"} and [p.name for p in parts] == [
        *("machine", "kernels", "steps", "cfg")
    ]
    assert calls[1:] == [["kernels", "steps", "cfg"], ["steps", "cfg"]]
    assert parts[1].faults and not parts[2].faults


def test_time_that_is_over_ends_the_rest(monkeypatch):
    monkeypatch.setattr(gpu_check, "watched", lambda names, args, end: [])
    _, parts = gpu_check.measured(["kernels", "steps"], argparse.Namespace(budget=-60.0))
    assert [p.name for p in parts] == ["kernels", "steps"] and parts[1].cut == ["the whole part"]


def test_without_a_card_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="sees no CUDA device here"):
        gpu_parts.refuse(tiny=False)
    gpu_parts.refuse(tiny=True)
