"""The libraries that our numbers are held against, and random weights for parity tests: every
tensor is non-trivial, so a swapped scale and shift shows.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from ..conftest import reason


def library(name: str) -> ModuleType:
    """A module that only tests need; without it the test or the whole file is skipped."""
    return pytest.importorskip(name, reason=reason(name.split(".")[0]))


def save_file(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None
) -> None:
    """A file written by the safetensors package."""
    library("safetensors.torch").save_file(dict(tensors), path, metadata)


def load_file(path: str | Path) -> dict[str, Tensor]:
    """A file read by the safetensors package."""
    return library("safetensors.torch").load_file(path)


def fill(module: nn.Module) -> nn.Module:
    """Norm weights near 1, biases and other vectors 0.1 std, matrices scaled by fan-in."""
    with torch.no_grad():
        for p in module.parameters():
            flat = p.squeeze().dim() <= 1
            near_one = 1.0 if flat and p.min() == 1 else 0.0
            p.copy_(torch.randn(p.shape) * (0.1 if flat else p[0].numel() ** -0.5) + near_one)
    return module.eval()


def relative(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||."""
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


LEDGER = "INKSTONE_PARITY"  # names a file to which the errors of a run are added


def measured(got: Tensor, want: Tensor) -> float:
    """`relative`, noted for docs/parity.md where scripts/parity.py runs the tests."""
    error, ledger = relative(got, want), os.environ.get(LEDGER)
    if ledger:
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        with open(ledger, "a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "error": error}) + "\n")
    return error
