"""The Find in Picture node: boxes and a mask of what was named, found by the text encoder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..host.api import io, schema, ui
from ..host.progress import WrittenText
from ..pipeline.find_choices import SHAPES, USUAL_THING, USUAL_TOKENS
from ..sampling.next_token_limits import MOST_TOKENS
from . import sockets

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.text_encoder import TextEncoderModel


class FindInPicture(io.ComfyNode):
    """A picture and the name of a thing -> its mask, its boxes, and both over the picture."""

    ID = "InkstoneFindInPicture"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Find in Picture",
            category="inkstone/image",
            description="Finds what you name in a picture, with the text encoder that is loaded "
            "for drawing (Qwen2.5-VL, Qwen3-VL): its mask, its boxes, and a picture that shows "
            "them. The file needs the output head.",
            search_aliases=[
                "grounding dino",
                "segment anything",
                "sam",
                "detect object",
                "bounding box",
                "text to mask",
                "clipseg",
                "florence2",
                "yolo",
                "auto mask",
            ],
            is_output_node=True,
            inputs=[
                sockets.TextEncoder.Input(
                    "text_encoder",
                    tooltip="From Load Text Encoder or Load All. The file needs the vision tower "
                    "and the output head (lm_head).",
                ),
                io.Image.Input("image", tooltip="The picture to search. One, not a batch."),
                io.String.Input(
                    "what",
                    default=USUAL_THING,
                    tooltip="What to find, for example: the red car. All that fit are found; "
                    "several kinds can be named with commas.",
                ),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default=next(iter(SHAPES)),
                    tooltip="Shape of the mask. grabcut: the thing itself, cut out at its edges "
                    "inside the box. box: the whole box, which leaves more room to inpaint.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=USUAL_TOKENS,
                    min=1,
                    max=MOST_TOKENS,
                    tooltip="The longest answer, in tokens; a box takes about 30.",
                ),
            ],
            outputs=[
                io.Mask.Output("mask", display_name="mask"),
                io.Image.Output("overlay", display_name="overlay"),
                io.String.Output("boxes", display_name="boxes"),
            ],
        )

    @classmethod
    def execute(
        cls, text_encoder: TextEncoderModel, image: Tensor, what: str, shape: str, max_tokens: int
    ) -> io.NodeOutput:
        from ..pipeline.box_masks import mask_of
        from ..pipeline.box_overlay import overlay
        from ..pipeline.find import find

        sockets.require_models(text_encoder=text_encoder)
        found = find(text_encoder, image, what, max_tokens, WrittenText(max_tokens))
        mask = mask_of(image, found.boxes, shape)
        shown = overlay(image, found.boxes, mask)
        boxes = json.dumps(found.facts(), ensure_ascii=False, indent=1)
        return io.NodeOutput(mask, shown, boxes, ui=ui.PreviewImage(shown, cls=cls))
