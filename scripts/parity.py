"""Writes docs/parity.md, the ledger of errors against references: `python scripts/parity.py`.

Runs every test that measures an error (`measured` of tests/support/oracle.py) and lists for each
the largest one over its cases, with the command that measures it. `--only FILES` renews those files
alone. tests/test_parity.py finds a ledger that lacks a test or names one that is gone.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "parity.md"
MEASURES = "measured"
IMPORT = re.compile(r"oracle import (?:\([^)]*|.*)\bmeasured\b")
ROW = re.compile(r"\| (?P<words>.*?) \| (?P<cases>\d+) \| (?P<error>\S+) \| `(?P<name>\w+)` \|")
HEAD = """# Parity

Every part, variant, task and storage format of both families against its reference: diffusers,
transformers, peft, or for a packed format the same weights unpacked. Errors are relative,
||ours - reference|| / ||reference||, in float32 on small random weights unless a line says
otherwise; each is the largest over its cases. Every row is a test: it fails above the limit that
stands in it.

Made by `python scripts/parity.py`, last on {machine}. One row is measured again with
`python -m pytest FILE -k TEST`; 0 is bit-equal.
"""
FAULTS = "## Known faults of references and peers"  # written by hand, kept as it is


@dataclass(frozen=True)
class Test:
    """A test that measures. file: below the root."""

    file: str
    name: str
    words: str


@dataclass(frozen=True)
class Row:
    """The largest error of a test."""

    words: str
    cases: int
    error: str


def measuring_tests() -> list[Test]:
    """Every test that calls `measured`, itself or through a function of its file (not as a fixture
    or by a name that it only holds)."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text("utf-8")
        if not IMPORT.search(text):
            continue
        functions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
        helpers = {MEASURES}
        for _ in functions:  # until nothing new calls one of them
            helpers |= {f.name for f in functions if _calls(f) & helpers}
        file = path.relative_to(ROOT).as_posix()
        for function in functions:
            if function.name.startswith("test_") and _calls(function) & helpers:
                found.append(Test(file, function.name, _words(function)))
    return found


def _calls(function: ast.FunctionDef) -> set[str]:
    calls = (n.func for n in ast.walk(function) if isinstance(n, ast.Call))
    return {call.id for call in calls if isinstance(call, ast.Name)}


def _words(function: ast.FunctionDef) -> str:
    return function.name.removeprefix("test_").replace("_", " ")


def title(file: str) -> str:
    """What a file of tests is about: the first sentence of its docstring."""
    text = ast.get_docstring(ast.parse((ROOT / file).read_text("utf-8"))) or file
    return re.split(r"(?<=[.:;])\s", " ".join(text.split()))[0].rstrip(".:;")


def kept_rows() -> dict[tuple[str, str], Row]:
    """The rows of the page, by file and test."""
    rows, file = {}, ""
    for line in PAGE.read_text("utf-8").splitlines() if PAGE.exists() else ():
        if line.startswith("`tests/"):
            file = line.strip("`")
        match = ROW.fullmatch(line)
        if match:
            row = Row(match["words"], int(match["cases"]), match["error"])
            rows[file, match["name"]] = row
    return rows


def run(files: Iterable[str]) -> dict[tuple[str, str], Row]:
    """The rows that the tests of these files give."""
    errors: dict[tuple[str, str], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "errors.jsonl"
        call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
        subprocess.run(call, cwd=ROOT, env={**os.environ, "INKSTONE_PARITY": str(ledger)})
        for line in ledger.read_text("utf-8").splitlines() if ledger.exists() else ():
            entry = json.loads(line)
            file, _, case = entry["test"].partition("::")
            cases = errors.setdefault((file, case.partition("[")[0]), {})
            cases[case] = max(cases.get(case, 0.0), entry["error"])
    words = {(t.file, t.name): t.words for t in measuring_tests()}
    return {
        key: Row(
            words[key], len(cases), f"{max(cases.values()):.1e}" if max(cases.values()) else "0"
        )
        for key, cases in errors.items()
        if key in words
    }


def page(rows: dict[tuple[str, str], Row], machine: str) -> str:
    """The ledger as Markdown."""
    parts, tests = [HEAD.format(machine=machine)], measuring_tests()
    for file in dict.fromkeys(test.file for test in tests):
        lines = [f"## {title(file)}", "", f"`{file}`", ""]
        lines += ["| what | cases | largest error | test |", "|---|---|---|---|"]
        for test in (t for t in tests if t.file == file):
            row = rows.get((file, test.name), Row(test.words, 0, "not-run"))
            lines.append(f"| {test.words} | {row.cases} | {row.error} | `{test.name}` |")
        parts.append("\n".join(lines) + "\n")
    _, _, faults = (PAGE.read_text("utf-8") if PAGE.exists() else "").partition(FAULTS)
    return "\n".join([*parts, FAULTS + (faults or "\n")])


def _machine() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    import torch

    return f"{names[0] if names else 'a CPU'}, torch {torch.__version__.partition('+')[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="files of tests, the others keep their rows")
    only = parser.parse_args().only
    files = only or sorted({test.file for test in measuring_tests()})
    PAGE.write_text(page({**kept_rows(), **run(files)}, _machine()), encoding="utf-8")


if __name__ == "__main__":
    main()
