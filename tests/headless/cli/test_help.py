"""Help: every command has a line, an example and a handler; every option says what it does."""

from __future__ import annotations

import argparse

import pytest

from inkstone.headless.cli.parser import build_parser


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (
        a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)
    )  # argparse has no public way to them
    return dict(action.choices)


def test_all_commands_of_the_contract_are_here():
    names = "draw plan run batch convert check inspect quantize preprocess train doctor"
    assert set(names.split()) <= set(commands())


@pytest.mark.parametrize("name", commands())
def test_help_of_a_command(name):
    parser = commands()[name]
    assert callable(parser.get_default("handler"))
    assert parser.description and f"example:\n  inkstone {name}" in parser.format_help()
    silent = [a.dest for a in parser._actions if not a.help and a.dest != "prompt"]
    assert not silent, f"options without help: {silent}"
