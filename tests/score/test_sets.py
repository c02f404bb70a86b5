"""Sets: the shipped ones are whole and ours, the public ones' files are read, all else is refused
with a sentence that names the line."""

import json
from collections import Counter

import pytest

from inkstone.errors import CallError
from inkstone.score.published import quoted
from inkstone.score.sets import SHIPPED, read_set
from inkstone.score.task import RELATIONS, WantedThing, is_han, language_of


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sets(name):
    tasks = read_set(name).tasks
    assert len(tasks) >= 20 and len({t.prompt for t in tasks}) == len(tasks)
    for task in tasks:
        shown = [item.text for item in task.source.items] if task.source else []
        assert task.group, task
        assert all(text in task.prompt or text in shown for text in task.texts), task
        for thing in task.things:
            named = task.source or (thing.what in task.prompt and thing.colour in task.prompt)
            assert named, task
    languages = Counter(language_of(text) for task in tasks for text in task.texts)
    if name == "chinese":
        assert set(languages) == {"zh"}
    if name == "latin":
        assert languages["latin"] >= 36 and languages["zh"] == 0


def test_a_limit_takes_of_every_group():
    whole = read_set("english")
    some = whole.limited(10)
    assert len(some.tasks) == 10 and {t.group for t in some.tasks} == {t.group for t in whole.tasks}
    assert all(task == whole.tasks[task.number] for task in some.tasks)
    assert whole.limited(None) is whole.limited(9999) is whole


def write(tmp_path, name, *lines):
    file = tmp_path / name
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return str(file)


def test_own_form(tmp_path):
    path = write(
        tmp_path,
        "mine.jsonl",
        {"prompt": "a sign", "texts": "OPEN", "size": "512x256", "group": "g"},
        "",
        {
            "id": "two",
            "prompt": "x",
            "things": [
                {"what": "dog", "least": 2, "most": 2, "colour": "red", "place": "left"},
                {"what": "cat", "beside": ["left of", 0]},
            ],
        },
    )
    given = read_set(path)
    first, second = given.tasks
    assert given.name == "mine" and (first.id, first.texts, first.size) == (
        "00000",
        ("OPEN",),
        "512x256",
    )
    assert second.number == 1 and second.things == (
        WantedThing("dog", 2, 2, "red", "left"),
        WantedThing("cat", beside=("left of", 0)),
    )


def test_geneval(tmp_path):
    path = write(
        tmp_path,
        "evaluation_metadata.jsonl",
        {
            "tag": "counting",
            "include": [{"class": "kettle", "count": 4}],
            "exclude": [{"class": "kettle", "count": 5}],
            "prompt": "p",
        },
        {
            "tag": "position",
            "include": [
                {"class": "kettle", "count": 1, "color": "red"},
                {"class": "goat", "count": 1, "position": ["right of", 0]},
            ],
            "prompt": "q",
        },
    )
    first, second = read_set(path).tasks
    assert first.group == "counting" and first.things == (WantedThing("kettle", 4, 4),)
    assert second.things == (
        WantedThing("kettle", colour="red"),
        WantedThing("goat", beside=("right of", 0)),
    )
    assert second.things[1].beside[0] in RELATIONS


def test_long_text(tmp_path):
    line = {
        "category": "sign",
        "length": "short",
        "prompt": "p",
        "prompt_id": 7,
        "text": ["A", "B"],
    }
    (task,) = read_set(write(tmp_path, "text_prompts.jsonl", line)).tasks
    assert (task.id, task.group, task.texts) == ("7", "sign short", ("A", "B"))


def test_cvtg(tmp_path):
    for part, count in (("CVTG", 2), ("CVTG-Style", 5)):
        (tmp_path / part).mkdir()
        row = {"index": 0, "prompt": f"{part} 'One two' and 'it's'", "sentence_list": ["One two"]}
        (tmp_path / part / f"{count}.json").write_text(json.dumps({"data_list": [row]}))
        (tmp_path / part / f"{count}_combined.json").write_text(
            json.dumps({"0": f"{part} 'One two' and 'it's'"})
        )
    tasks = read_set(str(tmp_path)).tasks
    assert [t.id for t in tasks] == ["CVTG-2-0", "CVTG-Style-5-0"]
    assert tasks[0].texts == ("One two",)
    (task,) = read_set(str(tmp_path / "CVTG" / "2_combined.json")).tasks
    assert task.texts == ("One two", "it's")


def test_quoted():
    text = "A sign 'Don't stop' beside \"24 Hours\" and “再见”, the dog's bowl"
    assert quoted(text) == ("Don't stop", "24 Hours", "再见")


def test_characters(tmp_path):
    tasks = read_set(write(tmp_path, "level1.txt", "山", "水", " 火 ")).tasks
    assert [t.texts for t in tasks] == [("山",), ("水",), ("火",)]
    assert all(is_han(t.prompt) and t.texts[0] in t.prompt for t in tasks)


OWN = {"prompt": "a", "texts": ["b"]}
SOURCE = {"size": "64x64", "ground": "red"}
ITEM = {"colour": "blue", "text": "a", "box": [0, 0, 1, 1]}
BAD = {
    "no JSON": (("{",), "line 1: is not JSON"),
    "a list": (("{}", "[]"), "line 2: is no JSON object"),
    "no text at all": (("hello world",), "line 1: is not one Chinese character"),
    "empty": (("",), "has no prompts"),
    "blank lines": (("", "  ", ""), "has no prompts"),
    "a column that nobody knows": (
        ({**OWN, "text_list": []},),
        'line 1: has the unknown name "text_list"',
    ),
    "no prompt": (({"texts": ["b"]},), '"prompt" is missing'),
    "a blank prompt": (({"prompt": " ", "texts": ["b"]},), '"prompt" is missing, blank'),
    "nothing to count": (({"prompt": "a"},), "says nothing that can be counted"),
    "texts of numbers": (({"prompt": "a", "texts": [1]},), '"texts" is no list of texts'),
    "a size": (({**OWN, "size": "0x7"},), "\"size\" is '0x7'"),
    "half a character": (('{"prompt": "a\\ud800", "texts": ["b"]}',), "half a character"),
    "twice": (('{"prompt": "a", "prompt": "b", "texts": ["b"]}',), 'has "prompt" twice'),
    "the same id": (({**OWN, "id": "x"}, OWN, {**OWN, "id": "x"}), "that of prompts 1 and 3"),
    "a long line": (({**OWN, "group": "x" * 10_000_000},), "line 1: has 10000"),
    "deep": (("[" * 300 + "]" * 300,), "line 1"),
    "a thing that is a text": (({"prompt": "a", "things": ["dog"]},), "what is no object"),
    "a thing without a name": (({"prompt": "a", "things": [{"least": 1}]},), '"what" is missing'),
    "most below least": (
        ({"prompt": "a", "things": [{"what": "x", "least": 3, "most": 2}]},),
        '"most" is 2, less than',
    ),
    "half a dog": (
        ({"prompt": "a", "things": [{"what": "x", "least": 0.5}]},),
        '"least" is no whole number',
    ),
    "true dogs": (({"prompt": "a", "things": [{"what": "x", "least": True}]},), '"least" is no'),
    "beside itself": (
        ({"prompt": "a", "things": [{"what": "x", "beside": ["left of", 0]}]},),
        "the place of thing 0",
    ),
    "a place": (({"prompt": "a", "things": [{"what": "x", "place": "here"}]},), '"place" is'),
    "a colour": (({"prompt": "a", "things": [{"what": "x", "colour": "mauve"}]},), "'mauve'"),
    "a source of a text": (({**OWN, "source": "x"},), '"source" is no object such as'),
    "a source and an image": (
        ({**OWN, "image": "x.png", "source": {"size": "64x64", "ground": "red"}},),
        "the picture that it edits is one",
    ),
    "a huge source": (
        ({**OWN, "source": {"size": "99999x64", "ground": "red"}},),
        "a side of 99999",
    ),
    "a source in mauve": (({**OWN, "source": {"size": "64x64", "ground": "mauve"}},), "'mauve'"),
    "an item of nothing": (
        ({**OWN, "source": {**SOURCE, "items": [{"colour": "red", "box": [0, 0, 1, 1]}]}},),
        'needs a "text" or a "shape"',
    ),
    "an item without a box": (
        ({**OWN, "source": {**SOURCE, "items": [{"colour": "red", "text": "a"}]}},),
        'has no "box"',
    ),
    "an item that Pillow's font lacks": (
        ({**OWN, "source": {**SOURCE, "items": [{**ITEM, "text": "ł"}]}},),
        "are not in Pillow's own font",
    ),
    "a part outside": (({**OWN, "changed": [0.5, 0, 0.8, 1]},), "leads out of the picture"),
    "a part of texts": (({**OWN, "changed": "all"},), '"changed" is no list of four'),
    "GenEval without a class": (({"tag": "a", "prompt": "a", "include": [{}]},), '"class" is'),
    "GenEval without a list": (({"tag": "a", "prompt": "a", "include": 3},), '"include" is no'),
    "LongText without texts": (({"prompt_id": 1, "prompt": "a", "text": []},), '"text" is no list'),
    "columns of another set": (
        ({"prompt_id": 1, "prompt": "a", "text": ["b"]}, OWN),
        'line 2: "text" is no list',
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_set(what, tmp_path):
    lines, words = BAD[what]
    with pytest.raises(CallError) as error:
        read_set(write(tmp_path, "bad.jsonl", *lines))
    assert words in str(error.value) and len(str(error.value)) < 1000


def test_files_that_are_no_sets(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "cvtg.json").write_text('{"data_list": [{"prompt": "no quotes"}]}')
    for given, words in (
        ("englisch", "Did you mean english?"),
        (str(tmp_path), "is a folder and not CVTG-2K"),
        (str(tmp_path / "x.jsonl"), "is not UTF-8"),
        (str(tmp_path / "list.json"), "is no file of CVTG-2K"),
        (str(tmp_path / "cvtg.json"), "has no text in quotes"),
        ("/dev/null", "expected a file"),
    ):
        with pytest.raises(CallError, match=words.replace("?", r"\?")):
            read_set(given)


def test_many_faults_are_listed_once(tmp_path):
    with pytest.raises(CallError) as error:
        read_set(write(tmp_path, "bad.jsonl", *["{}"] * 100))
    assert "100 lines cannot be used" in str(error.value) and "and 80 more" in str(error.value)
