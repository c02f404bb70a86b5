"""Tests always run on this tree: it is registered as the package `inkstone`, installed or not."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _register() -> None:
    spec = importlib.util.spec_from_file_location(
        "inkstone", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["inkstone"] = module
    spec.loader.exec_module(module)


os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "inkstone" not in sys.modules:
    _register()
