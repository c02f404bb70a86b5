"""Refusals say what was wrong in a sentence, and name it in `param`."""

from __future__ import annotations

import pytest

from inkstone.headless.serve.api.gate import too_large
from inkstone.headless.serve.desk.settings import Limits

from .running import QUICK, as_text, png
from .test_bodies import form

IMAGE = ("image", ("a.png", png(), "image/png"))


def edit(server, *files):
    """The error of an edit with these files."""
    answer = server.client.post(
        "/v1/images/edits", files=list(files), data={"prompt": "x", "inkstone[steps]": "1"}
    )
    assert answer.status_code == 400, answer.text[:200]
    return answer.json()["error"]


def mask(data: bytes):
    return ("mask", ("m.png", data, "image/png"))


@pytest.mark.parametrize(
    "files, param",
    [
        ([IMAGE, mask(png(colour=0))], "mask"),
        ([IMAGE, mask(png(mode="RGBA", colour=(0, 0, 0, 255)))], "mask"),
        ([IMAGE, mask(b"")], "mask"),
        ([IMAGE] * 2, "image"),
        ([IMAGE] * 2 + [mask(png(colour=255))], "image"),
        ([IMAGE] * 17, "image"),
        ([IMAGE] * 21, "image"),
    ],
)
def test_what_is_wrong_with_the_pictures_is_named(server, files, param):
    assert edit(server, *files)["param"] == param


def test_an_option_that_a_model_has_not_is_named(server):
    body = {"prompt": "x", "image": as_text(png()), "inkstone": {**QUICK, "layers": 2}}
    error = server.client.post("/v1/images/edits", json=body).json()["error"]
    assert error["param"] == "layers", error


def test_too_many_files_are_counted_as_pictures(server):
    assert "at most 16 pictures and a mask" in edit(server, *[IMAGE] * 21)["message"]


def test_a_region_that_a_picture_does_not_go_with_is_named(server):
    body = {"prompt": "x", "image": as_text(png()), "inkstone": {**QUICK, "region": "a:0,0,32,32"}}
    error = server.client.post("/v1/images/edits", json=body).json()["error"]
    assert error["param"] == "region", error


def test_the_limit_of_uploads_is_a_number_that_is_true():
    for upload, text in (
        (200_000, "195 KiB"),
        (64 << 20, "64 MiB"),
        (1 << 20, "1 MiB"),
        (900, "900 bytes"),
    ):
        assert text in str(too_large(Limits(upload=upload)))
    assert "1536 KiB" in str(too_large(Limits(upload=3 << 19))), "not 1 MiB"


@pytest.mark.parametrize(
    "body, said",
    [
        (b'{"prompt": "a", "prompt": "b"}', 'The body: "prompt" appears twice'),
        (b'{"n": NaN}', "The body: NaN is not JSON"),
        (b"[]", "The body is a list, expected"),
        (b"{", "The body is not JSON"),
    ],
)
def test_a_body_that_is_no_object(server, body, said):
    head = {"Content-Type": "application/json"}
    answer = server.client.post("/v1/images/generations", content=body, headers=head)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text


def test_a_prompt_alone_names_the_route_for_pictures(server):
    for more in ({"inkstone": {"strength": 0.5}}, {"image": as_text(png())}, {"mask": "x"}):
        answer = server.client.post("/v1/images/generations", json={"prompt": "x", **more})
        assert "/v1/images/edits" in answer.json()["error"]["message"], answer.text


def test_an_edit_without_a_file_says_how_pictures_come(server):
    answer = server.client.post("/v1/images/edits", data={"prompt": "x"})
    assert answer.status_code == 415
    message = answer.json()["error"]["message"]
    assert "multipart/form-data" in message and "x-www-form-urlencoded" in message
    message = server.client.post("/v1/images/generations", data={"prompt": "x"}).json()["error"]
    assert "multipart" not in message["message"], "that route takes no form"


def test_a_part_of_a_form_that_is_too_long_is_named(server):
    error = form(server, [("user", "x" * (2 << 20))]).json()["error"]
    assert error["param"] == "user" and "1 MiB" in error["message"]
