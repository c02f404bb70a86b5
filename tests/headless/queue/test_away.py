"""What a worker elsewhere keeps on its machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from inkstone.headless.queue.away import own_folder


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux shows which processes live")
def test_folders_of_workers_that_were_killed_go(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, zombie = (subprocess.Popen([sys.executable, "-c", ""]) for _ in range(2))
    dead.wait()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    try:
        for process in (dead.pid, zombie.pid, os.getppid()):
            (tmp_path / f"inkstone-batch-{process}-x").mkdir()
        (tmp_path / "inkstone-batch-notes").mkdir()
        own = own_folder()
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {f"inkstone-batch-{os.getppid()}-x", "inkstone-batch-notes", own.name}
    finally:
        zombie.wait()
