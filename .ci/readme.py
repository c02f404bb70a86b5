"""Runs the shell blocks of README.md that are marked as the two commands, exactly as written."""

import re
import subprocess
import sys
from pathlib import Path

text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
blocks = re.findall(r"```bash\n(.*?)```", text, re.S)[:2]
assert len(blocks) == 2, "README.md must open with two bash blocks: draw, then test"
for block in blocks:
    print("+ " + block.strip(), flush=True)
    code = subprocess.run(["bash", "-euo", "pipefail", "-c", block]).returncode
    if code:
        sys.exit(code)
