"""Devices that a person names."""

import pytest

from inkstone.errors import CallError
from inkstone.pipeline.devices import check_device


@pytest.mark.parametrize(
    "device", ["gpu", "cuda:x", "cuda:-1", ":0", "cpu:\u00b2", "cpu:1", "\u00b2"]
)
def test_names_that_are_none_are_refused(device):
    with pytest.raises(CallError, match="expected cpu, cuda, cuda:1, xpu or mps"):
        check_device(device)


def test_a_device_that_is_not_there_is_refused():
    check_device("cpu")
    check_device(None)
    with pytest.raises(CallError, match=r"has \d+ cuda devices"):
        check_device("cuda:99")
