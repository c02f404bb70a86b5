"""The Reference Cache node: where what is the same in all steps is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InkstoneError
from ..host.api import io, schema
from ..sampling.prefix_choices import KEEPS
from . import sockets

if TYPE_CHECKING:
    from ..loaders.models.diffusion_model import DiffusionModel


class ReferenceCache(io.ComfyNode):
    """The model with another place for keys and values of prompt and references."""

    ID = "InkstoneReferenceCache"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Reference Cache",
            category="inkstone/sampling",
            description="Qwen-Image-2.1 computes prompt and reference images once for all steps, "
            "seeds and sizes, and keeps them: 2 GB for each megapixel of references. The picture "
            "is the same wherever they are kept.",
            search_aliases=["qwen image 2.1 cache", "kv cache", "prefix cache"],
            inputs=[
                sockets.Model.Input("model", tooltip="A model of Qwen-Image-2.1."),
                io.Combo.Input(
                    "keep",
                    options=list(KEEPS),
                    default=KEEPS[0],
                    tooltip="auto: on the GPU if it has room, else in main memory, else off. "
                    "device: on the GPU (or in main memory without one). host: in main memory. "
                    "off: computed again in every step.",
                ),
            ],
            outputs=[sockets.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    def execute(cls, model: DiffusionModel, keep: str) -> io.NodeOutput:
        sockets.require_models(model=model)
        if keep not in KEEPS:
            raise InkstoneError(
                f"The place of the reference cache is {keep!r}: expected one of {', '.join(KEEPS)}."
            )
        return io.NodeOutput(model.with_prefix_kept(keep))
