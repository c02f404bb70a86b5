"""ControlNet nodes: load a ControlNet file, apply it to a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host import model_folders
from ..host.api import io, schema
from ..host.settings import precision
from ..sampling.geometry import FITS
from . import sockets
from .conditioning import prompt_of, with_control
from .load import AUTO, EMBEDDED, dtype_input, load_options

if TYPE_CHECKING:
    from torch import Tensor

    from ..controlnet.in_context import InContextModel
    from ..loaders.models.control import ControlModel
    from ..loaders.models.vae import VAEModel
    from .conditioning import Conditioning


class LoadControlNet(io.ComfyNode):
    """A ControlNet from one file."""

    ID = "InkstoneLoadControlNet"
    FILES = {"control": sockets.ModelInput("controlnet", "controlnet")}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Load ControlNet",
            category="inkstone/load",
            description="Loads a ControlNet for Qwen-Image: InstantX Union (canny, soft edge, "
            "depth, pose) or Inpainting, DiffSynth's blockwise files (canny, depth, inpaint) and "
            "in-context LoRA, Fun Union for 2512. The kind is detected from the file's content; "
            "any weight format works.",
            search_aliases=[
                "load controlnet model",
                "controlnet loader",
                "union controlnet",
                "instantx",
                "diffsynth",
                "model patch loader",
            ],
            inputs=[
                io.Combo.Input(
                    "control",
                    options=[EMBEDDED, *model_folders.model_files("controlnet")],
                    default=EMBEDDED,
                    tooltip="A file in models/controlnet, or the ControlNet of the embedded model.",
                ),
                dtype_input(),
            ],
            outputs=[sockets.Control.Output("control_out", display_name="control")],
        )

    @classmethod
    def validate_inputs(cls, control: str) -> bool | str:
        return control == EMBEDDED or model_folders.known_model("controlnet", control)

    @classmethod
    def fingerprint_inputs(cls, control: str, dtype: str) -> str:
        return precision() if dtype == AUTO else dtype

    @classmethod
    def execute(cls, control: str, dtype: str) -> io.NodeOutput:
        from ..controlnet.in_context import load_any_control
        from ..loaders.models.load import EMBEDDED_FOLDER

        path = (
            EMBEDDED_FOLDER
            if control == EMBEDDED
            else model_folders.model_path("controlnet", control)
        )
        return io.NodeOutput(load_any_control(path, load_options(dtype)))


def _fraction(name: str, default: float, tip: str) -> io.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, round=0.001, tooltip=tip
    )


class ApplyControlNet(io.ComfyNode):
    """A ControlNet with its picture, added to a prompt."""

    ID = "InkstoneApplyControlNet"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Apply ControlNet",
            category="inkstone/conditioning",
            description="Adds a ControlNet to the positive prompt; several in a row add up. Its "
            "picture is encoded at the size of the result. The ControlNet runs once per step, only "
            "in the steps from start to end.",
            search_aliases=["controlnet apply advanced", "canny", "depth", "pose"],
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="The encoded prompt. The ControlNet also acts on the negative prompt.",
                ),
                sockets.Control.Input("control", tooltip="From Inkstone Load ControlNet."),
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.Image.Input(
                    "image",
                    tooltip="The control map (edges, depth, pose), or the picture itself for "
                    "inpainting, in the size of the result or any other (see fit). One for the "
                    "whole batch, or one for each picture.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Strength of the ControlNet: 1 as trained, 0 off. 0.8 to 1 is usual.",
                ),
                _fraction(
                    "start", 0.0, "Where it starts, as a fraction of the steps: 0 is the first one."
                ),
                _fraction(
                    "end",
                    1.0,
                    "Where it ends, as a fraction of the steps (not of the noise): 0.5 with 30 "
                    "steps is after step 15.",
                ),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="Fun Union only: the picture to inpaint, in addition to the control "
                    "map. Leave it unconnected for all others.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="For inpainting (required): the area to inpaint. For all others: the "
                    "area where the ControlNet acts. Any size; it is stretched over the picture.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=FITS[0],
                    optional=True,
                    tooltip="For an image of another aspect ratio than the result. crop: its "
                    "middle is used, as core does. stretch: all of it, out of proportion. pad: all "
                    "of it, with black around. refuse: an error.",
                ),
            ],
            outputs=[io.Conditioning.Output("positive_out", display_name="positive")],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        control: ControlModel | InContextModel,
        vae: VAEModel,
        image: Tensor,
        strength: float,
        start: float,
        end: float,
        mask: Tensor | None = None,
        source: Tensor | None = None,
        fit: str = FITS[0],
    ) -> io.NodeOutput:
        from ..controlnet.control_picture import ControlInput, Effect
        from ..controlnet.in_context import InContextModel, check_prompt
        from ..loaders.models.control import ControlModel

        sockets.require_models(vae=vae)
        if isinstance(control, InContextModel):
            check_prompt(prompt_of(positive), control.path.name)
        else:
            sockets.require_type(control, ControlModel, "control", "Inkstone Load ControlNet")
        effect = Effect(strength, start, end)
        picture = ControlInput(control, vae, image, effect, mask, source, fit)
        return io.NodeOutput(with_control(positive, picture))
