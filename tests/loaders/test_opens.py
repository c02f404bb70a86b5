"""A weight file is opened, mapped and searched once per load, a JSON file is read once per part."""

import json
import subprocess
import sys

import pytest

from ..conftest import ROOT


def opens(*args: str) -> dict:
    """The counts of bench/opens.py, in a process of its own: its audit hook cannot be removed."""
    script = [sys.executable, str(ROOT / "bench" / "opens.py"), "--json", *args]
    run = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert not run.returncode, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_the_embedded_model_is_opened_once():
    counts = opens()
    assert counts["parsed"] == 3 and counts["find_packed"] <= 3
    assert set(counts["opened"].values()) == {1} and len(counts["opened"]) == 3, counts["opened"]
    # the VAE's config has statistics of latents: the diffusion model reads them too
    readers = {"vae/config.json": 2}
    assert counts["json_files"], "nothing was counted"
    assert counts["json_files"] == {name: readers.get(name, 1) for name in counts["json_files"]}


@pytest.mark.slow
def test_a_gguf_file_is_opened_once(tmp_path):
    """The diffusion model in blocks: its packed weights are searched once as well."""
    from inkstone.loaders.models.load import EMBEDDED_FOLDER
    from inkstone.pipeline.quantize import quantize
    from inkstone.pipeline.quantize_request import QuantizeCall

    for part in ("text_encoder", "vae", "tokenizer", "scheduler"):
        (tmp_path / part).symlink_to(EMBEDDED_FOLDER / part)
    (tmp_path / "transformer").mkdir()
    out = tmp_path / "transformer" / "model.gguf"
    quantize(QuantizeCall(EMBEDDED_FOLDER, out, "Q8_0"), lambda done, total: None)
    counts = opens("--folder", str(tmp_path))
    assert counts["parsed"] == 3 and counts["find_packed"] <= 3
    assert counts["opened"]["transformer/model.gguf"] == 1
    assert set(counts["opened"].values()) == {1}
