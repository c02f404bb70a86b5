"""Every path option of every command, with everything that is no file: a sentence, and at once.

Options are found in the parser, so a new one is tested as it is added. What a command would write
is only ever led to names in the test's own folder: a mistake here must not replace a device.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from inkstone.headless.arg_types import file_path, lora
from inkstone.headless.cli.main import main
from inkstone.headless.cli.parser import build_parser
from inkstone.loaders.models.load import EMBEDDED_FOLDER

QUICK = ("--steps", "1", "--size", "64x64")
WEIGHTS = str(EMBEDDED_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors")
CALLS = {
    "draw": ("x", "-o", "o.png", *QUICK),
    "plan": (str(EMBEDDED_FOLDER),),
    "enhance": ("x",),
    "ask": ("p.png", "what?"),
    "find": ("p.png", "a circle"),
    "run": ("text_to_image_embedded",),
    "batch": ("jobs.jsonl", "--output", "out"),
    "convert": ("text_to_image_embedded",),
    "check": ("text_to_image_embedded",),
    "inspect": (WEIGHTS,),
    "quantize": (WEIGHTS, "q.gguf", "--type", "Q4_K_M"),
    "preprocess": ("canny", "p.png", "m.png"),
    "train": ("--out", "trained", "--score"),
    "train-lora": ("pictures", "-o", "lora.safetensors", "--steps", "1"),
    "serve": ("--port", "0"),
    "score": ("embedded", "--limit", "1", "--output", "out", "--steps", "1"),
}
TEXTS = {"--object-info", "--keypoints"}  # paths too, of another type
WRITTEN = {"-o", "--out", "out", "--save-latent", "--save-keypoints", "--output"}
WRITTEN |= {"--cache-dir", "--state"}
FOLDERS = {"--models", "--input"}  # a graph that needs none of it runs
WITH = {
    "--mask": ("--image", "p.png"),
    "--instructions": ("--enhance",),
    "--text-encoder of quantize": ("--prompts", "prompts.txt"),
    "--out of check": ("--pin",),
}
SECONDS = 20.0  # a TB takes minutes, a FIFO for ever


def options() -> list[tuple[str, str, argparse.Action]]:
    """(command, option or name, action) of everything that is a path."""
    (commands,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return [
        (name, (action.option_strings or [action.dest])[-1], action)
        for name, parser in commands.choices.items()
        for action in parser._actions
        if action.type in (file_path, lora) or TEXTS & set(action.option_strings)
    ]


FOUND = options()
READ = [item for item in FOUND if item[1] not in WRITTEN | FOLDERS]
OUTPUTS = [item for item in FOUND if item[1] in WRITTEN]


@pytest.fixture
def bad(tmp_path, monkeypatch) -> dict[str, str]:
    """Names in the working folder that are no file, or hold nothing."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("p.png")
    Path("jobs.jsonl").write_text('{"id": "a", "prompt": "x", "steps": 1, "size": "64x64"}\n')
    Path("prompts.txt").write_text("a red circle\n")
    Path("pictures").mkdir()
    Image.new("RGB", (128, 128)).save("pictures/p.png")
    Path("pictures/p.txt").write_text("a red circle\n")
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    Path("empty").touch()
    return {
        "a FIFO": "fifo",
        "a circle of links": "loop",
        "below a file": "empty/x",
        "a NUL": "a\0b",
        "over-long": "h" * 300,
        "nothing": "",
    }


def no_files(folder: Path) -> dict[str, str]:
    """For what is only read: also devices, the root, and files without content."""
    (folder / "folder").mkdir()
    (folder / "nuls").write_bytes(bytes(4096))
    with open(folder / "sparse", "wb") as file:
        file.truncate(1 << 40)
    return {
        "a folder": "folder",
        "missing": "missing",
        "empty": "empty",
        "NULs": "nuls",
        "a TB of nothing": "sparse",
        "/dev/zero": "/dev/zero",
        "/": "/",
        "a file that cannot be read": "/proc/self/mem",
    }


def call_of(command: str, option: str, action: argparse.Action, value: str) -> list[str]:
    """The command's usual call with one path exchanged."""
    call = list(CALLS[command])
    extra = WITH.get(f"{option} of {command}", WITH.get(option, ()) if command == "draw" else ())
    if "keypoints" in option:
        call[0] = "pose"
    if not action.option_strings:
        parser = FOUND_POSITIONALS[command]
        call[parser.index(action.dest)] = value
        return [command, *call]
    given = next((name for name in action.option_strings if name in call), None)
    if given is not None:
        call[call.index(given) + 1] = value
        return [command, *call]
    return [command, *call, *extra, option, value]


FOUND_POSITIONALS = {
    "plan": ["model"],
    "find": ["picture", "what"],
    "run": ["graph"],
    "batch": ["jobs"],
    "convert": ["graph"],
    "check": ["graph"],
    "inspect": ["files"],
    "quantize": ["source", "out"],
    "preprocess": ["type", "source", "out"],
    "train-lora": ["data"],
}


def refusal(call: list[str], capsys, caplog) -> str:
    """Why a call is not refused as it has to be; "" if it is."""
    caplog.clear()
    began = time.perf_counter()
    try:
        status = main(call)
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    except Exception as error:
        return f"{call}: {type(error).__name__}: {error}"
    took = time.perf_counter() - began
    out, err = capsys.readouterr()
    said = err.strip() or out.strip() or caplog.text  # a queue logs which job failed, and why
    if status == 0 or not said or "Traceback" in said or took > SECONDS:
        return f"{call}: status {status} after {took:.1f} s: {said[-300:]!r}"
    return ""


@pytest.mark.parametrize("item", READ, ids=[f"{c} {o}" for c, o, _ in READ])
def test_what_is_read_is_a_file(item, bad, tmp_path, capsys, caplog):
    command, option, action = item
    values = bad | no_files(tmp_path)
    if option == "--text-encoder" and command == "quantize":
        del values["a folder"], values["/"]  # read after the source, where it is a single file
    if option == "--keypoints":
        del values["nothing"]  # a text: none
    faults = [refusal(call_of(*item, value), capsys, caplog) for value in values.values()]
    assert not any(faults), "\n".join(filter(None, faults))


@pytest.mark.parametrize("item", OUTPUTS, ids=[f"{c} {o}" for c, o, _ in OUTPUTS])
def test_what_is_written_replaces_only_files(item, bad, tmp_path, capsys, caplog):
    before = {name: os.lstat(name).st_ino for name in ("fifo", "loop", "empty")}
    faults = [refusal(call_of(*item, value), capsys, caplog) for value in bad.values()]
    assert not any(faults), "\n".join(filter(None, faults))
    assert {name: os.lstat(name).st_ino for name in before} == before
    assert len(READ) >= 25 and len(OUTPUTS) >= 9
