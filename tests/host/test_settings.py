"""The settings of ComfyUI's page: read from its own file, checked, with defaults for the rest."""

from __future__ import annotations

import json
import sys
import types

import pytest

from inkstone.host import headless, settings


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The page's settings file, and a host that has it."""
    folders = types.SimpleNamespace(get_user_directory=lambda: str(tmp_path))
    args = types.SimpleNamespace(args=types.SimpleNamespace(multi_user=False))
    monkeypatch.setitem(sys.modules, "folder_paths", folders)
    monkeypatch.setitem(sys.modules, "comfy", types.ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.cli_args", args)
    monkeypatch.setattr(headless, "IN_COMFYUI", True)
    (tmp_path / "default").mkdir()
    return tmp_path / "default" / "comfy.settings.json"


def facts():
    return settings.memory_limit(), settings.precision(), settings.shows_previews()


DEFAULTS = (None, "auto", True)


def test_what_the_page_stores_is_read(file):
    assert facts() == DEFAULTS  # there is no file yet
    stored = {settings.MEMORY: 6.5, settings.PRECISION: "float32", settings.PREVIEWS: False}
    file.write_text(json.dumps(stored | {"Comfy.Locale": "zh"}))
    assert facts() == (6_500_000_000, "float32", False)
    sys.modules["comfy.cli_args"].args.multi_user = True
    assert facts() == DEFAULTS
    sys.modules["comfy.cli_args"].args.multi_user = False
    with headless.using(headless.HeadlessHost()):
        assert facts() == DEFAULTS


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 100_000, "\ud800"])
def test_a_file_that_is_no_settings_has_the_defaults(file, text):
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert facts() == DEFAULTS


@pytest.mark.parametrize("value", ["6", True, [], {}, float("nan"), float("inf")])
def test_a_limit_of_another_type_is_named(file, value, caplog):
    file.write_text(json.dumps({settings.MEMORY: value}))
    assert settings.memory_limit() is None
    assert "expected a number of GB" in caplog.text


@pytest.mark.parametrize("value", [0, -3, None])
def test_no_limit(file, value, caplog):
    file.write_text(json.dumps({settings.MEMORY: value}))
    assert settings.memory_limit() is None and not caplog.records


@pytest.mark.parametrize("value", ["half", 16, [], {}])
def test_a_precision_that_does_not_exist_is_named(file, value, caplog):
    file.write_text(json.dumps({settings.PRECISION: value}))
    assert settings.precision() == "auto" and "expected one of auto" in caplog.text
