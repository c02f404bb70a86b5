"""Targets: sets of prompts and results of `inkstone score`."""

from __future__ import annotations

from inkstone.score.page import comparison_page, page
from inkstone.score.results import compared, read_result
from inkstone.score.sets import read_set
from inkstone.score.source import render_source

from .files import split, written


def fuzz_score_set(data: bytes) -> None:
    """A set in any of its forms: lines, or one JSON value."""
    name, content = split(data, 2)
    ending = ".json" if name == b"json" else ".jsonl"
    prompts = read_set(str(written(f"set{ending}", content)))
    assert prompts.tasks == prompts.limited(len(prompts.tasks)).tasks
    assert len(prompts.limited(1).tasks) == 1
    for task in prompts.tasks[:3]:
        if task.source is not None and task.source.width * task.source.height < 1 << 18:
            render_source(task.source)


def fuzz_score_result(data: bytes) -> None:
    """A result: read, written, shown and compared with itself."""
    result = read_result(written("score.json", data))
    again = read_result(written("again.json", result.text().encode("utf-8", "backslashreplace")))
    assert again.pictures == result.pictures
    assert "<script" not in page(result, lambda picture: "")
    if result.pictures:
        comparison = compared(result, again)
        assert all(d.same for s in comparison.by_set().values() for d in s.values())
        comparison_page(comparison, lambda picture: "", lambda picture: "")
