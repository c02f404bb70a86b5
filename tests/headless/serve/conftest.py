"""One server for all tests of a file."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A `running.Served`, with an empty models folder."""
    from inkstone.headless.serve.desk.settings import ServeCall

    from .running import serving

    folder = tmp_path_factory.mktemp("serve")
    with serving(ServeCall(models=folder / "models")) as served:
        yield served
