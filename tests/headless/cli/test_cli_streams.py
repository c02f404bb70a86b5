"""Output under a shell: a code page that lacks the letters, a reader that closes the pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from ...conftest import ROOT

GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def called(*words, **more):
    code = "import sys; from tests import conftest; from inkstone.headless.cli.main import main; "
    return subprocess.Popen(
        [sys.executable, "-c", code + "sys.exit(main())", *map(str, words)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **more,
    )


@pytest.mark.slow
def test_names_that_the_code_page_lacks_end_no_queue(tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(GRAPH))
    job = {"id": "红", "graph": str(tmp_path / "g.json")}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job))
    env = os.environ | {"PYTHONIOENCODING": "cp1252"}
    process = called("batch", tmp_path / "jobs.jsonl", "--output", tmp_path / "out", env=env)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert b"\\u7ea2" in out and b"Traceback" not in err


def test_a_reader_that_has_enough(tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(GRAPH))
    process = called("convert", tmp_path / "g.json")
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(120) == 1 and b"Traceback" not in err and b"Exception" not in err, err


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
SHELL = 'exec "$0" -c "$1" "${@:2}" '


def in_shell(redirection: str, *words: object) -> subprocess.CompletedProcess:
    """The command with its streams as a shell redirects them."""
    code = "import sys; from tests import conftest; from inkstone.headless.cli.main import main; "
    script = ["bash", "-c", SHELL + redirection, sys.executable, code + "sys.exit(main())"]
    return subprocess.run(
        [*script, *map(str, words)], cwd=ROOT, capture_output=True, timeout=120, text=True
    )


@pytest.mark.slow
@FULL
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_progress_that_nobody_can_see_stops_nothing(redirection, tmp_path):
    words = ("draw", "a red star", "--size", "64x64", "--steps", "1", "-o", tmp_path / "a.png")
    result = in_shell(redirection, *words)
    assert result.returncode == 0 and result.stdout.strip() == str(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[-8:-4] == b"IEND", "nothing was printed into it"


@FULL
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_results_that_cannot_be_printed_are_an_error(redirection, tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(GRAPH))
    result = in_shell(redirection, "convert", tmp_path / "g.json")
    assert result.returncode == 1 and "stdout cannot be written to" in result.stderr
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr


RESULTS = (  # a call of every command that prints something, and of argparse itself
    ("--help",),
    ("--version",),
    ("draw", "--help"),
    ("batch", "--help"),
    ("inspect", "embedded/model"),
    ("inspect", "--json", "embedded/model/vae"),
    ("plan",),
    ("doctor",),
    ("check", "text_to_image_embedded"),
    ("convert", "text_to_image_embedded"),
    ("preprocess", "canny", "p.png", "m.png"),
)


@pytest.mark.slow
@FULL
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("words", RESULTS, ids=" ".join)
def test_no_command_ends_well_without_its_results(words, redirection, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "p.png")
    words = [str(tmp_path / word) if word.endswith(".png") else word for word in words]
    result = in_shell(redirection, *words)
    assert result.returncode == 1 and "stdout cannot be written to" in result.stderr
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr


@pytest.mark.slow
@FULL
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "> >(true)", ">/dev/full 2>&1"])
def test_a_queue_goes_on_without_stdout(redirection, tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(GRAPH))
    lines = [json.dumps({"id": f"j{n}", "graph": str(tmp_path / "g.json")}) for n in range(9)]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    result = in_shell(redirection, "batch", tmp_path / "jobs.jsonl", "--output", tmp_path / "out")
    records = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len(records) == 9 and "Traceback" not in result.stderr
    if "true" not in redirection:  # a pipe may take all before its reader ends
        assert result.returncode == 1
    if "2>" not in redirection and "true" not in redirection:
        assert "The queue goes on" in result.stderr and "stdout cannot be" in result.stderr
