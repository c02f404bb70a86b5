"""Options that a drawing does not read: said in one line, or refused."""

from __future__ import annotations

import json

import pytest

import inkstone
from inkstone.errors import CallError
from inkstone.headless.cli.main import main
from inkstone.headless.draw.request import DrawCall, check_call

SAID = "the negative prompt has no effect"
CALL = {"size": (64, 64), "steps": 1}


def lines(caplog) -> list[str]:
    """The warnings of a negative prompt."""
    return [one.getMessage() for one in caplog.records if SAID in one.getMessage()]


@pytest.mark.parametrize("off", [{"cfg": 1}, {"fast": True}, {"cfg": 0.5}])
def test_a_negative_prompt_that_is_not_read_is_said_once(caplog, off):
    with inkstone.load() as models:
        plain = models.draw("a red circle", **CALL, **off)
        assert lines(caplog) == []
        same = models.draw("a red circle", **CALL, **off, negative="red", batch=2)
    (line,) = lines(caplog)
    assert same[0].tobytes() == plain[0].tobytes() and "only CFG above 1 reads it" in line


@pytest.mark.parametrize("more", [{"cfg": 2, "negative": "red"}, {"cfg": 1, "negative": " "}])
def test_one_that_is_read_or_empty_is_not(caplog, more):
    inkstone.draw("a red circle", **CALL, **more)
    assert lines(caplog) == []


def test_a_queue_says_it_in_each_job_that_has_it(place):
    job = {"prompt": "a red circle", "size": "64x64", "steps": 1, "cfg": 1, "seed": 1}
    jobs = [{**job, "id": "a", "negative": "red"}, {**job, "id": "b"}]
    jobs.append({**job, "id": "c", "negative": "red"})
    (place / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    assert main(["batch", "jobs.jsonl", "--output", "out", "--quiet"]) == 0
    records = map(json.loads, (place / "out" / "results.jsonl").read_text().splitlines())
    said = {one["id"]: [n for n in one.get("notes", ()) if SAID in n] for one in records}
    assert {name: len(notes) for name, notes in said.items()} == {"a": 1, "b": 0, "c": 1}


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_fit_of_no_control_is_refused(fit):
    with pytest.raises(CallError, match="--control-fit says how .* Add --control TYPE:PICTURE"):
        check_call(DrawCall("x", control_fit=fit))
    with pytest.raises(CallError, match="control-fit"):
        inkstone.draw("x", control_fit=fit)
