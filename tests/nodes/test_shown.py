"""The conditions under which the page shows a widget: they name what exists, and every widget that
they may hide has a default that its node takes for "not set".
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inkstone.host.api import io
from inkstone.nodes import NODES
from inkstone.nodes.preprocess import NO_FILE, ControlPicture
from inkstone.nodes.shown import KEY

ROOT = Path(__file__).resolve().parents[2]
RULES = [
    (node.ID, item.id, item.extra_dict[KEY])
    for node in NODES
    for item in node.define_schema().inputs
    if KEY in (item.extra_dict or {})
]
INPUTS = {node.ID: {item.id: item for item in node.define_schema().inputs} for node in NODES}


def test_the_nodes_with_choices_that_override_others_have_rules():
    assert {node for node, _, _ in RULES} == {
        "InkstoneEmptyLatent",
        "InkstoneControlPicture",
        "InkstoneDenoise",
        "InkstoneLoraLoader",
        "InkstoneRegionalPrompts",
    }


@pytest.mark.parametrize(("node", "name", "ways"), RULES, ids=[f"{r[0]}.{r[1]}" for r in RULES])
def test_a_rule_names_inputs_and_values_that_exist(node, name, ways):
    inputs = INPUTS[node]
    assert ways and inputs[name].default is not None
    for other, how, values in (condition for way in ways for condition in way):
        if how == "unconnected":
            assert other in inputs and not values
            continue
        assert how in ("among", "other than") and values
        item = inputs[other]
        known = {item.default} if isinstance(item, io.String.Input) else set(item.options)
        assert set(values) <= known, f"{other} has no such values: {values}"


def test_a_host_sends_the_rules_to_the_page():
    """Hosts add extra_dict to an input's entry in /object_info."""
    item = INPUTS["InkstoneEmptyLatent"]["width"]
    assert item.extra_dict == {KEY: [[("size", "among", ["custom (width and height below)"])]]}
    with pytest.raises(TypeError):  # as the oldest host: a widget takes none at its creation
        io.Int.Input("n", extra_dict={})


def test_scripts_of_the_page_are_small_modules():
    scripts = sorted((ROOT / "web").rglob("*.js"))
    assert {path.parent for path in scripts} == {ROOT / "web"}  # the page's paths count folders
    for path in scripts:
        assert len(path.read_text("utf-8").splitlines()) <= 350, path.name


def test_options_that_a_type_does_not_have_are_named(caplog):
    picture, node = torch.rand(1, 32, 32, 3), ControlPicture
    node.execute(picture, "canny", NO_FILE, "", low_threshold=20)
    assert not caplog.records
    node.execute(picture, "depth", NO_FILE, "[]", low_threshold=20, high_threshold=200)
    assert [record.getMessage() for record in caplog.records] == [
        "Control Picture: depth has no option low_threshold, keypoints: ignored"
    ]
