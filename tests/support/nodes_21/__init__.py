"""A throw-away pack for a ComfyUI server of the tests that is older than Qwen-Image-2.1: the two
nodes of core that its templates need.

The encode node is our stand-in of core's, here with the CLIP and VAE of our bridges; the cache node
sets the option of core's. A newer core's own nodes take precedence.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parents[3] / "__init__.py"


def _stand_in(name: str):
    """Our stand-in, in the pack as this server loaded it."""
    found = (
        key
        for key, module in list(sys.modules.items())
        if getattr(module, "__file__", None) and Path(module.__file__).resolve() == _HERE
    )
    prompts = importlib.import_module(f"{next(found)}.headless.core_nodes.prompts")
    return prompts.PROMPT_NODES[name]


class TextEncodeQwenImage21:
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    FUNCTION, CATEGORY = "run", "interfaces"

    @classmethod
    def INPUT_TYPES(cls):
        text = ("STRING", {"multiline": True})
        pictures = {f"images.image_{n}": ("IMAGE", {}) for n in range(1, 17)}
        return {
            "required": {
                "clip": ("CLIP", {}),
                "prompt": text,
                "negative_prompt": text,
                "resolution": ("INT", {"default": 1024, "min": 0, "max": 4096}),
            },
            "optional": {"vae": ("VAE", {}), **pictures},
        }

    def run(self, **inputs):
        return _stand_in("TextEncodeQwenImage21").execute(**inputs).result


class QwenImage21Cache:
    RETURN_TYPES = ("MODEL",)
    FUNCTION, CATEGORY = "run", "interfaces"

    @classmethod
    def INPUT_TYPES(cls):
        places, types = ["auto", "gpu", "cpu", "off"], ["default", "int8", "int4"]
        return {"required": {"model": ("MODEL", {}), "device": (places,), "dtype": (types,)}}

    def run(self, model, device, dtype):
        model = model.clone()
        options = model.model_options["transformer_options"]
        options["qwen_image21_cache"] = {"device": device, "dtype": dtype}
        return (model,)


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (TextEncodeQwenImage21, QwenImage21Cache)}
