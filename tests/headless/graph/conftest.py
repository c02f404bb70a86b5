"""A host with folders of its own."""

from __future__ import annotations

import pytest

from inkstone.host.headless import HeadlessHost

from ...support.fake_nodes import CALLS


@pytest.fixture
def host(tmp_path):
    CALLS.clear()
    (tmp_path / "input").mkdir()
    folders = {name: tmp_path / name for name in ("input", "output", "temp")}
    return HeadlessHost(models=(tmp_path / "models",), device="cpu", **folders)
