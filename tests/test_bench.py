"""The scripts under bench/ start as the documents say: `python bench/NAME.py`."""

import ast
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
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
