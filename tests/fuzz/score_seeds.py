"""Seeds: a line of each form of a set, a result with every field."""

from __future__ import annotations

import json

from inkstone.score.results import PictureResult, Result

from .files import joined


def sets() -> list[bytes]:
    """Own, GenEval's, LongText-Bench's, CVTG-2K's, characters."""
    own = {
        "id": "a",
        "prompt": 'a sign "OPEN"',
        "group": "g",
        "texts": ["OPEN", "北京"],
        "gone": ["OLD"],
        "size": "512x256",
        "image": "a.png",
        "changed": [0.1, 0.2, 0.3, 0.4],
        "things": [
            {"what": "dog", "least": 2, "most": 3, "colour": "red", "place": "left"},
            {"what": "cat", "beside": ["left of", 0]},
        ],
    }
    items = [
        {"text": "OPEN", "colour": "red", "box": [0.1, 0.1, 0.5, 0.2]},
        {"shape": "star", "colour": "blue", "box": [0.5, 0.5, 0.2, 0.2]},
    ]
    source = {"size": "64x96", "ground": "white", "items": items}
    edit = {"prompt": "e", "source": source, "texts": ["OPEN"], "changed": [0, 0, 1, 1]}
    geneval = {
        "tag": "counting",
        "include": [
            {"class": "kettle", "count": 4, "color": "red"},
            {"class": "goat", "count": 1, "position": ["right of", 0]},
        ],
        "exclude": [{"class": "kettle", "count": 5}],
        "prompt": "p",
    }
    long = {"category": "sign", "length": "short", "prompt": "p", "prompt_id": 7, "text": ["A"]}
    cvtg = {"data_list": [{"index": 0, "prompt": "a 'b'", "sentence_list": ["b"]}]}
    lines = [joined(b"lines", _text(value)) for value in (own, edit, geneval, long)]
    values = [joined(b"json", _text(value)) for value in (cvtg, {"0": "a 'b c' and \"d\""})]
    return [*lines, *values, joined(b"lines", "山\n水\n".encode())]


def results() -> list[bytes]:
    """One right picture, one that could not be drawn."""
    marks = {"words": (2, 3), "texts": (0, 1), "place": (1, 1), "all": (0, 1)}
    right = PictureResult(
        "english", "1", "g", "p", ("a b c",), 3, "pictures/a.png", ("a b",), ("dog",), 1, marks
    )
    failed = PictureResult("english", "2", "", "q", (), 4, "b.png", error="no memory")
    whole = Result(
        name="model",
        settings={"seed": 3, "limit": None},
        readers={"english: words": "OCR"},
        pictures=[right, failed],
        truth={"english": {"words": (9, 10)}},
        checks={"embedded": {"texts": (0.9, 1.0)}},
        notes=("a note",),
    )
    return [whole.text().encode(), Result("x", {}, {}, []).text().encode()]


def _text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
