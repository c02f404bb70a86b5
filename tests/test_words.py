"""Plain English: what a user reads holds none of the words that only this project would use.

Errors and log lines are read from the source, the command line's help and the nodes' texts from the
running objects, pages from their files.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator

import pytest

from inkstone.headless.cli.parser import build_parser
from inkstone.nodes import NODES

from .test_arrows import ROOT, modules

BANNED = re.compile(r"\b(told|anew|so many|in words)\b", re.IGNORECASE)
ERRORS = {"InkstoneError", "CallError"}
LOG_CALLS = {"debug", "info", "warning", "error", "exception", "critical"}
PAGES = ("*.md", "embedded/README.md", "docs/*.md", "web/docs/*/en.md", "bench/RESULTS.md")


def banned(text: str) -> list[str]:
    """The sentence around each banned word."""
    flat = " ".join(text.split())
    return [flat[max(0, m.start() - 40) : m.end() + 40] for m in BANNED.finditer(flat)]


def sentences(source: str) -> Iterator[str]:
    """The text of every error and log line of a source; what is formatted in is {}."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _speaks(node.func):
            for argument in (*node.args, *(k.value for k in node.keywords)):
                yield "".join(_texts(argument))


def _speaks(func: ast.expr) -> bool:
    """True for the call of an error, of a logger, or of a parser's `error`."""
    if isinstance(func, ast.Name):
        return func.id in ERRORS
    return isinstance(func, ast.Attribute) and func.attr in LOG_CALLS | ERRORS


def _texts(node: ast.AST) -> Iterator[str]:
    """All text in an expression, in order."""
    if isinstance(node, ast.Constant):
        yield node.value if isinstance(node.value, str) else ""
    elif isinstance(node, ast.FormattedValue):
        yield "{}"
        yield from (f" {text} " for text in _texts(node.value))
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


def test_errors_and_log_lines():
    faults = {}
    for file in modules():
        lines = sentences((ROOT / file).read_text("utf-8"))
        if words := [word for line in lines for word in banned(line)]:
            faults[file.as_posix()] = words
    assert faults == {}


def test_help_of_the_command_line():
    faults = {p.prog: banned(p.format_help()) for p in parsers(build_parser())}
    assert len(faults) > 10
    assert {k: v for k, v in faults.items() if v} == {}


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_texts_of_a_node(node):
    schema = node.define_schema()
    texts = [schema.display_name, schema.description]
    for item in (*schema.inputs, *schema.outputs):
        texts += [getattr(item, name, None) for name in ("display_name", "tooltip")]
    assert [word for text in texts if text for word in banned(text)] == []


@pytest.mark.parametrize("pattern", PAGES)
def test_pages(pattern):
    files = sorted(ROOT.glob(pattern))
    assert files
    faults = {p.relative_to(ROOT).as_posix(): banned(p.read_text("utf-8")) for p in files}
    assert {k: v for k, v in faults.items() if v} == {}


def test_notes_of_the_example_graphs():
    for path in sorted((ROOT / "workflows").glob("*.json")):
        nodes = json.loads(path.read_text("utf-8"))["nodes"]
        notes = [v for n in nodes if "Note" in n["type"] for v in n["widgets_values"]]
        titles = [str(n.get("title", "")) for n in nodes]
        assert [word for text in notes + titles for word in banned(text)] == [], path.name


@pytest.mark.parametrize(
    "line",
    [
        'raise InkstoneError(f"{path}: it was {name} told twice")',
        'raise errors.CallError("drawn " "anew")',
        'log.info("so\\n many %s", "x")',
        'parser.error("said in words" if x else "")',
        'raise InkstoneError("; ".join(f"{k} is told" for k in names))',
    ],
)
def test_a_banned_word_is_seen(line):
    assert [word for text in sentences(line) for word in banned(text)]


def test_other_words_pass():
    assert not banned("renewed and untold") and not list(sentences("x = 'told'"))
