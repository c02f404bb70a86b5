"""The whole proof in ComfyUI's own page, tests/support/page_proof.py, where a source and a browser
are at hand.

Minutes, so it needs INKSTONE_COMFYUI_SOURCE and INKSTONE_BROWSER_PYTHON (one with Playwright).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.browser_check import find_chromium
from ..support.comfy_install import SOURCE_VARIABLE, given_source
from ..support.page_desk import ROOT
from ..support.page_proof import BROWSER_VARIABLE

SHOTS = "INKSTONE_PAGE_SHOTS"


@pytest.mark.comfyui
@pytest.mark.browser
@pytest.mark.skipif(
    given_source() is None or not os.environ.get(BROWSER_VARIABLE) or find_chromium() is None,
    reason=f"needs {SOURCE_VARIABLE}, {BROWSER_VARIABLE} (one with Playwright) and a Chromium",
)
def test_page(tmp_path: Path) -> None:
    shots = os.environ.get(SHOTS, str(tmp_path))
    command = [sys.executable, "-m", "tests.support.page_proof", "--shots", shots]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    lines = run.stdout.splitlines()
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert run.returncode == 0, "\n".join([*wrong, *lines[-1:], run.stderr[-2000:]])
