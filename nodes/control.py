"""ControlNet nodes: a control file, and what it does to a drawing."""

from __future__ import annotations

from typing import Any

from ..host import model_folders
from ..host.api import io, schema
from . import sockets
from .load import EMBEDDED, dtype_input, wanted


class LoadControlNet(io.ComfyNode):
    """A control from one file."""

    ID = "InkstoneLoadControlNet"
    FILES = {"control": sockets.ModelInput("controlnet", "controlnet")}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Load ControlNet",
            category="inkstone/load",
            description="Loads a control of Qwen-Image: InstantX Union (canny, soft edge, depth, "
            "pose) or Inpainting, DiffSynth's blockwise files (canny, depth, inpaint) and "
            "in-context LoRA, Fun Union for 2512; told apart by the file itself, in any storage "
            "type.",
            search_aliases=["controlnet", "union", "instantx", "control loader"],
            inputs=[
                io.Combo.Input(
                    "control",
                    options=[EMBEDDED, *model_folders.model_files("controlnet")],
                    default=EMBEDDED,
                    tooltip="A file in models/controlnet, or the small one of the embedded model.",
                ),
                dtype_input(),
            ],
            outputs=[sockets.Control.Output("control_out", display_name="control")],
        )

    @classmethod
    def validate_inputs(cls, control: str) -> bool | str:
        return control == EMBEDDED or model_folders.known_model("controlnet", control)

    @classmethod
    def execute(cls, control: str, dtype: str) -> io.NodeOutput:
        from ..controlnet.in_context import opened
        from ..loaders.models.load import EMBEDDED_FOLDER

        path = (
            EMBEDDED_FOLDER
            if control == EMBEDDED
            else model_folders.model_path("controlnet", control)
        )
        return io.NodeOutput(opened(path, wanted(dtype)))


def _fraction(name: str, default: float, tip: str) -> Any:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, round=0.001, tooltip=tip
    )


class ApplyControlNet(io.ComfyNode):
    """A control picture on a prompt."""

    ID = "InkstoneApplyControlNet"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Apply ControlNet",
            category="inkstone/conditioning",
            description="Adds a control to the positive prompt; several behind one another add "
            "up. Its picture is encoded at the size of what is drawn. The control runs once per "
            "step, only in the steps in which it acts.",
            search_aliases=["controlnet apply", "control", "canny", "depth", "pose"],
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="The encoded prompt. The negative needs no control: it gets the same.",
                ),
                sockets.Control.Input("control", tooltip="From Inkstone Load ControlNet."),
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.Image.Input(
                    "image",
                    tooltip="The map (edges, depth, pose), or for inpainting the picture itself. "
                    "Of the size of what is drawn, or of its ratio; one for all pictures of the "
                    "batch or one for each.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="1 as trained, 0 off. 0.8 to 1 is usual for each kind of map.",
                ),
                _fraction("start", 0.0, "First part of the steps in which it acts, 0 to 1."),
                _fraction(
                    "end",
                    1.0,
                    "Last part of the steps in which it acts. Fractions of the steps, not of the "
                    "noise: 0.5 of 30 steps is the first 15.",
                ),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="Fun Union only: the picture that is repainted inside the mask, beside "
                    "the map. All others leave it open.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Inpainting: what is drawn anew (needed). All other controls: where "
                    "on the picture they act. Of any size, stretched over the picture.",
                ),
            ],
            outputs=[io.Conditioning.Output("positive_out", display_name="positive")],
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        control: Any,
        vae: Any,
        image: Any,
        strength: float,
        start: float,
        end: float,
        mask: Any = None,
        source: Any = None,
    ) -> io.NodeOutput:
        from ..controlnet.control_picture import ControlInput, Effect
        from ..controlnet.in_context import InContextModel, check_prompt
        from ..loaders.models.control import ControlModel

        sockets.require_models(vae=vae)
        if isinstance(control, InContextModel):
            check_prompt(sockets.prompt_of(positive), control.path.name)
        else:
            sockets.require_type(control, ControlModel, "control", "Inkstone Load ControlNet")
        made = ControlInput(control, vae, image, Effect(strength, start, end), mask, source)
        return io.NodeOutput(sockets.with_control(positive, made))
