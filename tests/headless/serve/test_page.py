"""The page: complete in one file, in two languages, with a label for everything."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from inkstone.headless.serve.page import FILE

TEXT = FILE.read_text("utf-8")


class Elements(HTMLParser):
    """All elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(TEXT)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


ELEMENTS = Elements().found
LANGUAGES = dict(re.findall(r"^  (en|zh): \{\n(.*?)\n  \},", TEXT, re.S | re.M))


def names(text: str) -> set[str]:
    """The names of a language's texts."""
    return set(re.findall(r"(?:^|, |    )(\w+): (?=[\"`]|\w+ =>|\()", text, re.M))


def test_nothing_comes_from_elsewhere():
    assert not re.findall(r"https?://|src=|@import|url\(", TEXT)
    assert [a for t, a in ELEMENTS if t == "link"] == [{"rel": "icon", "href": "data:,"}]


def test_both_languages_say_everything():
    en, zh = names(LANGUAGES["en"]), names(LANGUAGES["zh"])
    used = {a["data-t"] for _, a in ELEMENTS if "data-t" in a}
    used |= set(re.findall(r"\bt\.(\w+)", TEXT)) - {"remove"}
    assert en == zh and used <= en, (en ^ zh, used - en)
    assert len(en) > 40 and not re.findall("[\u4e00-\u9fff]", LANGUAGES["en"])


def test_every_field_has_a_label():
    labelled = {a.get("for") for t, a in ELEMENTS if t == "label"}
    fields = [a for t, a in ELEMENTS if t in ("input", "textarea", "select")]
    wrapped = {"enhance"}  # inside its label
    assert len(fields) >= 14
    assert [f["id"] for f in fields if f["id"] not in labelled | wrapped] == []
    ids = [a["id"] for _, a in ELEMENTS if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in ELEMENTS:
        for name in ("for", "aria-labelledby", "aria-describedby"):
            assert attributes.get(name) in (None, *ids)


def test_the_server_gives_it_with_a_policy(server):
    answer = server.client.get("/")
    assert answer.text == TEXT and answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
