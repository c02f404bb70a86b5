"""A real ComfyUI started with one more flag draws the same picture, bit for bit.

Runs where a source is at hand (INKSTONE_COMFYUI_SOURCE, see tests/support/comfy_install.py).
Unusual: --lowvram and --novram exclude --cpu, and without a GPU there is no start without --cpu; a
pack of the tests sets the memory manager's state as they do.
"""

from __future__ import annotations

import io
import json
from typing import NamedTuple

import pytest
from PIL import Image

from ..support.comfy_install import PACK, SOURCE_VARIABLE, given_source
from ..support.comfy_server import ComfyServer

GRAPH = PACK / "workflows" / "api" / "text_to_image_embedded.json"
STEPS = 6
FLAGS = (
    "--cache-none",
    "--cache-lru 5",
    "--cache-classic",
    "--disable-smart-memory",
    "--disable-metadata",
    "--preview-method none",
    "--preview-method taesd",
    "--preview-method latent2rgb",
    "--force-fp16",
    "--deterministic",
    "--fast",
    "--disable-dynamic-vram",
    "state LOW_VRAM",
    "state NO_VRAM",
)

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(
        given_source() is None,
        reason=f"needs {SOURCE_VARIABLE}: a git directory or tree of ComfyUI",
    ),
]


class Drawn(NamedTuple):
    """The results of one server that ran the graph twice."""

    pixels: tuple[bytes, bytes]
    previews: tuple[int, int]
    chunks: frozenset[str]  # of the PNG


def drawn(flags: tuple[str, ...], logged: str = "") -> Drawn:
    """Two runs; another seed in between lets the caches and the memory manager work. `logged`
    must stand in the server's log.
    """
    graph = json.loads(GRAPH.read_text("utf-8"))
    by_class = {entry["class_type"]: entry["inputs"] for entry in graph.values()}
    by_class["InkstoneDenoise"]["steps"] = STEPS
    seed, pixels, previews, chunks = by_class["InkstoneDenoise"]["seed"], [], [], frozenset()
    packs = (PACK, PACK / "tests" / "support" / "vram_state")
    with ComfyServer(given_source(), packs=packs, flags=flags) as server:
        for number in (seed, seed + 1, seed):
            by_class["InkstoneDenoise"]["seed"] = number
            result = server.run(graph, {"workflow": {"marker": "inkstone"}})
            if number != seed:
                continue
            (data,) = (image.data for image in result.images if image.type == "output")
            picture = Image.open(io.BytesIO(data))
            pixels.append(picture.convert("RGB").tobytes())
            chunks = frozenset(picture.info)
            previews.append(sum(kind == "preview" for kind, _ in result.events))
        if "IMPORT FAILED" in server.log_text():
            pytest.fail(server.tail(80))
        assert logged in server.log_text(), server.tail(80)
    return Drawn(tuple(pixels), tuple(previews), chunks)


@pytest.fixture(scope="module")
def plain() -> Drawn:
    return drawn(())


@pytest.mark.parametrize("flag", FLAGS)
def test_same_picture(flag: str, plain: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, _, state = flag.partition(" ")
    if kind == "state":
        monkeypatch.setenv("INKSTONE_TEST_VRAM_STATE", state)
        made = drawn((), f"memory state of the tests: {state}")
    else:
        made = drawn(tuple(flag.split()))
    for run, pixels in enumerate(made.pixels):
        differ = sum(a != b for a, b in zip(pixels, plain.pixels[0]))
        assert differ == 0, f"{flag}, run {run + 1}: {differ} of {len(pixels)} bytes differ"
    assert bool(made.previews[0]) == (flag != "--preview-method none"), made.previews
    complete = {"prompt", "workflow"} <= made.chunks
    assert complete == (flag != "--disable-metadata"), f"{flag}: chunks {sorted(made.chunks)}"
