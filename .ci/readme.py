"""Runs one of the two shell blocks of README.md, exactly as written: `draw` or `test`."""

import re
import subprocess
import sys
from pathlib import Path

text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
assert len(blocks) == 2, "README.md must have exactly two bash blocks: draw, then test"
block = dict(zip(("draw", "test"), blocks))[sys.argv[1]]
print("+ " + block.strip(), flush=True)
sys.exit(subprocess.run(["bash", "-euo", "pipefail", "-c", block], check=False).returncode)
