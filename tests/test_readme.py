"""README: its commands parse, and the two marked blocks are what CI runs."""

import re
import shlex
from pathlib import Path

from inkstone.headless.cli.parser import build_parser

TEXT = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_two_commands_come_first():
    first, second = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    assert "inkstone draw" in first and "pytest" in second
    assert TEXT.startswith("![") and TEXT.index("```bash") < TEXT.index("# Inkstone\n")


def test_commands_parse():
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", TEXT.replace("\\\n", " "), re.S)
    lines = [part for b in blocks for line in b.splitlines() for part in line.split(" && ")]
    calls = [shlex.split(line)[1:] for line in lines if line.startswith("inkstone ")]
    assert len(calls) >= 5
    for call in calls:
        build_parser().parse_args(call)
