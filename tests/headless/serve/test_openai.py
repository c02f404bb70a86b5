"""The official client of OpenAI against the image routes, unchanged."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.request

import pytest
from PIL import Image

openai = pytest.importorskip("openai")

from .running import QUICK, picture, png  # noqa: E402

OWN = {"inkstone": QUICK}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_generate(client):
    answer = client.images.generate(prompt="a red circle", size="64x64", extra_body=OWN)
    (one,) = answer.data
    image = picture(one.b64_json)
    assert image.size == (64, 64) and image.format == "PNG"
    assert json.loads(image.text["workflow"])["nodes"], "the graph is in it"
    assert answer.inkstone["seed"] == 1 and answer.inkstone["seconds"]["denoise"] > 0


def test_n_pictures_differ_and_a_seed_repeats(client):
    answer = client.images.generate(prompt="a red circle", size="64x64", n=3, extra_body=OWN)
    pixels = [picture(one.b64_json).tobytes() for one in answer.data]
    assert len(set(pixels)) == 3
    again = client.images.generate(prompt="a red circle", size="64x64", extra_body=OWN)
    assert picture(again.data[0].b64_json).tobytes() == pixels[0]


def test_a_seed_is_chosen_where_none_is_given(client):
    seeds = {
        client.images.generate(
            prompt="x", size="64x64", extra_body={"inkstone": {"steps": 1}}
        ).inkstone["seed"]
        for _ in range(2)
    }
    assert len(seeds) == 2


def test_a_result_at_an_address(client):
    answer = client.images.generate(
        prompt="a red circle", size="64x64", response_format="url", extra_body=OWN
    )
    with urllib.request.urlopen(answer.data[0].url) as file:
        assert Image.open(io.BytesIO(file.read())).size == (64, 64)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_other_formats(client, form):
    answer = client.images.generate(
        prompt="x", size="64x64", output_format=form, output_compression=80, extra_body=OWN
    )
    assert picture(answer.data[0].b64_json).format == form.upper()


@pytest.mark.parametrize("colour", ["black", "white", "that of the mask"])
def test_an_edit_with_a_mask_keeps_what_is_outside(client, colour):
    """What is transparent is edited, whatever colours the mask has."""
    base = Image.effect_noise((64, 64), 60).convert("RGB")
    alpha = Image.new("L", (64, 64), 255)
    alpha.paste(0, (0, 0, 32, 64))
    mask = alpha.convert("RGBA") if "mask" in colour else Image.new("RGBA", (64, 64), colour)
    mask.putalpha(alpha)
    files = []
    for name, image in (("a.png", base), ("m.png", mask)):
        data = io.BytesIO()
        image.save(data, "PNG")
        files.append((name, data.getvalue(), "image/png"))
    answer = client.images.edit(
        image=files[0], mask=files[1], prompt="a red circle", size="64x64", extra_body=OWN
    )
    result = picture(answer.data[0].b64_json).convert("RGB")
    outside = (32, 0, 64, 64)
    assert result.crop(outside).tobytes() == base.crop(outside).tobytes()
    assert result.crop((0, 0, 24, 64)).tobytes() != base.crop((0, 0, 24, 64)).tobytes()


@pytest.mark.parametrize("masked", [False, True])
def test_a_size_that_is_the_pictures_own_is_taken(client, masked):
    more = {"mask": ("m.png", png(61, 47, "L", 255), "image/png")} if masked else {}
    ask = {"image": ("a.png", png(61, 47), "image/png"), "prompt": "x", "extra_body": OWN, **more}
    alone, *others = [
        picture(client.images.edit(**ask, **size).data[0].b64_json)
        for size in ({}, {"size": "61x47"}, {"size": "auto"})
    ]
    assert alone.size == (61, 47)
    assert [one.tobytes() for one in others] == [alone.tobytes()] * 2


def test_an_edit_of_two_pictures_reaches_the_model(client):
    files = [("a.png", png(), "image/png"), ("b.png", png(colour=9), "image/png")]
    with pytest.raises(openai.BadRequestError, match="take 1 picture, got 2"):
        client.images.edit(image=files, prompt="put both together", extra_body=OWN)


def test_a_stream_ends_with_the_picture(client):
    events = list(
        client.images.generate(
            prompt="a red circle",
            size="128x128",
            stream=True,
            partial_images=2,
            extra_body={"inkstone": {"steps": 12, "seed": 1}},
        )
    )
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed"
    assert set(kinds[:-1]) == {"image_generation.partial_image"} and len(kinds) <= 3
    assert picture(events[-1].b64_json).size == (128, 128)
    assert {event.size for event in events} == {"128x128"}
    assert events[-1].usage is None, "no number is made up"
    assert Image.open(io.BytesIO(base64.b64decode(events[0].b64_json))).format == "JPEG"


def test_a_stream_says_the_size_that_was_chosen(client):
    *_, last = client.images.generate(prompt="x", stream=True, extra_body=OWN)
    width, height = picture(last.b64_json).size
    assert last.size == f"{width}x{height}"


def test_a_stream_says_why_it_failed(client):
    with pytest.raises(openai.APIError, match="size"):
        list(
            client.images.edit(
                image=("a.png", png(), "image/png"),
                prompt="x",
                stream=True,
                size="96x64",
                extra_body={"inkstone": {**QUICK, "strength": 0.5}},
            )
        )


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == "inkstone-embedded"
    assert client.models.retrieve(model.id).object == "model"
    with pytest.raises(openai.NotFoundError, match="gpt-image-1"):
        client.images.generate(prompt="x", model="gpt-image-1")


@pytest.mark.parametrize(
    "wrong, param",
    [
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"size": "4096x4096"}, "size"),
        ({"size": "large"}, "size"),
        ({"response_format": "path"}, "response_format"),
        ({"output_format": "gif"}, "output_format"),
        ({"background": "transparent"}, "background"),
        ({"extra_body": {"steps": 3}}, "steps"),
        ({"extra_body": {"inkstone": {"steps": 101}}}, "steps"),
        ({"extra_body": {"inkstone": {"sampler": "euler"}}}, "sampler"),
        ({"extra_body": {"inkstone": {"lora": "none"}}}, "lora"),
        ({"extra_body": {"inkstone": {"vae": "/etc/passwd"}}}, "vae"),
        ({"extra_body": {"inkstone": "x"}}, "inkstone"),
        ({"prompt": "x" * 32_001}, "prompt"),
    ],
)
def test_a_wrong_request_is_refused_in_openais_form(client, wrong, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"prompt": "x", **wrong})
    assert caught.value.type == "invalid_request_error" and caught.value.param == param
    assert caught.value.body["message"].endswith((".", '"')), caught.value.body


@pytest.mark.parametrize(
    "own, said",
    [
        ({"stesp": 3}, 'no option "stesp". Did you mean "steps"?'),
        ({"num_inference_steps": 3}, 'Did you mean "steps"?'),
        ({"guidance_scale": 3}, 'Did you mean "cfg"?'),
        ({"num_images": 3}, "Known: "),  # "batch" is no option here
        ({"strength": 0.5}, '"strength" works on a picture: give it with "image".'),
        ({"steps": 2.5}, "expected a whole number from 1 to 1000"),
        ({"lora": "none"}, "Its models folder has none."),
    ],
)
def test_a_refusal_says_what_to_write(client, own, said):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="x", extra_body={"inkstone": own})
    message = caught.value.body["message"]
    assert said in message and "--" not in message and caught.value.param == next(iter(own))


def test_an_object_of_a_form_that_is_no_json_is_named(client):
    with pytest.raises(openai.BadRequestError, match="The field inkstone is not JSON") as caught:
        client.images.edit(
            image=("a.png", png(), "image/png"), prompt="x", extra_body={"inkstone": '{"steps": 3'}
        )
    assert caught.value.param == "inkstone" and '{"steps": 8}' in str(caught.value)


def test_a_region_names_no_file_of_the_server(client, tmp_path):
    mask = tmp_path / "mask.png"
    mask.write_bytes(png())
    region = {"inkstone": {**QUICK, "region": f'"a red circle":{mask}'}}
    with pytest.raises(openai.BadRequestError, match="a request cannot name") as caught:
        client.images.generate(prompt="x", size="64x64", extra_body=region)
    assert caught.value.param == "region" and "mask.png" not in str(caught.value)


def test_a_client_that_goes_ends_its_job(server):
    hasty = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=0.7)
    with pytest.raises(openai.APITimeoutError):
        hasty.images.generate(
            prompt="x", size="256x256", extra_body={"inkstone": {"steps": 100, "seed": 1}}
        )
    until = time.monotonic() + 30
    while server.desk.numbers()[2]:
        assert time.monotonic() < until, "it still draws for nobody"
        time.sleep(0.02)
