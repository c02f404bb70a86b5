"""The scripts under bench/ start as the documents say: `python bench/NAME.py`."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
PAGES = ("*.md", "docs/*.md", "bench/*.md", "bench/*.py")  # that name commands
SCRIPTS = [p for p in sorted(BENCH.glob("*.py")) if "__main__" in p.read_text("utf-8")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_a_script_makes_the_package_importable_and_imports_nothing_relative(path):
    tree = ast.parse(path.read_text("utf-8"))
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [n.lineno for n in imports if n.level], "a script has no parent package"
    ours = [n for n in imports if (n.module or "").split(".")[0] in ("inkstone", "bench", "tests")]
    ready = [
        n.lineno
        for n in ast.walk(tree)
        if isinstance(n, ast.Import) and n.names[0].name == "scripts.package"
    ]
    assert not ours or (ready and min(ready) < min(n.lineno for n in ours))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_a_script_imports(path):
    """What it takes from the package is still there."""
    assert callable(importlib.import_module(f"bench.{path.stem}").main)


def options(path: Path) -> set[str]:
    """The options of a script: those that it adds, and those of the frame where it has them."""
    text = path.read_text("utf-8")
    calls = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call))
    adds = (n for n in calls if isinstance(n.func, ast.Attribute) and n.func.attr == "add_argument")
    own = {a.value for n in adds for a in n.args if isinstance(a, ast.Constant)}
    return own | (options(BENCH / "harness.py") if "harness.parser(" in text else set())


def test_commands_in_documents_exist():
    """Every `python bench/NAME.py --option` of the pages and of the scripts' own docstrings."""
    commands, faults = 0, []
    for page in (page for pattern in PAGES for page in ROOT.glob(pattern)):
        for name, rest in re.findall(r"python bench/(\w+)\.py([^`|\n]*)", page.read_text("utf-8")):
            commands += 1
            path, where = BENCH / f"{name}.py", f"{page.relative_to(ROOT)}: bench/{name}.py"
            if path not in SCRIPTS:
                faults.append(f"{where} is no script")
                continue
            named = set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest.split("#")[0]))
            faults += [f"{where} has no {option}" for option in named - options(path)]
    assert not faults, "\n".join(faults)
    assert commands > 60, f"{commands} commands: the pages name more"


def test_every_kind_of_machine_has_its_section():
    text = (BENCH / "RESULTS.md").read_text("utf-8")
    current, _, history = text.partition("\n# History\n")
    assert history
    for kind in ("AVX2 only", "AVX512", "AMX", "GPU"):
        assert re.search(rf"^## {kind}\b", current, re.M), kind
    rows = [line for line in current.splitlines() if line.startswith("| ")]
    assert all(len(line.split("|")) > 3 for line in rows)


@pytest.mark.slow
def test_the_sizing_table_is_that_of_the_memory_plan():
    """docs/serving.md states what bench/sizing.py prints, to a tenth or 0.3 GB."""
    sizing = importlib.import_module("bench.sizing")
    head, _, *printed = sizing.table(
        sizing.SIZES, sizing.rows(sizing.SIZES, formats=("Q4_K_M", "bf16"))
    ).splitlines()
    page = (ROOT / "docs" / "serving.md").read_text("utf-8").splitlines()
    assert head in page and len(printed) == 4
    for line in printed:
        name = line.split("|")[1]
        (stated,) = [one for one in page if one.startswith(f"|{name}|")]
        cells = zip(numbers_of(line), numbers_of(stated), strict=True)
        off = [pair for pair in cells if abs(pair[0] - pair[1]) > max(0.3, 0.1 * pair[0])]
        assert not off, f"{name}: (printed, stated) {off}; run python bench/sizing.py"


def numbers_of(line: str) -> list[float]:
    """The figures of a row, behind its name."""
    return [float(text) for text in re.findall(r"\d+\.\d", line.split("|", 2)[2])]
