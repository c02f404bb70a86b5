"""Control maps from pictures: one table of kinds with their options, one function to make a map.

A map has exactly the size of its picture and nothing in it is shifted, whatever `resolution` it was
made at (other packs' preprocessors return the size they worked at, which is the first complaint
about them). Lines are bright on black, near is white. Nothing is ever downloaded: without a file of
the user a kind uses a method without weights and documents its limits. Nothing heavy is imported
before a map is made.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import InkstoneError

if TYPE_CHECKING:
    from torch import Tensor

Value = bool | int | float | str


@dataclass(frozen=True)
class Knob:
    """An option of a kind, with the type of its default; low and high for numbers."""

    name: str
    default: Value
    tip: str
    low: float | None = None
    high: float | None = None

    def check(self, value: object, kind: str) -> Value:
        """The value with this option's type, or InkstoneError."""
        expected = type(self.default)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if (
            not isinstance(value, (bool, int, float, str))
            or not isinstance(value, expected)
            or (expected is int and isinstance(value, bool))
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            raise InkstoneError(
                f"{kind}: {self.name} is {value!r}: expected {_WORDS[expected]}. The default is "
                f"{self.default!r}."
            )
        low, high = self.low, self.high
        if low is not None and high is not None and not low <= float(value) <= high:
            raise InkstoneError(
                f"{kind}: {self.name} is {value}: expected {self.low} to {self.high}. The "
                f"default is {self.default}."
            )
        return value


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}

RESOLUTION = Knob(
    "resolution",
    0,
    "Working resolution: the shorter side in pixels; 0: the picture's own size. The map always has "
    "the picture's size. Other packs use 512 and return that size.",
    0,
    16384,
)
LOW = Knob(
    "low_threshold",
    100,
    "Gradients below this value (0..255) are not edges. Larger pictures have fewer edges at the "
    "same value.",
    0,
    255,
)
HIGH = Knob("high_threshold", 200, "Gradients above this value (0..255) start an edge.", 0, 255)
SAFE = Knob("safe", True, "Use only three levels of brightness: no shading leaks into the map.")
HED = Knob(
    "model",
    "",
    "A HED network (.safetensors with the keys of ControlNetHED). Empty: the method without "
    "weights.",
)
COARSE = Knob(
    "coarse",
    False,
    "Draw a few broad strokes, not fine lines. With a network, choose its coarse file instead.",
)
LINEART = Knob(
    "model",
    "",
    "The lineart generator (.safetensors): sk_model (fine) or sk_model2 (coarse). Empty: the "
    "method without weights.",
)
SIGMA = Knob(
    "gaussian_sigma", 6.0, "Width in pixels of the blur that lines are compared to.", 0.1, 100.0
)
INTENSITY = Knob(
    "intensity_threshold",
    8,
    "How many grey levels darker than its surroundings a line must be at least.",
    0,
    16,
)
DEPTH = Knob(
    "model",
    "",
    "A Depth-Anything V2 model: .safetensors file or folder. Empty: only a rough guess.",
)
VITPOSE = Knob(
    "model",
    "",
    "A ViTPose model in the format of transformers: .safetensors file or folder. Empty: the "
    "bundled networks.",
)
POSE = (
    Knob("keypoints", "", "OpenPose JSON, as text, instead of detecting people."),
    VITPOSE,
    Knob("detect_body", True, "Draw bodies."),
    Knob("detect_hand", True, "Draw hands, if the keypoints have them."),
    Knob("detect_face", True, "Draw faces, if the keypoints have them."),
    Knob("scale_stick_for_xinsr_cn", False, "Draw wider sticks, for the ControlNets of xinsir."),
)


@dataclass(frozen=True)
class MapKind:
    """A kind of map; `what` describes it."""

    name: str
    what: str
    knobs: tuple[Knob, ...]

    def values(self, options: Mapping[str, object]) -> dict[str, Value]:
        """Every option's value, checked; defaults for the missing ones."""
        known = {knob.name: knob for knob in self.knobs}
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.4) or list(known)
                raise InkstoneError(
                    f"{self.name} has no option {name!r}: expected {', '.join(known)}. Did you "
                    f"mean {near[0]}?"
                )
        return {
            name: knob.check(options.get(name, knob.default), self.name)
            for name, knob in known.items()
        }


_ALL = (
    MapKind(
        "canny",
        "Thin edges, identical to those of OpenCV's Canny, which ControlNets were trained on. "
        "Needs no network.",
        (LOW, HIGH, RESOLUTION),
    ),
    MapKind(
        "soft_edge",
        "Soft outlines; stronger ones are brighter. Uses the HED network if you choose its file. "
        "Without one: gradients at three blurs minus the local texture, which does not recognize "
        "objects.",
        (SAFE, HED, RESOLUTION),
    ),
    MapKind(
        "lineart",
        "A line drawing. Uses the lineart generator if you choose its file. Without one: "
        "everything darker than its surroundings, which copies drawings and clear outlines well "
        "but also turns the shadows of photographs into lines.",
        (COARSE, SIGMA, INTENSITY, LINEART, RESOLUTION),
    ),
    MapKind(
        "depth",
        "A depth map; near is white. Uses Depth-Anything V2 if you choose its file. Without one: "
        "only a guess from the layout (lower is nearer).",
        (DEPTH, RESOLUTION),
    ),
    MapKind(
        "pose",
        "OpenPose skeletons of 18 points, drawn at the size of the picture. The bundled networks "
        "(MediaPipe's) detect people who fill a good part of it; they miss small ones, many in a "
        "crowd, and all hands and faces, and guess hidden points. Uses ViTPose on the detected "
        "people if you choose its file, or your keypoints if you give them as JSON.",
        POSE,
    ),
)
KINDS: dict[str, MapKind] = {kind.name: kind for kind in _ALL}


def kind_named(name: str) -> MapKind:
    """A kind of the table, or InkstoneError with the nearest."""
    if name in KINDS:
        return KINDS[name]
    near = difflib.get_close_matches(str(name), KINDS, 1, 0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InkstoneError(
        f"There is no control map type {name!r}: expected {', '.join(KINDS)}.{hint}"
    )


def preprocess(kind: str, picture: Tensor, knobs: Mapping[str, object] | None = None) -> Tensor:
    """[B,H,W,1|3|4] 0..1 -> the map [B,H,W,3] float32 0..1; transparent pixels count as white.

    `knobs` by name as in KINDS[kind].knobs; pictures of a batch do not see each other.
    """
    from ...sampling.geometry import shorter_side_size
    from ...sampling.pixel_lock import check_picture, resized, size_of

    values = kind_named(kind).values(knobs or {})
    check_picture(picture)
    size = size_of(picture)
    work = shorter_side_size(*size, int(values.pop("resolution", 0)))
    result = _functions()[kind](resized(on_white(picture), work), **values)
    result = result if result.dim() == 4 else result[..., None]  # [B,h,w] is grey
    return resized(result.float(), size).expand(-1, -1, -1, 3).contiguous()


def keypoints_of(
    picture: Tensor, knobs: Mapping[str, object] | None = None
) -> list[dict[str, object]]:
    """[B,H,W,1|3|4] 0..1 and pose's options -> POSE_KEYPOINT documents: `preprocess` draws the same
    if it gets them as its `keypoints`.
    """
    from ...sampling.pixel_lock import check_picture, size_of
    from .keypoints import write_people
    from .pose import people_of

    values = kind_named("pose").values(knobs or {})
    check_picture(picture)
    people = people_of(on_white(picture), str(values["keypoints"]), str(values["model"]))
    return write_people(people, size_of(picture))


def _functions() -> dict[str, Callable[..., Tensor]]:
    """Kind -> function of pictures [B,h,w,3] and its options -> [B,h,w] or [B,h,w,3]."""
    from .canny import canny
    from .depth import depth
    from .lineart import lineart
    from .pose import pose
    from .soft_edge import soft_edge

    return {f.__name__: f for f in (canny, depth, lineart, pose, soft_edge)}


def on_white(picture: Tensor) -> Tensor:
    """[B,H,W,1|3|4] -> [B,H,W,3] float32; alpha is blended on white."""
    from ...sampling.pixel_lock import colour

    if picture.shape[-1] != 4:
        pixels = colour(picture).float()
        low, high = pixels.aminmax()
        return pixels if low >= 0 and high <= 1 else pixels.clamp(0, 1)  # copies only if needed
    alpha = picture[..., 3:].float().clamp(0, 1)
    return picture[..., :3].float().clamp(0, 1) * alpha + (1 - alpha)
