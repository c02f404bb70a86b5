"""What people search for is a text of the node that they need: its class, title or an alias.

The page's own ranking is asked in tests/support/page_search.py; this holds what it can find at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from inkstone.host import api
from inkstone.nodes import NODES

from ..support.searches import REACH, SEARCHES, typed


@pytest.fixture
def texts(monkeypatch) -> dict[str, list[str]]:
    """What a host that knows search aliases looks in, by class."""

    @dataclass
    class NewerSchema(api.io.Schema):
        search_aliases: list[str] = field(default_factory=list)

    monkeypatch.setattr(api.io, "Schema", NewerSchema)
    schemas = [node.define_schema() for node in NODES]
    return {s.node_id: [s.node_id, s.display_name, *s.search_aliases] for s in schemas}


def fits(text: str, words: str) -> bool:
    """True if each word is in the text, near enough to its start for the page."""
    text, close = text.lower(), text.lower().replace(" ", "")
    return all(0 <= text.find(w) <= REACH or w in close[: REACH + len(w)] for w in words.split())


def test_each_search_is_in_one_text_of_its_node(texts):
    assert len(SEARCHES) >= 60
    asked = typed()
    assert len(asked) > 2 * len(SEARCHES) - 4
    lost = [
        f"{words} -> {node}"
        for words, node in asked
        if not any(fits(text, words.lower()) for text in texts[node])
    ]
    assert lost == []


def test_no_alias_is_too_long_for_the_page(texts):
    plain = {alias for words in texts.values() for alias in words[2:]}
    plain = {alias for alias in plain if not alias.startswith("inkstone ")}
    assert len(plain) > 60
    assert [alias for alias in plain if alias.rfind(" ") > REACH] == []


def test_an_alias_is_also_given_with_the_name_of_the_pack(texts):
    for node, words in texts.items():
        plain = [alias for alias in words[2:] if not alias.startswith("inkstone ")]
        assert sorted(words[2:]) == sorted(plain + [f"inkstone {alias}" for alias in plain]), node
