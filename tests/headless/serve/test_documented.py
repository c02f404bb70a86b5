"""Every answer is one that OpenAPI has: its status, its type, its schema."""

from __future__ import annotations

import json
import re

import pytest

from inkstone.headless.serve.api.app import ROUTES
from inkstone.headless.serve.api.documents import OPERATIONS
from inkstone.headless.serve.desk.settings import Limits, ServeCall

from .running import QUICK, as_text, keys_file, png, serving
from .test_jobs import JOB

KEY = "a-key-of-twenty-letters"
SIZE = {"size": "64x64"}


@pytest.fixture(scope="module")
def document(server):
    return server.client.get("/openapi.json").json()


def faults(value: object, schema: dict, document: dict, at: str = "$") -> list[str]:
    """What of a value is not as its schema says: the words of JSON Schema that are used here."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        every = [faults(value, one, document, at) for one in schema["anyOf"]]
        return [] if [] in every else min(every, key=len)
    kinds = {
        "string": str,
        "object": dict,
        "array": list,
        "integer": int,
        "number": (int, float),
        "null": type(None),
        "boolean": bool,
    }
    named = schema.get("type", list(kinds))
    named = [named] if isinstance(named, str) else named
    if not any(isinstance(value, kinds[name]) for name in named):
        return [f"{at}: {value!r} is no {named}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is none of {schema['enum']}"]
    found = []
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [
            f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value
        ]
        for name, inner in value.items():
            if name not in known and more is False:
                found.append(f"{at}.{name} is in no schema")
            found += faults(
                inner,
                known.get(name, more if isinstance(more, dict) else {}),
                document,
                f"{at}.{name}",
            )
    if isinstance(value, list):
        for k, inner in enumerate(value):
            found += faults(inner, schema.get("items", {}), document, f"{at}[{k}]")
    return found


def pattern(template: str) -> str:
    """The paths of a route."""
    return re.sub(r"\{\w+\}", ".+" if "models" in template else "[^/]+", template)


def check(answer, document: dict) -> None:
    """The answer is one of its operation's."""
    path, method = answer.request.url.path, answer.request.method.lower()
    template = next((t for t in document["paths"] if re.fullmatch(pattern(t), path)), None)
    assert template is not None and method in document["paths"][template], path
    responses = document["paths"][template][method]["responses"]
    assert str(answer.status_code) in responses, (method, path, answer.status_code)
    response = responses[str(answer.status_code)]
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in response["content"], (method, path, kind)
    for name, header in response.get("headers", {}).items():
        assert not header["required"] or name in answer.headers, (method, path, name)
    if kind == "application/json":
        schema = response["content"][kind].get("schema", {})
        assert faults(answer.json(), schema, document) == [], (method, path)


def test_the_faults_of_a_value_are_found(document):
    job = {"$ref": "#/components/schemas/Job"}
    assert faults({"id": 3}, job, document)
    assert faults({"error": {"message": "x"}}, {"$ref": "#/components/schemas/Error"}, document)
    listing = document["paths"]["/v1/loras"]["get"]["responses"]["200"]
    assert faults({"data": []}, listing["content"]["application/json"]["schema"], document)


def test_every_route_is_documented(document):
    assert {(m, p) for m, p, _ in ROUTES} == set(OPERATIONS)
    for path in document["paths"].values():
        for operation in path.values():
            assert {"400", "403", "408", "413", "500", "503"} <= set(operation["responses"])


GETS = ["/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/inkstone-embedded"]
GETS += ["/v1/models/a/b", "/v1/loras", "/v1/controls", "/v1/jobs/x", "/v1/jobs/x?preview=AAA"]
GETS += ["/v1/jobs/x?preview=true", "/v1/jobs/x/events", "/v1/files/x/0.png", "/v1/files/x/y"]
GETS += ["/page/facts.json", "/page/nothing"]


@pytest.mark.parametrize("path", GETS)
def test_what_is_read(server, document, path):
    check(server.client.get(path), document)
    for headers in ({"Host": "["}, {"Origin": "http://x"}):
        check(server.client.get(path, headers=headers), document)


BODIES = [
    {"prompt": "x", **SIZE, "inkstone": QUICK},
    {"prompt": "x", **SIZE, "inkstone": QUICK, "n": 2, "response_format": "url"},
    {"prompt": "x", **SIZE, "inkstone": QUICK, "output_format": "webp"},
    {"prompt": "x", **SIZE, "inkstone": QUICK, "stream": True},
    {"prompt": "x", "model": "nobody"},
    {"prompt": "\ud800"},
    {"prompt": None},
    {},
    {"prompt": "x", "user": None, "style": None, "n": None, **SIZE, "inkstone": QUICK},
]


@pytest.mark.parametrize("body", BODIES)
def test_what_is_drawn(server, document, body):
    text = json.dumps(body).encode()
    head = {"Content-Type": "application/json"}
    check(server.client.post("/v1/images/generations", content=text, headers=head), document)
    check(server.client.post("/v1/images/generations", content=text), document)
    body = {**body, "images": [{"image_url": "data:image/png;base64," + as_text(png())}]}
    body.pop("size", None)
    text = json.dumps(body).encode()
    check(server.client.post("/v1/images/edits", content=text, headers=head), document)


def test_a_job_from_beginning_to_end(server, document):
    answer = server.client.post("/v1/jobs", json=JOB)
    check(answer, document)
    name = answer.json()["id"]
    check(server.client.get(f"/v1/jobs/{name}?preview=true"), document)
    check(server.client.get(f"/v1/jobs/{name}/events"), document)
    (address,) = server.ended(name)["files"]
    check(server.client.get(address), document)
    check(server.client.get(f"/v1/jobs/{name}"), document)
    check(server.client.delete(f"/v1/jobs/{name}"), document)
    check(server.client.delete(f"/v1/jobs/{name}"), document)


def test_a_graph_that_is_not_taken(server, document):
    check(server.client.post("/v1/graphs", json={"graph": {}}), document)


def test_a_full_queue_and_a_wrong_key(tmp_path):
    call = ServeCall(models=tmp_path, limits=Limits(queue=1), api_key_file=keys_file(tmp_path, KEY))
    with serving(call, start=False) as server:
        document = server.client.get("/openapi.json").json()
        head = {"Authorization": f"Bearer {KEY}"}
        answers = [server.client.post("/v1/jobs", json=JOB, headers=head) for _ in range(2)]
        answers += [server.client.post("/v1/jobs", json=JOB), server.client.get("/ready")]
        assert [answer.status_code for answer in answers] == [202, 429, 401, 503]
        for answer in answers:
            check(answer, document)
        secured = {
            path for path, each in document["paths"].items() if "security" in each.get("get", {})
        }
        for path in secured:
            assert server.client.get(path.replace("{", "").replace("}", "")).status_code == 401, (
                path
            )


def test_a_wrong_method_names_the_right_ones(server):
    for path, allowed in (("/v1/jobs/x", "DELETE, GET, HEAD"), ("/v1/jobs", "POST")):
        answer = server.client.patch(path)
        assert answer.status_code == 405 and answer.headers["allow"] == allowed
