"""Messages repeat names from anybody's files, within bounds."""

import json
import subprocess
import sys

import pytest

from inkstone.errors import CallError, InkstoneError, shorten
from inkstone.headless.cli.main import main
from inkstone.loaders.formats.safetensors import SafetensorsFile

from .conftest import ROOT


def test_a_long_text_keeps_its_beginning_and_its_end():
    text = shorten("a" * 500 + "z" * 500)
    assert text.startswith("aaa") and text.endswith("zzz") and len(text) == 203
    assert shorten("short") == "short"


@pytest.mark.parametrize("kind", [InkstoneError, CallError])
def test_long_words_of_a_message_are_shortened_and_sentences_are_not(kind):
    sentence = "It is what it is. " * 50
    assert str(kind(sentence)) == sentence
    assert len(str(kind("n" * 10**6 + ": no such file."))) < 300
    assert len(str(kind("n " * 10**6))) < 20_000


@pytest.mark.parametrize("part", ["id", "graph", "prompt2", "model", "lora"])
def test_a_job_line_with_long_values(part, place, capsys):
    value = ["x" * 100_000] if part == "lora" else "x" * 100_000
    (place / "j.jsonl").write_text(json.dumps({"prompt": "a", part: value}))
    assert main(["batch", "j.jsonl", "--output", "out"]) != 0
    streams = capsys.readouterr()
    assert len(streams.err + streams.out) < 2000 and "Traceback" not in streams.err


@pytest.mark.parametrize("where", ["class_type", "input", "value"])
def test_a_graph_with_long_names(where, place, capsys):
    long = "x" * 100_000
    inputs = {long: 1} if where == "input" else {"folder": long if where == "value" else "e"}
    kind = long if where == "class_type" else "InkstoneLoadAll"
    (place / "g.json").write_text(json.dumps({"1": {"class_type": kind, "inputs": inputs}}))
    assert main(["run", "g.json"]) != 0
    assert len(capsys.readouterr().err) < 4000


def test_a_header_with_a_long_name(tmp_path):
    header = json.dumps({"t" * 5000: {"dtype": "?" * 5000, "shape": [], "data_offsets": [0, 0]}})
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(InkstoneError) as error:
        SafetensorsFile(path)
    assert len(str(error.value)) < 1500


def test_a_log_line_with_a_long_name():
    """Of the command line, whose streams are those of a process."""
    code = "import logging; from tests import conftest; from inkstone.headless.cli.main import _run"
    code += "; import argparse; log = lambda _: logging.warning('tensor %s', 'x' * 9000)"
    code += "; _run(argparse.Namespace(quiet=False, handler=log))"
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("tensor xxx") and "..." in done.stderr
    assert len(done.stderr) < 300
