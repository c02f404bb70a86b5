"""Output under a shell: a code page that lacks the letters, a reader that closes the pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

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
