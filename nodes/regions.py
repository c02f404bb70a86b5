"""The Regional Prompts node: words for parts of the picture, behind the prompt of the whole.

The node has `ROWS` rows everywhere; the page shows those in use and a free one. A row's place is
its box, or the mask that is connected under its number. Several nodes in a row add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InkstoneError
from ..host.api import io, schema
from ..sampling.region_choices import METHODS, USUAL_BASE, RegionSettings, parse_box
from . import sockets
from .conditioning import region_inputs, with_regions
from .encode import QUOTES
from .shown import other_than, shown_if

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.models.text_encoder import TextEncoderModel
    from ..pipeline.regions import RegionInput
    from .conditioning import Conditioning

ROWS = 8


def row(number: int, prompt: str, box: str) -> dict[str, object]:
    """The inputs of one row, for graphs that are built here."""
    return {f"prompt_{number}": prompt, f"box_{number}": box}


def _row_inputs(number: int) -> list[io.Input]:
    """The widgets of a row, with the conditions under which the page shows them."""
    used = [[other_than(f"prompt_{n}", "")] for n in range(1, ROWS + 1)]
    prompt = io.String.Input(
        f"prompt_{number}",
        default="",
        multiline=True,
        optional=True,
        tooltip=f"What region {number} shows. {QUOTES}",
    )
    box = io.String.Input(
        f"box_{number}",
        default="",
        optional=True,
        tooltip=f"Where: x,y,width,height in pixels of the picture or in percent, for example "
        f"0,0,50%,100%. Empty where mask_{number} is connected.",
    )
    row_inputs: list[io.Input] = [prompt, box]
    if number == 1:
        return row_inputs
    return [shown_if(item, *used[number - 2 :]) for item in row_inputs]


class RegionalPrompts(io.ComfyNode):
    """Words for parts of the picture."""

    KEEP_RESULTS = True

    ID = "InkstoneRegionalPrompts"
    GROWS = sockets.MASKS

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Regional Prompts",
            category="inkstone/conditioning",
            description="Gives parts of the picture prompts of their own, in one pass: the words "
            "of a region act on its box or mask alone. Works with any Qwen-Image model, and with "
            "the EliGen LoRA as it was trained.",
            search_aliases=[
                "eligen",
                "entity control",
                "regional prompting",
                "conditioning set area",
                "conditioning set mask",
                "attention couple",
                "layout",
            ],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt of the whole picture."),
                sockets.TextEncoder.Input(
                    "text_encoder", tooltip="From Load Text Encoder or Load All."
                ),
                *(item for n in range(1, ROWS + 1) for item in _row_inputs(n)),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="composed: for any model; each region is drawn like a picture of its "
                    "own. eligen: for a model with the EliGen LoRA; regions see the whole picture "
                    "and its prompt.",
                ),
                io.Float.Input(
                    "base",
                    default=USUAL_BASE,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    round=0.001,
                    tooltip="Only composed: share of the whole picture in what a region sees. 0: "
                    "regions are most independent. Higher: regions fit together better, and obey "
                    "their prompts less.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="From which fraction of the steps on regions act.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Up to which fraction of the steps regions act. Below 1: then the "
                    "prompt of the whole picture, which should name all of it, finishes the "
                    "picture alone.",
                ),
                *sockets.growing_masks(
                    "Where the region of this number is, in place of its box. Any size; it is "
                    "stretched over the picture.",
                    ROWS,
                ),
            ],
            outputs=[io.Conditioning.Output("positive_out", display_name="positive")],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        text_encoder: TextEncoderModel,
        method: str = METHODS[0],
        base: float = USUAL_BASE,
        start: float = 0.0,
        end: float = 1.0,
        **rows: object,
    ) -> io.NodeOutput:
        # **rows: the widgets of the table and the masks, see _row_inputs
        from ..pipeline.regions import RegionInputs

        sockets.require_models(text_encoder=text_encoder)
        settings = RegionSettings(method, base, start, end)
        regions = _regions(text_encoder, rows)
        inputs = RegionInputs(regions, settings).joined(region_inputs(positive))
        return io.NodeOutput(with_regions(positive, inputs))


def _regions(text_encoder: TextEncoderModel, rows: dict[str, object]) -> tuple[RegionInput, ...]:
    """The rows that have words, in order."""
    from ..pipeline.regions import region_input

    masks, regions = sockets.numbered_masks(rows), []
    for n in range(1, ROWS + 1):
        prompt = str(rows.get(f"prompt_{n}") or "").strip()
        box, mask = str(rows.get(f"box_{n}") or "").strip(), masks.get(n)
        if not prompt:
            if box or mask is not None:
                what = "a mask" if mask is not None else f"the box {box}"
                raise InkstoneError(
                    f"Region {n} has {what} and no prompt. Write what it shows, or clear the row."
                )
            continue
        if mask is None and not box:
            raise InkstoneError(
                f"Region {n} has a prompt and no place. Give it a box such as 0,0,50%,100%, or "
                f"connect mask_{n}."
            )
        if mask is not None and box:
            raise InkstoneError(
                f"Region {n} has a mask and the box {box}: expected one of them. Clear the box, or "
                "disconnect the mask."
            )
        where: Tensor | None = mask
        regions.append(
            region_input(text_encoder, n, prompt, parse_box(box) if where is None else where)
        )
    if not regions:
        raise InkstoneError(
            "Inkstone Regional Prompts has no region: write a prompt and a box in its first row, "
            "or remove the node."
        )
    return tuple(regions)
