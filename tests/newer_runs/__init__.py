"""A throw-away pack for a ComfyUI server of the tests: what official templates use of newer cores,
as far as it takes a few lines, so that they run on the oldest host.
"""

from __future__ import annotations

import nodes


class Anything(str):
    """A type that fits every other."""

    def __ne__(self, other: object) -> bool:
        return False


ANY = Anything("*")


class ComfySwitchNode:
    """One of two, the other is not computed."""

    RETURN_TYPES, FUNCTION, CATEGORY = (ANY,), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        either = (ANY, {"lazy": True})
        return {"required": {"switch": ("BOOLEAN", {}), "on_false": either, "on_true": either}}

    def check_lazy_status(self, switch, on_false=None, on_true=None):
        return ["on_true" if switch else "on_false"]

    def run(self, switch, on_false=None, on_true=None):
        return (on_true if switch else on_false,)


class SaveImageAdvanced(nodes.SaveImage):
    """Saves a PNG, whatever format is asked for."""

    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls):
        return super().INPUT_TYPES() | {"optional": {"format": (ANY, {})}}

    def save(self, images, filename_prefix="x", prompt=None, extra_pnginfo=None, **_):
        return self.save_images(images, filename_prefix, prompt, extra_pnginfo)


NODE_CLASS_MAPPINGS = {"ComfySwitchNode": ComfySwitchNode, "SaveImageAdvanced": SaveImageAdvanced}
