"""The page: all its files from the server, in two languages, with a label for everything."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from inkstone.headless.serve.api.page import FACTS, FOLDER, INDEX, SMALL, facts
from inkstone.headless.serve.desk.settings import Limits
from inkstone.sampling.geometry import SIZES, SIZES_21
from inkstone.training.grammar import CANVASES

FILES = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
SCRIPTS = "\n".join(text for name, text in FILES.items() if name.endswith(".js"))
WORDS = {name: json.loads(FILES[f"{name}.json"]) for name in ("en", "zh", "zh-TW")}
CHINESE = re.compile("[\u4e00-\u9fff]")
SAME = {"lora", "tiny1", "tiny2", "tiny3"}  # in both languages: the embedded model reads English


class Elements(HTMLParser):
    """All elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(FILES[INDEX])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


ELEMENTS = Elements().found


def test_nothing_comes_from_elsewhere():
    for name, text in FILES.items():
        assert not re.findall(r"https?://|//\w+\.|@import|url\(", text), name
    sources = [a.get("src") or a.get("href") for t, a in ELEMENTS if t in ("script", "link")]
    assert sources == ["data:,", "page/style.css", "page/main.js"]
    assert set(re.findall(r'from "\./([\w.]+)"', SCRIPTS)) < FILES.keys()


def test_nothing_needs_an_unsafe_policy():
    assert not [a for _, a in ELEMENTS if "style" in a or any(n.startswith("on") for n in a)]
    assert not re.findall(r"\beval\(|new Function|innerHTML|insertAdjacentHTML", SCRIPTS)


def test_files_stay_readable():
    assert {name: n for name, text in FILES.items() if (n := text.count("\n")) > 350} == {}


def test_both_languages_say_everything():
    en, zh = WORDS["en"], WORDS["zh"]
    used = {a[name] for _, a in ELEMENTS for name in ("data-t", "data-label") if name in a}
    used |= set(re.findall(r'\bt\("(\w+)"[,)]', SCRIPTS))
    assert en.keys() == zh.keys() and used <= en.keys(), (en.keys() ^ zh.keys(), used - en.keys())
    assert len(used) > 70
    for name, text in zh.items():
        holes = [sorted(re.findall(r"\{\d\}", one)) for one in (en[name], text)]
        assert holes[0] == holes[1], name
        assert CHINESE.search(text) or name in SAME, name
    assert not CHINESE.search(json.dumps(en, ensure_ascii=False))


def test_traditional_chinese_is_that_of_the_chinese_texts():
    from scripts.web import build

    made = build.render_served()
    assert {name: FILES[name] for name in made} == made, "run python scripts/web/build.py"
    assert WORDS["zh-TW"].keys() == WORDS["zh"].keys() and WORDS["zh-TW"]["draw"] == "繪製"


def test_no_text_is_left_over():
    """Each text is asked for by its name, or by one that is put together."""
    built = {*(f"example{k}" for k in (1, 2, 3)), *(f"tiny{k}" for k in (1, 2, 3))}
    built |= {name for name in WORDS["en"] if name.startswith("kind_")}
    built |= {"stopone", "removeone"}
    known = set(re.findall(r"\w+", " ".join([SCRIPTS, FILES[INDEX]])))
    assert WORDS["en"].keys() - known - built == set()


def test_every_type_of_control_has_a_name():
    from inkstone.headless.draw.control_option import kinds

    assert {f"kind_{kind}" for kind in kinds()} <= WORDS["en"].keys()


def test_every_field_has_a_label():
    labelled = {a.get("for") for t, a in ELEMENTS if t == "label"}
    fields = [a for t, a in ELEMENTS if t in ("input", "textarea", "select")]
    wrapped = {"enhance", "fresh", "picture", "maskfile"}  # inside their labels
    assert len(fields) >= 20
    assert [
        f["id"] for f in fields if f["id"] not in labelled | wrapped and "aria-label" not in f
    ] == []
    ids = [a["id"] for _, a in ELEMENTS if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in ELEMENTS:
        for name in ("for", "aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids), attributes


def test_every_parameter_has_a_place_for_its_error():
    from inkstone.headless.serve.desk.orders import OPTIONS

    ids = {a.get("id") for _, a in ELEMENTS}
    shown = {name for name in OPTIONS if name in ids}
    assert {"steps", "cfg", "negative", "seed", "strength", "enhance"} <= shown
    assert {f"{name}-error" for name in shown - {"enhance"}} <= ids
    for name in ("prompt", "model", "picture", "mask", "size", "n", "lora", "control", "form"):
        assert f"{name}-error" in ids


def test_the_server_gives_it_with_a_policy(server):
    answer = server.client.get("/")
    assert answer.text == FILES[INDEX] and answer.headers["content-type"].startswith("text/html")
    for name, text in FILES.items():
        if name == INDEX:
            continue
        answer = server.client.get(f"/page/{name}")
        assert answer.status_code == 200 and answer.text == text, name
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["none.js", "..%2fpage.py", "%2e%2e/page.py", INDEX, "x.py"])
def test_it_gives_no_other_file(server, name):
    answer = server.client.get(f"/page/{name}")
    assert answer.status_code == 404 and answer.json()["error"]["message"]


def test_what_the_form_knows(server):
    assert server.client.get(f"/page/{FACTS}").json() == facts(Limits())
    known = facts(Limits(pixels=1_000_000))
    sizes = [tuple(map(int, size.split("x"))) for size in facts(Limits())["sizes"]]
    assert set(sizes) == {*SIZES.values(), *SIZES_21.values()}
    assert (
        SMALL == CANVASES
        and known["sizes"] == []
        and known["pixels"] == 1_000_000
        and "128x128" in known["small"]
    )


def test_controls_are_listed(server):
    answer = server.client.get("/v1/controls").json()
    assert answer["data"] == [] and {"map", "canny"} <= set(answer["types"])
