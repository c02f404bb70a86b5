"""What a drawing warns of reaches the client, each time, and nobody else."""

from __future__ import annotations

import pytest

from .running import httpx

LONG = {"prompt": "a red circle " * 60, "size": "128x128"}
CUT = "the prompt has 183 tokens, this model takes 96: the last 87 are not used, shorten it"


def test_a_prompt_that_is_cut_is_said_each_time(server):
    """Also where its encoding comes from the cache."""
    for seed in (1, 2):
        body = {**LONG, "inkstone": {"steps": 1, "seed": seed}}
        answer = server.client.post("/v1/images/generations", json=body).json()
        assert answer["inkstone"]["notes"] == [CUT], answer["inkstone"]
    name = server.client.post("/v1/jobs", json={**LONG, "steps": 1}).json()["id"]
    assert server.ended(name)["notes"] == [CUT]
    plain = {"prompt": "a red circle", "size": "128x128", "steps": 1}
    assert server.ended(server.client.post("/v1/jobs", json=plain).json()["id"])["notes"] == []
    journal = (server.desk._results.folder / "results.jsonl").read_text()
    assert "tokens" not in journal, "words of prompts may be in it"


def test_the_stream_says_it_too(server):
    body = {**LONG, "stream": True, "inkstone": {"steps": 1}}
    answer = server.client.post("/v1/images/generations", json=body)
    assert answer.status_code == httpx.codes.OK and CUT in answer.text


@pytest.mark.parametrize("seed", [1, 5])
def test_an_enhanced_prompt_is_the_revised_one(server, seed):
    """One that the language model did not better stays, and the notes say why."""
    prompt, own = "tree, cow", {"steps": 1, "enhance": True, "seed": seed}
    body = {"prompt": prompt, "size": "128x128", "n": 2, "inkstone": own}
    answer = server.client.post("/v1/images/generations", json=body).json()
    first, second = (one["revised_prompt"] for one in answer["data"])
    said = [note for note in answer["inkstone"]["notes"] if "was not enhanced" in note]
    assert first == second and bool(said) == (first == prompt), answer["inkstone"]
