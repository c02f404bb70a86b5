"""HEAD: what GET answers, without its body, for monitors, proxies and previews of links."""

from __future__ import annotations

import pytest

from inkstone.headless.serve.api.app import ROUTES

from .test_jobs import JOB

CHANGES = ("date",)
GET = sorted({path for method, path, _ in ROUTES if method == "GET"} | {"/openapi.json"})


@pytest.fixture(scope="module")
def job(server) -> str:
    """The id of a job that is done."""
    name = server.client.post("/v1/jobs", json=JOB).json()["id"]
    assert server.ended(name)["state"] == "done"
    return name


@pytest.mark.parametrize("route", GET)
def test_head_is_get_without_a_body(server, job, route):
    path = route.replace("{id}", job).replace("{name:path}", "inkstone-embedded")
    path = path.replace("{name}", "0.png" if "files" in path else "main.js")
    get, head = server.client.get(path), server.client.head(path)
    assert get.status_code == head.status_code == 200, path
    assert head.content == b"" and get.content
    wanted, got = dict(get.headers), dict(head.headers)
    for name in CHANGES if path != "/metrics" else (*CHANGES, "content-length"):
        wanted.pop(name), got.pop(name)
    if path.endswith("/events"):  # its length is not known
        wanted.pop("transfer-encoding"), got.pop("transfer-encoding", None)
    assert got == wanted
    assert server.client.get("/health").status_code == 200, "the connection goes on"


def test_head_does_not_wait_for_a_job(server):
    with server.slowly(30):
        name = server.client.post("/v1/jobs", json=JOB).json()["id"]
        assert server.client.head(f"/v1/jobs/{name}/events").status_code == 200
        assert server.client.get(f"/v1/jobs/{name}").json()["state"] in ("queued", "running")
        server.client.delete(f"/v1/jobs/{name}")


def test_head_of_what_is_not_there(server):
    for path, status in (("/v1/files/x/0.png", 404), ("/nothing", 404), ("/v1/graphs", 405)):
        answer = server.client.head(path)
        assert answer.status_code == status and answer.content == b"", path
    assert server.client.post("/health").headers["allow"] == "GET, HEAD"
