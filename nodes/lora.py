"""The LoRA loader: files with a switch and a strength each, applied to a model.

The node has `ROWS` rows everywhere; the page shows those in use and a free one, which has only its
file. Several loaders in a row add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InkstoneError
from ..host import model_folders
from ..host.api import io, schema
from . import sockets
from .shown import other_than, shown_if

if TYPE_CHECKING:
    from ..loaders.lora.adapters import Adapter
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..loaders.models.text_encoder import TextEncoderModel

ROWS = 12


def row(number: int, file: str, strength: float = 1.0) -> dict[str, object]:
    """The inputs of one row, for graphs that are built here."""
    return {f"lora_{number}": file, f"strength_{number}": strength}


def _row_inputs(number: int) -> list[io.Input]:
    """The widgets of a row, with the conditions under which the page shows them."""
    file, strength = _file_input(number), _strength_input(number)
    used = [[other_than(f"lora_{n}", sockets.NO_FILE)] for n in range(1, ROWS + 1)]
    own = used[number - 1]
    on = io.Boolean.Input(
        f"on_{number}",
        default=True,
        optional=True,
        label_on="on",
        label_off="off",
        tooltip=f"Switches LoRA {number} on or off.",
    )
    if number > 1:
        file = shown_if(file, *used[number - 2 :])
    return [shown_if(on, own), file, shown_if(strength, own)]


def _file_input(number: int) -> io.Input:
    return io.Combo.Input(
        f"lora_{number}",
        options=[sockets.NO_FILE, *model_folders.model_files("loras")],
        default=sockets.NO_FILE,
        optional=True,
        tooltip="A LoRA, LoKr, LoHa or DoRA file in models/loras.",
    )


def _strength_input(number: int) -> io.Input:
    return io.Float.Input(
        f"strength_{number}",
        default=1.0,
        min=-100.0,
        max=100.0,
        step=0.05,
        round=0.001,
        optional=True,
        tooltip="1 as trained, 0 off. Changing it does not read the file again.",
    )


class LoraLoader(io.ComfyNode):
    """LoRA files on a model, as side branches of its weights."""

    ID = "InkstoneLoraLoader"
    FILES = {f"lora_{n}": sockets.ModelInput("loras", "lora") for n in range(1, ROWS + 1)}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Load LoRA",
            category="inkstone/load",
            description="Loads LoRA, LoKr, LoHa or DoRA files from any trainer and applies them to "
            "a model with weights of any format, without merging. Reports how many modules of each "
            "file were applied.",
            search_aliases=[
                "lora loader model only",
                "load lora",
                "power lora loader",
                "lora stacker",
                "lycoris lokr loha dora",
            ],
            inputs=[
                sockets.Model.Input(
                    "model", optional=True, tooltip="From Load Diffusion Model or Load All."
                ),
                sockets.TextEncoder.Input(
                    "text_encoder",
                    optional=True,
                    tooltip="Only needed for a LoRA that was also trained on the text encoder.",
                ),
                *(item for n in range(1, ROWS + 1) for item in _row_inputs(n)),
                io.String.Input(
                    "blocks",
                    default="",
                    optional=True,
                    tooltip="Strength factors for ranges of blocks, for example "
                    "0-19:0.5,20-59:1.0, for all files of this node. Empty: the same strength for "
                    "all blocks.",
                ),
            ],
            outputs=[
                sockets.Model.Output("model_out", display_name="model"),
                sockets.TextEncoder.Output("text_encoder_out", display_name="text_encoder"),
                io.String.Output("coverage", display_name="coverage"),
            ],
        )

    @classmethod
    def validate_inputs(cls, **rows: object) -> bool | str:
        # **rows: the widgets of the table, see _row_inputs
        for name in cls.FILES:
            file = rows.get(name)
            if isinstance(file, str) and file not in ("", sockets.NO_FILE):
                answer = model_folders.known_model("loras", file)
                if answer is not True:
                    return answer
        return True

    @classmethod
    def execute(
        cls,
        model: DiffusionModel | None = None,
        text_encoder: TextEncoderModel | None = None,
        blocks: str = "",
        **rows: object,
    ) -> io.NodeOutput:
        from ..loaders.lora.adapters import apply_loras

        adapters = _adapters(rows, blocks)
        if model is None:
            raise InkstoneError(
                "Inkstone Load LoRA has no model: connect the output model of a loader to it."
            )
        sockets.require_models(model=model)
        if text_encoder is not None:
            sockets.require_models(text_encoder=text_encoder)
        adapted, text, lines = apply_loras(model, text_encoder, adapters)
        return io.NodeOutput(adapted, text, "\n".join(lines))


def _adapters(rows: dict[str, object], blocks: str) -> list[Adapter]:
    """The LoRAs of the rows that are switched on and name a file, in order."""
    from ..loaders.lora.adapters import Adapter
    from ..loaders.lora.file import load_lora

    adapters = []
    for n in range(1, ROWS + 1):
        file, strength = rows.get(f"lora_{n}"), rows.get(f"strength_{n}", 1.0)
        if not rows.get(f"on_{n}", True) or file in (None, "", sockets.NO_FILE):
            continue
        if isinstance(strength, bool) or not isinstance(strength, int | float):
            raise InkstoneError(f"The strength of LoRA {n} is {strength!r}: expected a number.")
        path = model_folders.model_path("loras", str(file))
        adapters.append(Adapter(load_lora(path), strength, blocks))
    return adapters
