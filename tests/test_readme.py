"""README: its commands parse, and the two marked blocks are what CI runs; no link leads nowhere."""

import re
import shlex
from pathlib import Path

import pytest

from inkstone.headless.cli.parser import build_parser

from .test_arrows import modules

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
    """Relative links, paths in backquotes and the files that diagrams name."""
    text = (ROOT / page).read_text(encoding="utf-8")
    diagrams = "".join(re.findall(r"```mermaid(.*?)```", text, re.S))
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    links = [t for t in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in t]
    missing = [t for t in links if not ((ROOT / page).parent / t).exists()]
    folders = "|".join(p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith("."))
    paths = re.findall(rf"`((?:{folders})/[\w./-]*)`", text)
    paths += re.findall(rf"\b(?:{folders})/[\w/]+\.py", diagrams)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing, f"{page}: {missing}"


def test_names_in_the_recipes_exist():
    """Functions, classes and settings that CONTRIBUTING.md names are in the code."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = set(
        re.findall(r"`([A-Za-z]\w{3,})(?:\([^`]*\))?`", re.sub(r"```.*?```", "", text, flags=re.S))
    )
    files = [*modules(), *(f.relative_to(ROOT) for f in (ROOT / "tests").rglob("*.py"))]
    files += [Path("pyproject.toml")]
    code = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    examples = {"NameStorage", "find_name", "loras_lora_0"}
    unknown = sorted(n for n in names - examples if not re.search(rf"\b{n}\b", code))
    assert not unknown, unknown
