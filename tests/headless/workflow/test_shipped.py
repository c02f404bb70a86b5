"""Shipped workflows by name: in this tree and, as package data, in an installed wheel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import inkstone
from inkstone.errors import CallError
from inkstone.headless.workflow.load import SHIPPED, find_graph, read_graph_file

from ...conftest import ROOT

NAME = "text_to_image_embedded"


@pytest.mark.parametrize("name", [NAME, f"{NAME}.json"])
def test_a_shipped_graph_is_found_by_its_name(name, place):
    path = find_graph(Path(name))
    assert path == Path(inkstone.__file__).resolve().parent / "workflows" / f"{NAME}.json"
    assert read_graph_file(path).ui


def test_a_file_here_takes_precedence(place):
    (place / NAME).write_text("{}")
    assert find_graph(Path(NAME)) == Path(NAME)


@pytest.mark.parametrize("name", [f"other/{NAME}", f"./{NAME}/..", "..", ".", "", "api"])
def test_only_bare_names_are_looked_up(name, place):
    with pytest.raises(CallError, match="no such graph file. Check the path"):
        find_graph(Path(name))


def test_a_misspelt_name_gets_the_nearest(place):
    with pytest.raises(CallError, match=f"a shipped workflow, such as {NAME}"):
        find_graph(Path("text_to_image_embeded"))


def test_the_wheel_has_them():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.search(r"(?ms)^packages = \[(.*?)^\]", text)
    assert packages and '"inkstone.workflows"' in packages[1]
    assert re.search(r'(?m)^"inkstone\.workflows" = \[.*"\*\*/\*\.json"', text)
    assert SHIPPED == ROOT / "workflows"
