"""What a graph's nodes and file names say of its models, for `convert --to-inkstone`.

Unusual: file names are interpreted, as nowhere else in this pack: a graph says nothing else about a
file, and graphs also have loaders of other models. Our loaders detect the model from the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...loaders.arch.variant import VARIANTS

QWEN = re.compile(r"qwen", re.IGNORECASE)
_ENCODER = re.compile(r"qwen[-_ ]?(2[._]?5[-_ ]?vl|3[-_ ]?vl[-_ ]?8b)", re.IGNORECASE)
_ENHANCER = re.compile(r"qwen[-_ ]?3[._]?5", re.IGNORECASE)
_NEWER = re.compile(r"qwen[-_ ]?image[-_ ]?2[._]1", re.IGNORECASE)

# beginnings of class names that need core's own network or weights, which ours cannot replace
REASONS = {
    start: "merges or saves the weights of a model, which ours keeps packed"
    for start in ("ModelMerge", "ModelSave", "ModelAdd", "ModelSubtract", "CheckpointSave")
} | {
    "QwenImage21FunControl": "works inside core's own network. Use Inkstone Load ControlNet and "
    "Inkstone Apply ControlNet with Inkstone Sampler"
}
NEWER = "TextEncodeQwenImage21"  # the encode node of Qwen-Image-2.1


@dataclass(frozen=True)
class GraphFacts:
    """Facts from the nodes of a whole graph: the model's variant, and obstacles."""

    variant: str
    obstacles: tuple[str, ...]  # nodes that need core's own network

    def why_not(self, part: str, name: str) -> str:
        """The reason why a loader is left in place; "" if it is replaced. part: `model`,
        `text_encoder` or `vae`.
        """
        if self.obstacles and part == "model":
            return self.obstacles[0]
        if part == "text_encoder":
            if _ENHANCER.search(name):
                return (
                    "is a language model that rewrites prompts (TextGenerate), which runs in "
                    "ComfyUI only. Inkstone Enhance Prompt does it with the model's own text "
                    "encoder"
                )
            return "" if _ENCODER.search(name) else "is not of Qwen-Image, by its name"
        return "" if QWEN.search(name) else "is not of Qwen-Image, by its name"

    def variant_of(self, name: str) -> str:
        """The model's variant: by the graph's nodes, and for files of 2.1 by the file's name, since
        nothing else tells Turbo from the base.
        """
        if self.variant == NEWER or _NEWER.search(name):
            named = (v for v in VARIANTS.values() if v.hint and v.hint in name.lower())
            return next((v.name for v in named), "auto")
        return self.variant


def facts_of(kinds: set[str], methods: set[str]) -> GraphFacts:
    obstacles = tuple(
        f"{kind} {reason}"
        for kind in sorted(kinds)
        for start, reason in REASONS.items()
        if kind.startswith(start)
    )
    return GraphFacts(_variant(kinds, methods), obstacles)


def _variant(kinds: set[str], methods: set[str]) -> str:
    """The model's variant, from the graph's encode nodes; NEWER for files of 2.1."""
    if NEWER in kinds:
        return NEWER
    if "index_timestep_zero" in methods:
        return "edit-2511"
    if "TextEncodeQwenImageEditPlus" in kinds:
        return "edit-2509"
    return "edit" if "TextEncodeQwenImageEdit" in kinds else "auto"
