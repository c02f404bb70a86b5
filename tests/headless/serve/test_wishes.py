"""The form of an answer: formats, addresses, transparency, and what events say of it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inkstone.headless.serve.api import answers, encoding
from inkstone.headless.serve.api.wishes import Wish

from .running import QUICK, as_text, picture, png

RED = (255, 0, 0)


def asked(server, **fields):
    """The document of a drawing of 64x64."""
    body = {"prompt": "x", "size": "64x64", "inkstone": QUICK, **fields}
    return server.client.post("/v1/images/generations", json=body)


def events(server, **fields) -> list[dict]:
    """The events of a stream."""
    lines = asked(server, stream=True, **fields).text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def layer(path: Path) -> None:
    """Writes a picture whose right half is transparent and hides red, with a text."""
    image = Image.new("RGBA", (64, 64), (0, 0, 255, 255))
    image.paste((*RED, 0), (32, 0, 64, 64))
    info = PngInfo()
    info.add_text("prompt", '{"graph": "ü"}')
    image.save(path, pnginfo=info)


@pytest.fixture
def layers(monkeypatch):
    """All results are transparent."""
    of = encoding.encoded
    monkeypatch.setattr(answers, "encoded", lambda path, wish: (layer(path), of(path, wish))[1])


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_an_address_serves_the_format_that_was_asked_for(server, form):
    fields = {"output_format": form, "output_compression": 30}
    answer = asked(server, response_format="url", **fields).json()
    file = server.client.get(answer["data"][0]["url"])
    assert file.headers["content-type"] == f"image/{form}"
    assert answer["output_format"] == form
    base64_ = asked(server, **fields).json()["data"][0]["b64_json"]
    assert file.content == base64.b64decode(base64_), "one encoder for both"
    best = server.client.get(answer["data"][0]["url"].partition("?")[0])
    assert best.headers["content-type"] == f"image/{form}"
    assert len(best.content) > len(file.content), "output_compression acts"
    kept = [path.suffix for path in server.desk._tickets[answer["inkstone"]["id"]].files]
    assert kept == [".png"], "nothing else on the disk"


def test_only_png_holds_the_graph(server):
    answer = asked(server, response_format="url", output_format="webp").json()
    url = answer["data"][0]["url"]
    assert b"workflow" not in server.client.get(url).content
    assert b"workflow" in server.client.get(url.replace(".webp", ".png")).content


@pytest.mark.parametrize(
    "tail, status",
    [
        ("0.jpeg?output_compression=101", 400),
        ("0.jpeg?output_compression=-1", 400),
        ("0.jpeg?output_compression=", 400),
        ("0.jpeg?output_compression=" + "9" * 5000, 400),
        ("0.jpeg?background=red", 400),
        ("0.gif", 404),
        ("0.jpeg.png", 404),
        ("1.jpeg", 404),
        ("0.jpeg", 200),
        ("0.png?background=opaque", 200),
    ],
)
def test_addresses_of_other_forms(server, tail, status):
    url = asked(server, response_format="url").json()["data"][0]["url"]
    answer = server.client.get(url.removesuffix("0.png") + tail)
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json()["error"]["param"] in ("output_compression", "background")


def test_a_result_that_goes_meanwhile_is_404(server):
    url = asked(server, response_format="url", output_format="jpeg").json()["data"][0]["url"]
    name = url.split("/")[-2]
    server.client.delete(f"/v1/jobs/{name}")
    assert server.client.get(url).status_code == 404


def test_sides_that_a_format_has_not_are_refused_with_an_address_too(server, monkeypatch):
    monkeypatch.setitem(encoding._LONGEST, "webp", 32)
    answer = asked(server, response_format="url", output_format="webp")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "output_format"


def test_a_stream_has_no_addresses(server):
    answer = asked(server, stream=True, response_format="url")
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "response_format"
    assert "b64_json" in error["message"]


def test_opaque_is_white_where_the_result_is_transparent(server, layers):
    for form in ("png", "webp", "jpeg"):
        answer = asked(server, background="opaque", output_format=form).json()
        image = picture(answer["data"][0]["b64_json"])
        assert image.mode == "RGB", form
        assert min(image.getpixel((60, 9))) > 250, f"{form}: the hidden red is seen"
        assert image.getpixel((9, 9))[2] > 240 > 9 > image.getpixel((9, 9))[0] - 5
        texts = getattr(image, "text", {})
        assert texts == ({"prompt": '{"graph": "ü"}'} if form == "png" else {})


def test_auto_is_the_picture_as_it_is(server, layers):
    for background in ("auto", None):
        image = picture(asked(server, background=background).json()["data"][0]["b64_json"])
        assert image.mode == "RGBA" and image.getpixel((60, 9)) == (*RED, 0)
    image = picture(asked(server, output_format="jpeg").json()["data"][0]["b64_json"])
    assert min(image.getpixel((60, 9))) > 250, "jpeg has no transparency"


def test_an_address_has_the_background(server):
    answer = asked(server, response_format="url", background="opaque").json()
    layer(server.desk._tickets[answer["inkstone"]["id"]].files[0])
    url = answer["data"][0]["url"]
    assert Image.open(io.BytesIO(server.client.get(url).content)).mode == "RGB"
    url = url.partition("?")[0]
    assert Image.open(io.BytesIO(server.client.get(url).content)).mode == "RGBA"


def test_an_opaque_png_keeps_its_bytes(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    assert encoding.encoded(path, Wish(opaque=True)) == path.read_bytes()


def test_events_say_what_the_picture_is(server, layers):
    (last,) = events(server)
    assert last["background"] == "transparent" and last["size"] == "64x64"
    (last,) = events(server, background="opaque")
    assert last["background"] == "opaque"


@pytest.mark.parametrize(
    "fields, param",
    [
        ({}, "background"),
        ({"inkstone": {"layers": 2}, "output_format": "jpeg"}, "output_format"),
        ({"inkstone": {"layers": 2}}, "layers"),  # it goes on: this model has no layers
    ],
)
def test_transparent_is_of_layers(server, fields, param):
    body = {"prompt": "x", "image": as_text(png()), "background": "transparent", **fields}
    error = server.client.post("/v1/images/edits", json=body).json()["error"]
    assert error["param"] == param, error
    assert "layered" in error["message"].lower() or "no transparency" in error["message"]


def test_a_partial_picture_says_its_own_size(server):
    with server.slowly(0.25):
        shown = events(
            server, n=2, size="768x512", partial_images=1, inkstone={"steps": 3, "seed": 1}
        )
    assert [event["type"].rpartition(".")[2] for event in shown] == [
        "partial_image",
        "completed",
        "completed",
    ]
    for event in shown:
        width, height = picture(event["b64_json"]).size
        assert event["size"] == f"{width}x{height}"
    assert shown[0]["size"] != "768x512", "a preview is smaller"


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"output_compression": 30}, "output_compression has no effect on PNG"),
        ({"output_compression": 100, "output_format": "png"}, "output_compression has no effect"),
        ({"partial_images": 2}, "partial_images has no effect without stream"),
        ({"output_compression": 30, "output_format": "webp", "partial_images": 0}, None),
    ],
)
def test_what_has_no_effect_is_noted(server, fields, said):
    plain = asked(server).json()["inkstone"]["notes"]
    notes = asked(server, **fields).json()["inkstone"]["notes"]
    assert [note for note in notes if note not in plain] == notes[: len(notes) - len(plain)]
    assert len(notes) == len(plain) + (said is not None)
    assert said is None or said in notes[0]
    *_, last = events(server, **{**fields, "partial_images": 0})
    assert ("output_compression" in str(last["inkstone"]["notes"])) == ("PNG" in str(notes))
