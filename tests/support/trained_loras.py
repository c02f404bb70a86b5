"""Run by a ComfyUI's own Python (tests/training/lora/test_save_peers.py): files that our training
writes, loaded by core's own loader, on core's own network and on our bridge.

python tests/support/trained_loras.py COMFYUI_TREE MODELS FOLDER_OF_LORAS -> one line of JSON
"""

from __future__ import annotations

import json
import logging

import bridge_core  # noqa: F401  starts ComfyUI, so it comes before all of comfy
import folder_paths
from bridge_core import CORE, LORA, MODELS, OURS, relative, sampled

import nodes as core_nodes
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.nodes.bridge import nodes

STRENGTH = 0.7


class Lines(logging.Handler):
    """What core logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def loaded(patcher, name: str):
    """(the model with the file, by core's node; what core said)."""
    lines = Lines()
    logging.disable(logging.NOTSET)
    logging.getLogger().addHandler(lines)
    try:
        loader = core_nodes.LoraLoaderModelOnly()
        return loader.load_lora_model_only(patcher, name, STRENGTH)[0], lines.lines
    finally:
        logging.getLogger().removeHandler(lines)
        logging.disable(logging.WARNING)


def figures(name: str) -> dict[str, object]:
    """One file: how far core is from Inkstone's own loader, what it said, what it patched."""
    adapter = Adapter(load_lora(LORA / name), STRENGTH)
    ours = nodes.ToModel.execute(MODELS.model.with_loras([adapter])).result[0]
    want = sampled(ours)
    core, lines = loaded(CORE, name)
    result: dict[str, object] = {
        "core": relative(sampled(core), want),
        "moved": relative(sampled(OURS), want),
        "said": lines,
        "patched": len(core.patches),
        "modules": len(adapter.lora.model),
    }
    bridge, lines = loaded(OURS, name)
    result["bridge"] = relative(sampled(bridge), want)
    result["said on the bridge"] = lines
    return result


if __name__ == "__main__":
    folder_paths.add_model_folder_path("loras", str(LORA))
    names = sorted(path.name for path in LORA.glob("*.safetensors"))
    print("RESULT " + json.dumps({name: figures(name) for name in names}))
