"""Bad jobs files: every faulty line by its number and in words, before anything runs."""

import json
import os
from pathlib import Path

import pytest

from inkstone.files import hashes
from inkstone.headless.cli.main import main
from inkstone.headless.queue.jobs import read_jobs

from ...conftest import ROOT

GRAPH = str(ROOT / "workflows" / "api" / "text_to_image_embedded.json")
GOOD = '{"prompt": "a red circle"}'
BAD = {
    "empty file": ("", ("has no jobs", "one JSON object per line")),
    "blank lines": ("\n \n", ("has no jobs",)),
    "not JSON": (f"{GOOD}\n{{'prompt': 1}}", ("line 2", "is not JSON", "column 2")),
    "cut off": ('{"prompt": "a', ("line 1", "is not JSON")),
    "a list": ("[1]", ("line 1", "is a list, expected a JSON object")),
    "a number": ("7", ("line 1", "is a number")),
    "deep": ("[" * 100000, ("line 1", "too deeply")),
    "unknown name": ('{"prompt": "x", "stpes": 4}', ('"stpes"', 'Did you mean "steps"?')),
    "width": ('{"prompt": "x", "width": 64}', ('"width"', '"size": "WIDTHxHEIGHT"')),
    "Height": ('{"prompt": "x", "Height": 64}', ('"size": "WIDTHxHEIGHT"',)),
    "steps of diffusers": ('{"prompt": "x", "num_inference_steps": 4}', ('mean "steps"?',)),
    "guidance of diffusers": ('{"prompt": "x", "true_cfg_scale": 4}', ('mean "cfg"?',)),
    "denoise of ComfyUI": ('{"prompt": "x", "denoise": 0.4}', ('mean "strength"?',)),
    "LoRA folder": (
        json.dumps({"prompt": "x", "lora": str(ROOT / "web")}),
        ("web is a folder", "a file"),
    ),
    "far name": ('{"prompt": "x", "zzz": 4}', ('"zzz"', "Known: batch, cache, cfg")),
    "twice": ('{"prompt": "x", "seed": 1, "seed": 2}', ('"seed" appears twice',)),
    "two spellings": ('{"prompt": "x", "text-encoder": "a", "text_encoder": "b"}', ("twice",)),
    "no prompt": ('{"seed": 1}', ('has no "prompt"', '"graph"')),
    "prompt is null": ('{"prompt": null}', ('has no "prompt"',)),
    "prompt is a number": ('{"prompt": 4}', ('"prompt" is a number, expected a text',)),
    "steps is a text": ('{"prompt": "x", "steps": "4"}', ('"steps" is a text', "a number")),
    "steps is true": ('{"prompt": "x", "steps": true}', ('"steps" is true or false',)),
    "steps is a list": ('{"prompt": "x", "steps": [4]}', ('"steps" is a list',)),
    "steps 0": ('{"prompt": "x", "steps": 0}', ("'0'", "from 1 to 1000")),
    "steps 1.5": ('{"prompt": "x", "steps": 1.5}', ("'1.5'", "from 1 to 1000")),
    "NaN": ('{"prompt": "x", "cfg": NaN}', ("NaN is not JSON",)),
    "seed": (f'{{"prompt": "x", "seed": {2**64}}}', ("from 0 to 18446744073709551615",)),
    "size": ('{"prompt": "x", "size": "17x23"}', ("multiple of 16",)),
    "size is a list": ('{"prompt": "x", "size": [64, 64]}', ('"size" is a list',)),
    "dtype": ('{"prompt": "x", "dtype": "fp4"}', ("'fp4'", "float32")),
    "fast": ('{"prompt": "x", "fast": 1}', ('"fast" is a number, expected true or false',)),
    "device": ('{"prompt": "x", "device": "cuda:99"}', ("--device cuda:99",)),
    "missing model": ('{"prompt": "x", "model": "no.gguf"}', ("--model no.gguf", "Check the")),
    "missing picture": ('{"prompt": "x", "image": "no.png"}', ("--image no.png",)),
    "missing LoRA": ('{"prompt": "x", "lora": ["no.safetensors:0.5"]}', ("--lora no.safet",)),
    "control": ('{"prompt": "x", "control": "deep:a.png"}', ("expected TYPE:PICTURE",)),
    "mask alone": (f'{{"prompt": "x", "mask": {json.dumps(GRAPH)}}}', ("--mask works on",)),
    "id a path": ('{"prompt": "x", "id": "../x"}', ("cannot name a file",)),
    "id empty": ('{"prompt": "x", "id": ""}', ("cannot name a file",)),
    "id of the journal": ('{"prompt": "x", "id": "Results.jsonl"}', ("cannot name a file",)),
    "id of a device": ('{"prompt": "x", "id": "nul"}', ("cannot name a file",)),
    "id of a port": ('{"prompt": "x", "id": "COM\u00b9.a"}', ("cannot name a file",)),
    "id of a console": ('{"prompt": "x", "id": "conin$"}', ("cannot name a file",)),
    "half a character": ('{"prompt": "x \\ud800"}', ("line 1", "half a character")),
    "id dot": ('{"prompt": "x", "id": ".lock"}', ("cannot name a file",)),
    "id long": (json.dumps({"prompt": "x", "id": "é" * 61}), ("cannot name a file",)),
    "id is a list": ('{"prompt": "x", "id": []}', ('"id" is a list',)),
    "ids twice": (
        '{"prompt": "x", "id": "a"}\n{"prompt": "y", "id": "A"}',
        ("line 2", 'the id "A" is that of line 1'),
    ),
    "id of a batch": (
        '{"prompt": "x", "id": "a", "batch": 2}\n{"prompt": "y", "id": "a_1"}',
        ("line 2", 'a picture of the job "a" (line 1)'),
    ),
    "missing graph": ('{"graph": "no.json"}', ("no.json: no such graph file",)),
    "graph is a number": ('{"graph": 1}', ('"graph" is a number',)),
    "graph with steps": (json.dumps({"graph": GRAPH, "steps": 4}), ('"steps" does not go with',)),
    "set is a list": (json.dumps({"graph": GRAPH, "set": []}), ('"set" is a list',)),
    "set of no node": (json.dumps({"graph": GRAPH, "set": {"99.x": 1}}), ("line 1", "99")),
    "set out of range": (json.dumps({"graph": GRAPH, "set": {"7.steps": -1}}), ("line 1", "steps")),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_jobs(what, place, capsys):
    text, words = BAD[what]
    (place / "jobs.jsonl").write_text(text, encoding="utf-8")
    status = main(["batch", "jobs.jsonl", "--output", "out", "--quiet"])
    stderr = capsys.readouterr().err
    assert status == 2 and "Traceback" not in stderr, stderr
    assert all(word in stderr for word in words), f"{words} expected in: {stderr}"
    assert not list((place / "out").rglob("*.png"))


def test_all_faulty_lines_are_told_at_once(place, capsys):
    lines = [GOOD, '{"prompt": 1}', GOOD, '{"promt": "x"}']
    (place / "jobs.jsonl").write_text("\n".join(lines))
    assert main(["batch", "jobs.jsonl", "--output", "out", "--quiet"]) == 2
    stderr = capsys.readouterr().err
    assert (
        "2 lines cannot run, nothing was run" in stderr
        and "line 2" in stderr
        and "line 4" in stderr
    )
    assert not (place / "out" / "results.jsonl").read_text()


def test_one_fault_of_many_lines_is_told_once(place, capsys):
    lines = [GOOD, *['{"prompt": 1}'] * 2, *['{"promt": "x"}'] * 30]
    (place / "jobs.jsonl").write_text("\n".join(lines))
    assert main(["batch", "jobs.jsonl", "--output", "out", "--quiet"]) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert "32 lines cannot run" in first and len(rest) == 2, rest
    assert rest[0].startswith("lines 2, 3: ")
    assert rest[1].startswith("lines 4, 5, 6 and 27 more: ")


@pytest.mark.parametrize(
    "more, words",
    [
        (["no.jsonl", "--output", "out"], ("no.jsonl: cannot be read", "Check the path")),
        ([".", "--output", "out"], ("cannot be read",)),
        (["bytes.jsonl", "--output", "out"], ("is not UTF-8",)),
        (["jobs.jsonl", "--output", "file"], ("--output file: cannot be written to",)),
        (["jobs.jsonl", "--output", "file/x"], ("cannot be written to",)),
        (["jobs.jsonl"], ("--output",)),
        (["jobs.jsonl", "--output", "out", "--steps", "0"], ("--steps", "from 1 to 1000")),
        (["jobs.jsonl", "--output", "out", "--workers", "0"], ("--workers",)),
        (["jobs.jsonl", "--output", "out", "--workers", "2"], ("--workers is for --ray",)),
        (["jobs.jsonl", "--output", "out", "--defaults", "no.json"], ("--defaults no.json",)),
        (["jobs.jsonl", "--output", "out", "--defaults", "d.json"], ("d.json", "belong")),
    ],
)
def test_bad_calls(more, words, place, capsys):
    (place / "jobs.jsonl").write_text(GOOD)
    (place / "bytes.jsonl").write_bytes(b'{"prompt": "\xff"}')
    (place / "file").write_text("a file")
    (place / "d.json").write_text('{"prompt": "x"}')
    try:
        status = main(["batch", *more, "--quiet"])
    except SystemExit as stop:
        status = stop.code
    stderr = capsys.readouterr().err
    assert status == 2 and "Traceback" not in stderr, stderr
    assert all(word in stderr for word in words), f"{words} expected in: {stderr}"


def test_what_is_taken(tmp_path: Path):
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "x", "id": 7}\r\n\r\n{"prompt": "x", "text-encoder": null}\r\n'
    )
    jobs = read_jobs(path, {"steps": 3, "seed": 5})
    assert [job.line for job in jobs] == [1, 3] and jobs[0].name == "7"
    assert (jobs[0].call.steps, jobs[0].call.seed, jobs[1].call.text_encoder) == (3, 5, None)


def test_a_picture_that_many_jobs_name_is_read_once(place, monkeypatch):
    """And again once it has changed."""
    from PIL import Image

    reads, real = [], hashes.file_hash
    monkeypatch.setattr(hashes, "file_hash", lambda path: reads.append(path) or real(path))
    Image.new("RGB", (8, 8)).save("a.png")
    job = {"prompt": "x", "image": "a.png"}
    Path("jobs.jsonl").write_text("".join(json.dumps(job | {"seed": n}) + "\n" for n in range(99)))
    (content,) = {job.content for job in read_jobs(Path("jobs.jsonl"), {})}
    assert len(reads) == 1
    Image.new("RGB", (9, 9)).save("a.png")
    (changed,) = {job.content for job in read_jobs(Path("jobs.jsonl"), {})}
    assert len(reads) == 2 and changed != content
    Path("b.png").write_bytes(Path("a.png").read_bytes()[:-1] + b"?")
    before = Path("a.png").stat()
    Path("a.png").write_bytes(Path("b.png").read_bytes())
    os.utime("a.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    (hidden,) = {job.content for job in read_jobs(Path("jobs.jsonl"), {})}
    assert hidden != changed, "changed, and its time put back"
