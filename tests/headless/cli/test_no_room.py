"""Results that do not fit: a sentence and status 1 from every command, and no half file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from inkstone.loaders.models.load import EMBEDDED_FOLDER

from ...conftest import ROOT

resource = pytest.importorskip("resource", reason="limits of a process are POSIX")

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as a full disk: writes fail
from tests import conftest
from inkstone.headless.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
QUICK = ("--steps", "1", "--size", "64x64")
WEIGHTS = str(EMBEDDED_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors")
CALLS = {
    "draw": ("draw", "x", "-o", "o.png", *QUICK),
    "latent": ("draw", "x", "-o", "o.png", "--save-latent", "l.safetensors", *QUICK),
    "run": ("run", "text_to_image_embedded", "--set", "Inkstone Sampler.steps=1"),
    "convert": ("convert", "text_to_image_embedded", "-o", "api.json"),
    "check": ("check", "text_to_image_embedded", "--pin", "-o", "pin.json"),
    "preprocess": ("preprocess", "lineart", "p.png", "m.png"),
    "quantize": ("quantize", WEIGHTS, "q.gguf", "--type", "Q8_0"),
    "batch": ("batch", "jobs.jsonl", "--output", "out"),
    "train": ("train", "--out", "trained"),
    "train-lora": ("train-lora", ".", "-o", "l.safetensors", "--steps", "1", "--resolution", "64"),
}
KEPT = {"p.png", "jobs.jsonl", "run.json", "results.jsonl", "metrics.jsonl", "metrics.prom"}
KEPT |= {".lock", ".q.gguf.part", ".q.gguf.part.journal"}  # the same command resumes with them


@pytest.mark.slow
@pytest.mark.parametrize("what", CALLS)
def test_what_does_not_fit_is_said_and_leaves_nothing(what, tmp_path):
    Image.effect_noise((256, 256), 90).convert("RGB").save(tmp_path / "p.png")
    job = {"id": "a", "prompt": "x", "steps": 1, "size": "64x64"}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job) + "\n", "utf-8")
    command = [
        sys.executable,
        "-B",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{LIMITED}",
    ]
    run = subprocess.run(
        [*command, *CALLS[what], "--quiet"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr and "File too large" in run.stderr, run.stderr
    left = {path.name for path in Path(tmp_path).rglob("*") if path.is_file()}
    assert left <= KEPT, left - KEPT
