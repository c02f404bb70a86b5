"""The input, output and temp folders of the host."""

from __future__ import annotations

from pathlib import Path

from .headless import headless_host


def output_directory() -> Path:
    """The folder of finished pictures."""
    return _directory("output")


def input_directory() -> Path:
    """The folder that LoadImage reads."""
    return _directory("input")


def temp_directory() -> Path:
    """The folder of previews."""
    return _directory("temp")


def base_directory() -> Path:
    """The host's own folder, in which its models and results usually are; without ComfyUI the
    folder that the command was called in.
    """
    if headless_host() is not None:
        return Path.cwd()
    import folder_paths

    return Path(folder_paths.base_path)


def _directory(kind: str) -> Path:
    headless = headless_host()
    if headless is not None:
        return Path(getattr(headless, kind))
    import folder_paths

    return Path(getattr(folder_paths, f"get_{kind}_directory")())
