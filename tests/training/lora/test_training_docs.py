"""docs/training.md: every option with its default, and commands that parse."""

import re
import shlex

import pytest

from inkstone.headless.cli.parser import build_parser
from inkstone.pipeline.train_choices import DEFAULTS, OPTIONS
from inkstone.pipeline.train_option import flag_of

from ...test_arrows import ROOT

TEXT = (ROOT / "docs" / "training.md").read_text("utf-8")
ROWS = re.findall(r"^\| (`--[^|]*) \| ([^|]*) \| ", TEXT, re.M)
TABLE = {
    flag.strip("`"): default
    for flags, defaults in ROWS
    for flag, default in zip(flags.split(", "), [*defaults.split(", "), *[defaults] * 3])
}


def test_every_option_is_explained_once():
    flags = {flag_of(name) for name in OPTIONS if name not in ("data", "output")}
    assert set(TABLE) == flags


@pytest.mark.parametrize("name", [n for n, v in DEFAULTS.items() if type(v) in (int, float)])
def test_numbers_are_the_defaults(name):
    assert float(TABLE[flag_of(name)]) == DEFAULTS[name]


@pytest.mark.parametrize("name", [n for n, v in DEFAULTS.items() if isinstance(v, str) and v])
def test_choices_are_the_defaults(name):
    assert TABLE[flag_of(name)] == DEFAULTS[name]


def test_commands_parse():
    blocks = re.findall(r"```sh\n(.*?)```", TEXT.replace("\\\n", " "), re.S)
    calls = [shlex.split(block)[1:] for block in blocks]
    assert len(calls) == 3
    for call in calls:
        build_parser().parse_args(call)
