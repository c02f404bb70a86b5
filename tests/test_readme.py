"""README: its commands parse, and the two marked blocks are what CI runs; no link leads nowhere."""

import re
import shlex
from pathlib import Path

import pytest

from inkstone.headless.cli.parser import build_parser

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


def test_what_it_is_comes_first_then_the_picture_then_two_commands():
    first, second = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    assert "inkstone draw" in first and "pytest" in second
    assert TEXT.startswith("# Inkstone\n\nInkstone ")
    assert 0 < TEXT.index("\n![") < TEXT.index("```bash") < TEXT.index("\n## ")


def test_commands_parse():
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", TEXT.replace("\\\n", " "), re.S)
    lines = [part for b in blocks for line in b.splitlines() for part in line.split(" && ")]
    calls = [shlex.split(line)[1:] for line in lines if line.startswith("inkstone ")]
    assert len(calls) >= 5
    for call in calls:
        build_parser().parse_args(call)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page):
    """Relative links, and paths in backquotes that name a file of a folder here."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    links = [t for t in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in t]
    missing = [t for t in links if not ((ROOT / page).parent / t).exists()]
    folders = "|".join(p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith("."))
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
        missing += [path] if not (ROOT / path).exists() else []
    assert not missing, f"{page}: {missing}"
