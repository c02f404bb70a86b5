"""The Camera Angle node: the prompt of a camera position, chosen from lists."""

from __future__ import annotations

from ..errors import InkstoneError
from ..host.api import io, schema
from ..pipeline.camera_choices import AROUND, DISTANCES, EYE_LEVEL, HEIGHTS, MEDIUM, camera_prompt

_LISTS = {"around": AROUND, "height": HEIGHTS, "distance": DISTANCES}


class CameraAngle(io.ComfyNode):
    """Where the camera is -> the prompt that the angle LoRA was trained with."""

    ID = "InkstoneCameraAngle"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Camera Angle",
            category="inkstone/conditioning",
            description="Writes the prompt for another view of a picture, in the words of the LoRA "
            "Qwen-Image-Edit-2511-Multiple-Angles.",
            search_aliases=["multiple angles", "novel view", "rotate camera", "camera control"],
            inputs=[
                io.Combo.Input(
                    "around",
                    options=list(AROUND),
                    default=AROUND[1],
                    tooltip="Which side of the subject the camera sees, in steps of 45 degrees.",
                ),
                io.Combo.Input(
                    "height",
                    options=list(HEIGHTS),
                    default=EYE_LEVEL,
                    tooltip="From below, at eye level, from slightly above, or from high above.",
                ),
                io.Combo.Input(
                    "distance",
                    options=list(DISTANCES),
                    default=MEDIUM,
                    tooltip="How near the camera is.",
                ),
            ],
            outputs=[io.String.Output("prompt", display_name="prompt")],
        )

    @classmethod
    def execute(cls, around: str, height: str, distance: str) -> io.NodeOutput:
        chosen = {"around": around, "height": height, "distance": distance}
        for name, value in chosen.items():
            if value not in _LISTS[name]:
                raise InkstoneError(
                    f"{name} is {value!r}: expected one of {', '.join(_LISTS[name])}."
                )
        return io.NodeOutput(camera_prompt(around, height, distance))
