"""Shipped workflows by name: in this tree and, as package data, in an installed wheel."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import inkstone
from inkstone.errors import CallError
from inkstone.headless.workflow.load import SHIPPED, find_graph, read_graph_file

from ...conftest import ROOT

NAME = "text_to_image_embedded"


TITLE = "Text to image (no download)"  # what the page's list of templates shows


@pytest.mark.parametrize("name", [NAME, f"{NAME}.json", TITLE, f"{TITLE}.json"])
def test_a_shipped_graph_is_found_by_its_name_and_title(name, place):
    path = find_graph(Path(name))
    assert path == Path(inkstone.__file__).resolve().parent / "workflows" / f"{TITLE}.json"
    assert read_graph_file(path).ui


def test_every_name_finds_the_graph_of_its_api_form(place):
    for api in (SHIPPED / "api").glob("*.json"):
        ui = read_graph_file(find_graph(Path(api.stem))).ui
        classes = {node["type"] for node in ui["nodes"]} - {"MarkdownNote"}
        assert classes == {n["class_type"] for n in json.loads(api.read_text("utf-8")).values()}
        assert ui["extra"]["inkstone"]["name"] == api.stem


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
