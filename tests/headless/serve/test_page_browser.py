"""The page in a real browser, headless: drawing, the queue, the mask, two languages, the keyboard.

Needs INKSTONE_BROWSER_PYTHON, a Python with Playwright, and a Chromium. With INKSTONE_AXE, the file
axe.min.js of the package axe-core, every state is also checked for accessibility.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from inkstone.headless.serve.desk.settings import ServeCall

from ...support.browser_check import find_chromium
from .running import keys_file, serving

PYTHON, AXE = os.environ.get("INKSTONE_BROWSER_PYTHON"), os.environ.get("INKSTONE_AXE")
SCRIPT = Path(__file__).parents[2] / "support" / "serve_page.py"
KEY = "a-key-of-the-tests-of-the-page"
CHECKS = (
    *("draws", "uses_again", "stops", "edits", "takes_pictures", "refuses", "speaks_chinese"),
    *("works_by_keyboard", "fits_a_phone", "asks_for_a_key"),
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON or find_chromium() is None,
        reason="needs INKSTONE_BROWSER_PYTHON (one with Playwright) and a Chromium",
    ),
]


@pytest.fixture(scope="module")
def results(server, tmp_path_factory):
    """What each check found: one browser for all."""
    folder = tmp_path_factory.mktemp("locked")
    call = ServeCall(models=folder / "models", api_key_file=keys_file(folder, KEY))
    with serving(call) as locked:
        command = [PYTHON, SCRIPT, "--server", server.url, "--locked", locked.url, "--key", KEY]
        command += ["--axe", AXE] if AXE else []
        run = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=600, check=False
        )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", CHECKS)
def test_the_page(results, name):
    assert results[name] == "", results[name]


def test_every_check_is_listed(results):
    assert set(results) == set(CHECKS)
