"""Results: written and read again, compared, and refused where they are none; the page escapes."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from inkstone.errors import CallError
from inkstone.score.page import POLICY, comparison_page, page
from inkstone.score.rates import differences, rates
from inkstone.score.results import PictureResult, Result, compared, read_result

BAD = "<script>alert(1)</script><img src=x onerror=alert(2)>\" ' & \u202e"


def picture(number, right=2, **values):
    marks = {"words": (right, 2), "all": (int(right == 2), 1)}
    base = PictureResult("english", f"{number}", "g", f"p{number}", ("a b",), number, "x.png")
    return dataclasses.replace(base, marks=marks, **values)


def result(name="one", rights=(2, 2, 1, 0), **values):
    pictures = [picture(n, right) for n, right in enumerate(rights)]
    readers = {"english: words": "stub"}
    return Result(name=name, settings={"seed": 0}, readers=readers, pictures=pictures, **values)


def saved(tmp_path, one, name="score.json"):
    file = tmp_path / name
    file.write_text(one.text(), encoding="utf-8")
    return file


def test_written_and_read_again(tmp_path):
    one = result(
        truth={"english": {"words": (9, 10)}},
        checks={"embedded": {"texts": (0.5, 0.75)}},
        notes=("a note",),
    )
    again = read_result(saved(tmp_path, one))
    assert again == one
    facts = json.loads(one.text())["sets"]["english"]
    assert facts["rates"]["words"]["right"] == 5 and facts["rates"]["words"]["asked"] == 8
    assert facts["rates"]["words"]["method"] == "bootstrap over pictures"
    assert facts["rates"]["all"]["method"] == "exact binomial"
    assert facts["groups"]["g"] == facts["rates"]


def test_rates():
    counted = rates([{"words": (1, 2)}, {"words": (2, 2), "place": (0, 1)}, {}])
    assert list(counted) == ["words", "place"]
    assert (counted["words"].interval.value, counted["words"].pictures) == (0.75, 2)
    assert counted["place"].interval.high > 0.9  # one picture says little


def test_a_result_against_itself():
    comparison = compared(result(), result())
    measures = comparison.by_set()["english"]
    assert len(comparison.pairs) == 4 and comparison.alone == (0, 0)
    assert all(d.same and d.p == 1 for d in measures.values())
    assert measures["words"].sentence("words").startswith("no difference: the same words")


def test_words_that_were_lost():
    one, two = result(rights=[2] * 20), result("two", rights=[2] * 8 + [1] * 12)
    difference = compared(one, two).by_set()["english"]["words"]
    sentence = difference.sentence("words")
    match = re.match(r"12 of 40 words lost \((\d+) to (\d+)\): -30.0 points", sentence)
    assert match and 5 <= int(match[1]) < 12 < int(match[2]) <= 18, sentence
    assert difference.worse == 12 and difference.better == 0 and difference.p < 0.001
    back = compared(two, one).by_set()["english"]["words"].sentence("words")
    assert back.startswith("12 of 40 words gained")


def test_a_difference_that_few_pictures_cannot_show():
    """Four worse pictures of 150: a bootstrap alone would call that clear, McNemar's test does
    not."""
    one, two = result(rights=[2] * 150), result("b", rights=[2] * 146 + [0] * 4)
    for measure in ("words", "all"):
        difference = compared(one, two).by_set()["english"][measure]
        assert difference.p == 0.125 and not difference.is_clear
        assert difference.interval.high == 0.0 and difference.interval.low < -0.04
        assert difference.sentence(measure).endswith("; 150 pictures show no difference")
    more = result("c", rights=[2] * 140 + [0] * 10)
    assert compared(one, more).by_set()["english"]["all"].is_clear


def test_pictures_that_ask_different_things_are_not_compared():
    pairs = [({"words": (1, 2)}, {"words": (1, 3)}), ({"words": (1, 1)}, {"place": (1, 1)})]
    assert differences(pairs) == {}


def test_only_the_same_requests_are_compared():
    one, two = result(), result("two", rights=(2, 2))
    assert compared(one, two).alone == (2, 0)
    other = Result("x", {}, {}, [picture(99)])
    with pytest.raises(CallError, match="no request in common"):
        compared(one, other)
    with pytest.raises(CallError, match="other readers"):
        compared(one, dataclasses.replace(two, readers={"english: words": "another"}))


NO_RESULTS = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "a text": '"x"',
    "another file": '{"inkstone_score": 2}',
    "no pictures": '{"inkstone_score": 1}',
    "deep": "[" * 500,
}


@pytest.mark.parametrize("what", NO_RESULTS)
def test_what_is_no_result(what, tmp_path):
    file = tmp_path / "x.json"
    file.write_text(NO_RESULTS[what])
    with pytest.raises(CallError, match="x.json is no"):
        read_result(file)


@pytest.mark.parametrize(
    "change",
    [
        {"marks": {"words": [3, 2]}},
        {"marks": {"words": [-1, 2]}},
        {"marks": {"words": [0.5, 1]}},
        {"marks": {"<script>": [1, 1]}},
        {"marks": {"words": [1, 10**12]}},
        {"prompt": 3},
        {"read": "x"},
        {"seed": "a"},
    ],
)
def test_a_spoiled_picture(change, tmp_path):
    data = json.loads(result().text())
    data["pictures"][0] |= change
    if change == {"read": "x"}:
        data["pictures"][0]["read"] = [1]
    file = tmp_path / "x.json"
    file.write_text(json.dumps(data))
    with pytest.raises(CallError, match="is no result of"):
        read_result(file)


def test_a_picture_twice(tmp_path):
    data = json.loads(result().text())
    data["pictures"].append(data["pictures"][0])
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(CallError, match="twice"):
        read_result(tmp_path / "x.json")


class Elements(HTMLParser):
    """Collects the elements and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs


def hostile():
    bad = PictureResult(
        BAD, BAD, BAD, BAD, (BAD,), 0, BAD, (BAD,), (BAD,), 0, {"words": (0, 1)}, error=BAD
    )
    truth, checks = {BAD: {"words": (1, 1)}}, {BAD: {BAD: (1.0, 1.0)}}
    return Result(BAD, {BAD: BAD}, {BAD: BAD}, [bad], truth=truth, checks=checks, notes=(BAD,))


@pytest.mark.parametrize("both", [False, True])
def test_the_page_runs_and_loads_nothing(both):
    address = "data:image/png;base64,AAAA"
    text = page(hostile(), lambda p: address)
    if both:
        other = dataclasses.replace(hostile(), name="b")
        changed = dataclasses.replace(other.pictures[0], marks={"words": (1, 1)})
        other = dataclasses.replace(other, pictures=[changed])
        text = comparison_page(compared(hostile(), other), lambda p: address, lambda p: address)
    elements = Elements(text)
    assert not elements.tags & {"script", "iframe", "object", "embed", "link", "base", "form"}
    names = {name for name, _ in elements.attributes}
    assert names <= {
        *("lang", "charset", "http-equiv", "content", "name", "class", "title", "src", "alt")
    }
    assert {v for k, v in elements.attributes if k == "src"} <= {address}
    assert POLICY in {v for _, v in elements.attributes} and "default-src 'none'" in POLICY
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert "\u202e" not in text and "&lt;script&gt;" in text


def test_the_page_shows_what_was_asked_and_read():
    shown = dataclasses.replace(picture(1, 1), read=("a c",), found=("dog (red) at 1 %, 2 %",))
    text = page(Result("model", {}, {}, [shown]), lambda p: "")
    for words in ("p1", "a b", "a c", "dog (red)", "words 1 of 2", "50.0 %", "seed 1", "wrong"):
        assert words in text, words
