"""Control maps from pictures: one table of kinds with their knobs, one function that makes a map.

A map has exactly the size of its picture and nothing in it has moved, whatever `resolution` it was
made at (reference: preprocessors return the size they worked at, which is the first complaint about
them). Lines are bright on black, near is white. Nothing is ever downloaded: without a file of the
user's a kind uses a method without weights and says what that can do. Nothing heavy is imported
before a map is made.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import InkstoneError

if TYPE_CHECKING:
    from torch import Tensor

Value = bool | int | float | str


@dataclass(frozen=True)
class Knob:
    """A setting: its type is its default's; low and high for numbers."""

    name: str
    default: Value
    tip: str
    low: float | None = None
    high: float | None = None

    def check(self, value: Any, kind: str) -> Value:
        """The value, as this knob's type, or InkstoneError."""
        wanted = type(self.default)
        fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value, fits = float(value), True
        if not fits or (wanted is float and not math.isfinite(value)):
            raise InkstoneError(
                f"{kind}: {self.name} is {value!r}: expected {_WORDS[wanted]}. The usual value is "
                f"{self.default!r}."
            )
        if self.low is not None and not self.low <= value <= self.high:
            raise InkstoneError(
                f"{kind}: {self.name} is {value}: expected {self.low} to {self.high}. The usual "
                f"value is {self.default}."
            )
        return value


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}

RESOLUTION = Knob(
    "resolution",
    0,
    "Shorter side in pixels to look at the picture at; 0: its own size. The map has the picture's "
    "size in any case. Other packs use 512 and return that size.",
    0,
    16384,
)
LOW = Knob(
    "low_threshold",
    100,
    "Weaker changes (0..255) are no edge. The same thresholds find fewer edges in larger pictures.",
    0,
    255,
)
HIGH = Knob("high_threshold", 200, "Stronger changes (0..255) start an edge.", 0, 255)
SAFE = Knob(
    "safe", True, "Three levels of brightness only: shading does not leak into the control."
)
HED = Knob(
    "model",
    "",
    "A HED network as .safetensors (the keys of ControlNetHED); empty: the method without weights.",
)
COARSE = Knob(
    "coarse",
    False,
    "Few broad strokes in place of fine lines. With a network: choose its coarse file instead.",
)
LINEART = Knob(
    "model",
    "",
    "The lineart generator as .safetensors: sk_model (fine) or sk_model2 (coarse); empty: the "
    "method without weights.",
)
SIGMA = Knob("gaussian_sigma", 6.0, "Lines are darker than a blur so wide, in pixels.", 0.1, 100.0)
INTENSITY = Knob("intensity_threshold", 8, "Grey levels that are no line yet.", 0, 16)
DEPTH = Knob(
    "model", "", "A Depth-Anything V2 model: .safetensors file or folder. Empty: a guess, no depth."
)
VITPOSE = Knob(
    "model",
    "",
    "A ViTPose model of transformers: .safetensors file or folder; empty: the bundled networks.",
)
POSE = (
    Knob(
        "keypoints",
        "",
        "OpenPose JSON: its text, or the path of a .json file; nobody is looked for then.",
    ),
    VITPOSE,
    Knob("detect_body", True, "Draw bodies."),
    Knob("detect_hand", True, "Draw hands, where the keypoints have them."),
    Knob("detect_face", True, "Draw faces, where the keypoints have them."),
    Knob("scale_stick_for_xinsr_cn", False, "Wider sticks, for control models of xinsir."),
)


@dataclass(frozen=True)
class MapKind:
    """A kind of map; `what` says what it is."""

    name: str
    what: str
    knobs: tuple[Knob, ...]

    def values(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """Every knob's value, checked; what is not given has its default."""
        known = {knob.name: knob for knob in self.knobs}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.4) or list(known)
                raise InkstoneError(
                    f"{self.name} has no knob {name!r}: expected {', '.join(known)}. The nearest "
                    f"is {near[0]}."
                )
        return {
            name: knob.check(given.get(name, knob.default), self.name)
            for name, knob in known.items()
        }


_ALL = (
    MapKind(
        "canny",
        "Thin edges by Canny's method, the same as OpenCV's. What the control models were trained "
        "on; no network exists or is needed.",
        (LOW, HIGH, RESOLUTION),
    ),
    MapKind(
        "soft_edge",
        "Outlines, strong ones bright. Without a file: gradients at three blurs less the texture "
        "around, which knows no things; with a HED file: that network.",
        (SAFE, HED, RESOLUTION),
    ),
    MapKind(
        "lineart",
        "Lines of ink: what is darker than its surroundings, by differences of blurs, no network. "
        "Copies drawings and clear outlines well; in photographs shadows become ink too. With a "
        "file of the lineart generator: that network.",
        (COARSE, SIGMA, INTENSITY, LINEART, RESOLUTION),
    ),
    MapKind(
        "depth",
        "Near is white. With a Depth-Anything V2 file: that network. Without one it is a guess "
        "from the layout (lower is nearer), not depth.",
        (DEPTH, RESOLUTION),
    ),
    MapKind(
        "pose",
        "Skeletons of 18 points in OpenPose's colours, drawn at the size of the picture. The "
        "bundled networks (MediaPipe's) find people who fill a good part of it, and miss small "
        "ones, many in a crowd, and all hands and faces; what is hidden they guess. With a ViTPose "
        "file: that network on the people found. With keypoints as JSON: those.",
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
        f"No kind of control map is named {name!r}: expected {', '.join(KINDS)}.{hint}"
    )


def preprocess(kind: str, picture: Tensor, knobs: Mapping[str, Any] | None = None) -> Tensor:
    """[B,H,W,1|3|4] 0..1 -> the map [B,H,W,3] float32 0..1; transparent pixels count as white.

    `knobs` by name as in KINDS[kind].knobs; pictures of a batch do not see each other.
    """
    from ...sampling.geometry import shorter_side_size
    from ...sampling.pixel_lock import check_picture, resized, size_of

    found = kind_named(kind)
    values = found.values(knobs or {})
    check_picture(picture)
    size = size_of(picture)
    work = shorter_side_size(*size, values.pop("resolution", 0))
    made = _functions()[kind](resized(on_white(picture), work), **values)
    made = made if made.dim() == 4 else made[..., None]  # [B,h,w] is grey
    return resized(made.float(), size).expand(-1, -1, -1, 3).contiguous()


def keypoints_of(picture: Tensor, knobs: Mapping[str, Any] | None = None) -> list[dict]:
    """[B,H,W,1|3|4] 0..1 and pose's knobs -> POSE_KEYPOINT documents: what `preprocess` would draw,
    and draws again when they are its `keypoints`.
    """
    from ...sampling.pixel_lock import check_picture, size_of
    from .keypoints import write_people
    from .pose import people_of

    values = kind_named("pose").values(knobs or {})
    check_picture(picture)
    people = people_of(on_white(picture), values["keypoints"], values["model"])
    return write_people(people, size_of(picture))


def _functions() -> dict[str, Callable[..., Tensor]]:
    """Of each kind: pictures [B,h,w,3] and its knobs -> [B,h,w] or [B,h,w,3]."""
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
        made = colour(picture).float()
        low, high = made.aminmax()
        return made if low >= 0 and high <= 1 else made.clamp(0, 1)  # a copy only where needed
    alpha = picture[..., 3:].float().clamp(0, 1)
    return picture[..., :3].float().clamp(0, 1) * alpha + (1 - alpha)
