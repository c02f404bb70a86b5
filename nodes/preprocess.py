"""The preprocessor node: makes a control map from a picture and shows it on the node."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from ..controlnet.preprocess.kinds import COARSE, HIGH, KINDS, LOW, RESOLUTION, SAFE, Knob
from ..host import model_folders
from ..host.api import io, schema, ui
from .shown import among, shown_if, unconnected

if TYPE_CHECKING:
    from torch import Tensor

    from ..controlnet.preprocess.kinds import Value

log = logging.getLogger(__name__)

NO_FILE = "none: the method without weights"
_FOLDER = "annotators"
_TYPES = " ".join(f"{kind.name}: {kind.what}" for kind in KINDS.values())


class ControlPicture(io.ComfyNode):
    """A control map of a picture."""

    ID = "InkstoneControlPicture"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Control Picture",
            category="inkstone/control",
            description="Makes the control map for a ControlNet, in exactly the picture's size. "
            "Nothing is downloaded.",
            search_aliases=[
                "aio aux preprocessor",
                "canny edge",
                "hed soft edge lines",
                "depth anything v2",
                "midas depth map",
                "lineart",
                "openpose",
                "dwpose estimator",
            ],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch."),
                io.Combo.Input("type", options=list(KINDS), default="canny", tooltip=_TYPES),
                *(_widget(knob) for knob in (RESOLUTION, LOW, HIGH, SAFE, COARSE)),
                _model_input(),
                _keypoints_input(),
                io.Custom("POSE_KEYPOINT").Input(
                    "pose_keypoint",
                    optional=True,
                    tooltip="For pose: keypoints from another pack's OpenPose or DWPose node.",
                ),
            ],
            outputs=[
                io.Image.Output("control_picture", display_name="control picture"),
                io.Custom("POSE_KEYPOINT").Output(
                    "pose_keypoint_out",
                    display_name="pose keypoint",
                    tooltip="For pose: the keypoints that were drawn. Empty for all other types.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        return model == NO_FILE or model_folders.known_model(_FOLDER, model)

    @classmethod
    def execute(
        cls,
        image: Tensor,
        type: str,
        model: str,
        keypoints: str,
        pose_keypoint: object = None,
        **knobs: Value,
    ) -> io.NodeOutput:
        # **knobs: the widgets of the table; each type uses its own
        from ..controlnet.preprocess.kinds import keypoints_of, kind_named, preprocess

        knobs["model"] = "" if model == NO_FILE else str(model_folders.model_path(_FOLDER, model))
        knobs["keypoints"] = keypoints if pose_keypoint is None else json.dumps(pose_keypoint)
        own = {knob.name for knob in kind_named(type).knobs}
        _name_unused(type, {n: v for n, v in knobs.items() if n not in own})
        if pose_keypoint is not None and keypoints.strip() and "keypoints" in own:
            log.warning("Control Picture: pose_keypoint is connected, so keypoints is not read")
        knobs = {n: v for n, v in knobs.items() if n in own}
        people = keypoints_of(image, knobs) if type == "pose" else []
        knobs |= {"keypoints": json.dumps(people)} if type == "pose" else {}
        result = preprocess(type, image, knobs)
        return io.NodeOutput(result, people, ui=ui.PreviewImage(result, cls=cls))


def _name_unused(type: str, knobs: dict[str, Value]) -> None:
    """One line for options that are set although this type has none of them."""
    usual = {knob.name: knob.default for kind in KINDS.values() for knob in kind.knobs}
    given = [name for name, value in knobs.items() if value not in (usual[name], "")]
    if given:
        log.warning("Control Picture: %s has no option %s: ignored", type, ", ".join(given))


def _model_input() -> io.Input:
    model = io.Combo.Input(
        "model",
        options=[NO_FILE, *model_folders.model_files(_FOLDER)],
        default=NO_FILE,
        tooltip="A .safetensors file in models/annotators: HED for soft_edge, the lineart "
        "generator for lineart, Depth-Anything V2 for depth, ViTPose for pose. Canny needs none.",
    )
    return shown_if(model, [among("type", _users("model"))])


def _keypoints_input() -> io.Input:
    keypoints = io.String.Input(
        "keypoints",
        multiline=True,
        default="",
        tooltip="For pose: OpenPose JSON (the text itself, not a path) to draw instead of "
        "detecting people. Empty: people are detected.",
    )
    return shown_if(keypoints, [among("type", _users("keypoints")), unconnected("pose_keypoint")])


def _widget(knob: Knob) -> io.Input:
    """An integer or a switch, with the knob's description, shown for the types that use it."""
    users = _users(knob.name)
    tip = f"For {', '.join(users)}. {knob.tip}"
    if isinstance(knob.default, bool):
        widget = io.Boolean.Input(knob.name, default=knob.default, tooltip=tip)
    else:
        low, high = int(knob.low or 0), int(knob.high or 0)
        widget = io.Int.Input(knob.name, default=knob.default, min=low, max=high, tooltip=tip)
    return shown_if(widget, [among("type", users)])


def _users(name: str) -> list[str]:
    """The types that have an option of this name."""
    return [kind.name for kind in KINDS.values() if name in {knob.name for knob in kind.knobs}]
