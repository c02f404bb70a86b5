"""Bodies of requests: JSON, forms and headers that are nearly right."""

from __future__ import annotations

import pytest

from inkstone.headless.serve.api.forms import form_texts

from .running import as_text, png
from .test_jobs import JOB


@pytest.mark.parametrize(
    "wrong, param",
    [
        ({"stream": 1}, "stream"),
        ({"partial_images": ""}, "partial_images"),
        ({"partial_images": False}, "partial_images"),
        ({"inkstone": []}, "inkstone"),
        ({"quality": 5}, "quality"),
        ({"user": ["a"]}, "user"),
        ({"inkstone": {"region": ["x" * 20_000 + ":0,0,9,9"] * 2}}, "region"),
        ({"inkstone": {"steps": "4"}}, "steps"),
        ({"inkstone": {"upscale_strength": 0.5}}, "upscale_strength"),
    ],
)
def test_a_refusal_names_what_is_wrong(server, wrong, param):
    answer = server.client.post("/v1/images/generations", json={"prompt": "x", **wrong})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text


def test_pictures_given_twice_are_refused(server):
    two = {"prompt": "x", "image": as_text(png()), "images": [as_text(png())]}
    assert server.client.post("/v1/images/edits", json=two).status_code == 400
    assert server.client.post("/v1/jobs", json={**JOB, "n": 1, "batch": 2}).status_code == 400


def form(server, fields: list[tuple[str, str]], **more):
    """An edit as a form with these fields."""
    files = [(name, (None, text)) for name, text in [("prompt", "x"), *fields]]
    files.append(("image", ("a.png", png(), "image/png")))
    return server.client.post("/v1/images/edits", files=files, **more)


@pytest.mark.parametrize(
    "fields, status",
    [
        ([("inkstone[steps]", "1"), ("inkstone[seed]", "3")], 200),
        ([("inkstone[steps]", "1"), ("inkstone[steps]", "2")], 400),
        ([("inkstone", '{"steps": 1}'), ("inkstone[steps]", "2")], 400),
        ([("inkstone[lora][]", "one"), ("inkstone[lora][]", "two")], 400),  # both: there is no one
        ([("inkstone[lora][0]", "one")], 400),
        ([("stream", "yes")], 400),
        ([("inkstone[fast]", "1")], 400),
        ([("n", "1_0")], 400),
        ([("n", " 1")], 400),
        ([("n", "nan")], 400),
        ([("n", "9" * 5000)], 400),
        ([("prompt", "y")], 400),
        ([("mask", "text")], 400),
        ([(f"f{k}", "x") for k in range(1000)], 400),
        ([("a\0b", "x")], 400),
        ([("user", "x" * (2 << 20))], 400),
    ],
)
def test_fields_of_a_form(server, fields, status):
    answer = form(server, fields)
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json()["error"]["message"]


def test_lists_of_a_form_come_whole():
    assert form_texts({"inkstone[region][]": ["a:0,0,9,9", "b:0,0,9,9"], "prompt": ["x"]}) == {
        "prompt": "x",
        "inkstone": {"region": ["a:0,0,9,9", "b:0,0,9,9"]},
    }


@pytest.mark.parametrize(
    "kind, body, status",
    [
        ("multipart/form-data", b"--x", 400),
        ("multipart/form-data; boundary=x", b"nonsense", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nA: b\r\n\r\n\r\n--x--", 400),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 100_000, 400),
        ("multipart/form-data; boundary=x", b"--x\r\nA: " + b"b" * (1 << 20), 400),
        ("multipart/form-data; boundary=x; charset=idna", b"--x--", 415),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x--", 400),
        ("application/x-www-form-urlencoded", b"prompt=x", 415),
        ("text/plain", b"{}", 415),
        ("", b"{}", 415),
    ],
)
def test_bodies_of_another_kind(server, kind, body, status):
    answer = server.client.post(
        "/v1/images/edits", content=body, headers={"Content-Type": kind} if kind else {}
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "["},
        {"Host": "127.0.0.1:99999999"},
        {"Host": "127.0.0.1/../x"},
        {"Host": "user@127.0.0.1"},
        {"Origin": "http://["},
        {"Origin": "\xe9"},
    ],
)
def test_odd_headers_are_refused(server, headers):
    answer = server.client.get(
        "/v1/models", headers={k: v.encode("latin-1") for k, v in headers.items()}
    )
    assert answer.status_code in (400, 403) and answer.json()["error"]["message"]


def test_a_slash_more_is_another_route(server):
    assert server.client.post("/v1/jobs/", json=JOB).status_code in (404, 405)
