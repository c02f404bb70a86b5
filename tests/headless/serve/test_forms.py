"""Forms say the same as JSON: what clients make of nested objects, of lists and of nothing."""

from __future__ import annotations

import pytest

from inkstone.headless.serve.api import requests
from inkstone.headless.serve.api.forms import form_texts
from inkstone.headless.serve.desk.refusal import Refusal

from .running import QUICK, as_text, picture, png
from .test_bodies import form

openai = pytest.importorskip("openai")
qs = pytest.importorskip("openai._qs")

CANNY = {"type": "canny", "picture": "AAAA", "strength": "0.5"}
OBJECTS = [
    {"control": CANNY},
    {"control": [CANNY, {**CANNY, "type": "depth"}]},
    {"control": {"type": "canny", "picture": {"image_url": "data:x"}}},
    {"control": [{"type": "canny", "picture": {"image_url": "data:x"}}] * 2},
    {"lora": {"name": "x", "strength": "0.8"}},
    {"lora": [{"name": "x"}, {"name": "y:0.5"}]},
    {"lora": ["x", "y"], "steps": 4, "cfg": 2.5, "fast": True, "negative": '["a"]'},
    {"region": ["a:0,0,9,9"], "schedule": "beta", "size": "64x64"},
]


def sent(own: object, how: str) -> dict[str, list[str]]:
    """The fields of a form that OpenAI's serializer makes."""
    fields: dict[str, list[str]] = {}
    for name, text in qs.Querystring(array_format=how).stringify_items({"inkstone": own}):
        fields.setdefault(name, []).append(text)
    return fields


@pytest.mark.parametrize("how", ["brackets", "indices"])
@pytest.mark.parametrize("own", OBJECTS)
def test_a_form_says_what_json_says(own, how):
    assert form_texts(sent(own, how)) == {"inkstone": own}


def test_items_of_one_another_in_any_order():
    fields = {f"inkstone[lora][{k}][name]": [str(k)] for k in (2, 10, 1)}
    assert form_texts(fields) == {"inkstone": {"lora": [{"name": k} for k in ("1", "2", "10")]}}


@pytest.mark.parametrize(
    "fields",
    [
        {"inkstone[control][][type]": ["a", "b"], "inkstone[control][][start]": ["0"]},
        {"inkstone[lora][]": ["x"], "inkstone[lora][][name]": ["y"]},
        {"inkstone[lora]": ["x"], "inkstone[lora][name]": ["y"]},
        {"inkstone[lora][name]": ["x"], "inkstone[lora]": ["y"]},
        {"inkstone[lora][]": ["x"], "inkstone[lora][0]": ["y"]},
        {"inkstone[lora][0]": ["x"], "inkstone[lora][name]": ["y"]},
        {"inkstone[lora][][a][]": ["x"]},
        {"inkstone[lora][name]": ["x", "y"]},
        {"inkstone[lora][0]": ["x", "y"]},
        {"inkstone": ['{"lora": "x"}'], "inkstone[lora][name]": ["y"]},
        {"inkstone": ['{"steps": 1}', '{"steps": 2}']},
        {"inkstone[lora]": ["[" * 200_001]},
    ],
)
def test_what_could_be_two_things_is_refused(fields):
    with pytest.raises(Refusal) as caught:
        form_texts(fields)
    assert str(caught.value).endswith((".", "is given twice."))


def test_depth_is_bounded(server):
    answer = form(server, [("inkstone" + "[a]" * 5, "x")])
    assert answer.status_code == 400 and "Unknown parameter" in answer.text


def test_nested_json_is_taken_where_an_option_has_it():
    fields = {"inkstone[control]": ['{"type": "canny"}'], "inkstone[negative]": ["[1]"]}
    assert form_texts(fields) == {"inkstone": {"control": {"type": "canny"}, "negative": "[1]"}}


EMPTY = "size n background response_format output_format output_compression inkstone model stream"


@pytest.mark.parametrize("name", [*EMPTY.split(), "partial_images", "quality", "mask"])
def test_an_empty_field_of_a_form_is_none(server, name):
    fields = [(name, "")] + ([("inkstone[steps]", "1")] if name != "inkstone" else [])
    assert form(server, fields).status_code == 200


def test_empty_options_of_ours_are_none():
    fields = {"inkstone[steps]": [""], "inkstone[seed]": ["3"], "inkstone[negative]": [""]}
    assert form_texts(fields) == {"inkstone": {"seed": 3, "negative": ""}}
    assert form_texts({"prompt": [""]}) == {"prompt": ""}


def test_a_file_that_nobody_chose_is_none(server):
    boundary = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    parts = [
        (b"prompt", b"", b"x"),
        (b"inkstone", b"", b'{"steps": 1}'),
        (b"image", b'; filename="a.png"', png()),
        (b"mask", b'; filename=""', b""),
    ]
    body = b"".join(boundary % part for part in parts) + b"--x--\r\n"
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = server.client.post("/v1/images/edits", content=body, headers=head)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("empty", ["model", "size", "background", "output_format"])
def test_an_empty_text_of_json_is_none(server, empty):
    body = {"prompt": "x", "size": "64x64", "inkstone": QUICK, empty: ""}
    assert server.client.post("/v1/images/generations", json=body).status_code == 200


def test_an_empty_model_of_a_job_is_the_default(server):
    job = {"prompt": "x", "size": "64x64", "steps": 1, "model": ""}
    assert server.client.post("/v1/jobs", json=job).status_code == 202


@pytest.fixture
def orders(monkeypatch):
    """The orders that were made, rather than drawn."""
    made = []

    def submit(desk, owner, body, options, lasting):
        made.append((body.data, options))
        raise Refusal("enough")

    monkeypatch.setattr(requests, "_submit", submit)
    return made


@pytest.mark.parametrize("own", OBJECTS[1:3])
def test_the_official_client_sends_nested_objects(server, orders, own):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    for call in (
        lambda: client.images.edit(
            image=("a.png", png(), "image/png"), prompt="x", extra_body={"inkstone": own}
        ),
        lambda: client.images.generate(prompt="x", extra_body={"inkstone": own}),
    ):
        with pytest.raises(openai.BadRequestError, match="enough"):
            call()
    (_, of_form), (_, of_json) = orders
    assert of_form == of_json == own


def test_a_large_control_picture_comes_through_a_form(server, orders):
    text = "A" * (3 << 20)
    answer = form(
        server, [("inkstone[control][type]", "map"), ("inkstone[control][picture]", text)]
    )
    assert "enough" in answer.text, answer.text[:200]
    assert orders[0][1]["control"]["picture"] == text


def test_a_size_is_given_once(server):
    body = {"prompt": "x", "size": "64x64", "inkstone": {**QUICK, "size": "128x128"}}
    error = server.client.post("/v1/images/generations", json=body).json()["error"]
    assert error["param"] == "size" and "twice" in error["message"]
    body |= {"size": "auto", "inkstone": {**QUICK, "size": "128x64"}}
    answer = server.client.post("/v1/images/generations", json=body).json()
    assert picture(answer["data"][0]["b64_json"]).size == (128, 64)


@pytest.mark.parametrize(
    "name, said",
    [
        ("seed", '{"inkstone": {"seed": VALUE}}'),
        ("negative_prompt", '{"inkstone": {"negative": VALUE}}'),
        ("num_inference_steps", '{"inkstone": {"steps": VALUE}}'),
        ("guidance_scale", '{"inkstone": {"cfg": VALUE}}'),
        ("width", 'Did you mean "size"'),
        ("num_images", 'Did you mean "n"?'),
        ("nonsense", '{"inkstone": {"steps": 8}}'),
        ("metadata", "Unknown parameter"),
    ],
)
def test_an_unknown_field_names_its_place(server, name, said):
    error = server.client.post("/v1/images/generations", json={"prompt": "x", name: 1})
    error = error.json()["error"]
    assert said in error["message"] and error["param"] == name, error
    assert error["code"] == "unknown_parameter"


def test_fields_of_openai_that_change_nothing_are_taken(server):
    body = {"prompt": "x", "size": "64x64", "inkstone": QUICK}
    body |= {"safety_identifier": "u", "complexity": "low", "quality": "high", "user": "u"}
    assert server.client.post("/v1/images/generations", json=body).status_code == 200


@pytest.mark.parametrize(
    "name, said",
    [
        ("quality", "It belongs to /v1/images/generations"),
        ("stream", "It belongs to /v1/images/generations"),
        ("response_format", "It belongs to /v1/images/generations"),
        ("stesp", 'Did you mean "steps"?'),
        ("zzzz", "batch, cache, cfg, control, control_fit, control_model"),
        ("zzzz", "image, images, layers, lora, mask, model, n, negative, prompt"),
    ],
)
def test_an_unknown_option_of_a_job(server, name, said):
    error = server.client.post("/v1/jobs", json={"prompt": "x", name: "y"}).json()["error"]
    assert said in error["message"] and error["param"] == name
    assert error["message"].startswith(f'A job has no option "{name}".'), error
    assert "object" not in error["message"] and "inkstone" not in error["message"]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(as_text(png())[k : k + 76] for k in range(0, len(as_text(png())), 76)) + "\n",
        " \r\n\t" + as_text(png()),
        as_text(png()).rstrip("="),
    ],
)
def test_base64_may_have_lines(server, text):
    for given in (text, "data:image/png;base64," + text):
        body = {"prompt": "x", "image": given, "inkstone": QUICK}
        answer = server.client.post("/v1/images/edits", json=body)
        assert answer.status_code == 200, answer.text


def test_either_alphabet_of_base64():
    from inkstone.headless.serve.desk.pictures import picture_bytes

    data = bytes(range(256))
    url_safe = as_text(data).replace("+", "-").replace("/", "_")
    assert "-" in url_safe and "_" in url_safe
    assert picture_bytes(url_safe, "image") == picture_bytes(url_safe.rstrip("="), "image") == data
    for wrong in ("+-AA", "a.png", "AAAAA", "http://x/y", "ä" * 4, "A===", "", " \n"):
        with pytest.raises(Refusal):
            picture_bytes(wrong, "image")
