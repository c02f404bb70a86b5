"""Importing this module registers the tree as the package `inkstone`, installed or not.

For programs that are started from the tree: builders, benchmarks. Tests do the same in conftest.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _register() -> None:
    spec = importlib.util.spec_from_file_location(
        "inkstone", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None  # the file is part of this tree
    module = importlib.util.module_from_spec(spec)
    sys.modules["inkstone"] = module
    spec.loader.exec_module(module)


if "inkstone" not in sys.modules:
    _register()
