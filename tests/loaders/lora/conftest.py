"""The embedded model, for the tests of LoRAs in runs."""

import pytest

from inkstone.loaders.models.load import load_all


@pytest.fixture(scope="module")
def bundle():
    return load_all(None)
