"""The part of ComfyUI's node interface that our nodes use, for machines without ComfyUI.

`io`, `ui` and `ComfyExtension` have the surface of the oldest host we support (0.3.64) and nothing
more: a field that host would refuse is a TypeError here too, so tests catch it. What differs: no V1
view of a node, no per-run lock of the class. Nodes get these names through host/api.py only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar

from .headless import saves_previews
from .save_images import save_pictures

if TYPE_CHECKING:
    from .save_images import Pictures

_COMMON: dict[str, object] = {
    "display_name": None,
    "optional": False,
    "tooltip": None,
    "lazy": None,
}
_WIDGET: dict[str, object] = _COMMON | {"default": None, "socketless": None, "force_input": None}
_RANGE: dict[str, object] = {"min": None, "max": None, "step": None}

# io_type -> (name in `io`, extra input fields besides the widget's own; None = a plain socket)
_KINDS: dict[str, tuple[str, dict[str, object] | None]] = {
    "INT": ("Int", _RANGE | {"control_after_generate": None, "display_mode": None}),
    "FLOAT": ("Float", _RANGE | {"round": None, "display_mode": None}),
    "STRING": ("String", {"multiline": False, "placeholder": None, "dynamic_prompts": None}),
    "BOOLEAN": ("Boolean", {"label_on": None, "label_off": None}),
    "COMBO": (
        "Combo",
        {"control_after_generate": None, "upload": None, "image_folder": None, "remote": None},
    ),
    "IMAGE": ("Image", None),
    "MASK": ("Mask", None),
    "LATENT": ("Latent", None),
    "CONDITIONING": ("Conditioning", None),
    "SIGMAS": ("Sigmas", None),
    "SAMPLER": ("Sampler", None),
    "NOISE": ("Noise", None),
    "GUIDER": ("Guider", None),
    "MODEL": ("Model", None),
    "CLIP": ("Clip", None),
    "VAE": ("Vae", None),
    "CONTROL_NET": ("ControlNet", None),
    "*": ("AnyType", None),
}


class _Socket:
    """Base of every input and output: `io_type` of its kind."""

    io_type: ClassVar[str] = "*"

    def get_io_type(self) -> str:
        return self.io_type


class _InputBase(_Socket):
    """Inputs: the id comes first, everything else by name; combos take Enum classes as options."""

    options: object
    default: object
    extra_dict: dict[str, object]  # passed on to the page; widgets take none at their creation

    if TYPE_CHECKING:  # made by dataclasses.make_dataclass

        def __init__(self, id: str, **fields: object) -> None: ...

    def __post_init__(self) -> None:
        options = getattr(self, "options", None)
        if isinstance(options, type) and issubclass(options, Enum):
            self.options = [item.value for item in options]
        default = getattr(self, "default", None)
        if isinstance(default, Enum) and self.io_type == "COMBO":
            self.default = default.value
        self.extra_dict = {}


def _fields(values: dict[str, object]) -> list[tuple[str, object, object]]:
    """Dataclass fields with these defaults."""
    return [(name, object, field(default=value)) for name, value in values.items()]


def _make_input(io_type: str, extra: dict[str, object] | None) -> type[_InputBase]:
    """The Input class of one kind, a dataclass whose only fields are the ones the host knows."""
    options: dict[str, object] = {"options": None} if io_type == "COMBO" else {}
    values = options | (_COMMON if extra is None else _WIDGET | extra)
    input: type[_InputBase] = make_dataclass(
        "Input", [("id", str), *_fields(values)], bases=(_InputBase,)
    )
    input.io_type = io_type
    return input


def _make_kind(io_type: str, extra: dict[str, object] | None = None) -> type:
    """The class `io.Image`, `io.Int`, ...: holds io_type, Input and Output."""
    options: dict[str, object] = {"options": None} if io_type == "COMBO" else {}
    names: dict[str, object] = {"id": None, "display_name": None}
    values = names | options | {"tooltip": None, "is_output_list": False}
    output: type[_Socket] = make_dataclass("Output", _fields(values), bases=(_Socket,))
    output.io_type = io_type
    return type(
        io_type, (), {"io_type": io_type, "Input": _make_input(io_type, extra), "Output": output}
    )


class _MultiType:
    """An input that takes several types: `MultiType.Input("x", [io.Int, io.Float])`."""

    @staticmethod
    def Input(
        id: str, types: list[type[_Socket]], optional: bool = False, tooltip: str | None = None
    ) -> _InputBase:
        input = _make_input(",".join(kind.io_type for kind in types), None)
        return input(id, optional=optional, tooltip=tooltip)


class Hidden(str, Enum):
    """Values that the executor gives a node through `cls.hidden`."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"


class FolderType(str, Enum):
    """The folder of a picture."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    """Marks a combo that has an upload button."""

    image = "image_upload"


class NumberDisplay(str, Enum):
    """The look of a number widget."""

    number = "number"
    slider = "slider"


@dataclass
class Schema:
    """Describes a node: ids, sockets and flags, with the fields of host 0.3.64."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[_InputBase] | None = None
    outputs: list[_Socket] | None = None
    hidden: list[Hidden] | None = None
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False

    def validate(self) -> None:
        """Input and output ids must be unique, and must not meet. Raises ValueError."""
        sockets = [*(self.inputs or []), *(self.outputs or [])]
        ids = [name for name in (getattr(item, "id", None) for item in sockets) if name]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"Node {self.node_id}: the ids {twice} are used more than once.")


class NodeOutput:
    """The result of execute(): values by output slot, and what the page shows."""

    def __init__(
        self,
        *args: object,
        ui: object = None,
        expand: dict[str, object] | None = None,
        block_execution: str | None = None,
    ) -> None:
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    @property
    def result(self) -> tuple[object, ...] | None:
        return self.args or None

    def __getitem__(self, index: int) -> object:
        return self.args[index]


class ComfyNode:
    """Base of the node classes: classmethods only, no state."""

    hidden: object = None

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError(f"{cls.__name__} has no define_schema")

    @classmethod
    def execute(cls) -> NodeOutput:
        raise NotImplementedError(f"{cls.__name__} has no execute")

    @classmethod
    def validate_inputs(cls) -> bool | str:
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls) -> object:
        raise NotImplementedError

    @classmethod
    def check_lazy_status(cls, **inputs: object) -> list[str]:
        """ComfyUI calls it with every input by name; by default it requests all missing ones."""
        return [name for name, value in inputs.items() if value is None]

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The validated schema."""
        schema = cls.define_schema()
        schema.validate()
        return schema


class ComfyExtension:
    """A pack's list of nodes."""

    async def on_load(self) -> None:
        return None

    async def get_node_list(self) -> list[type[ComfyNode]]:
        raise NotImplementedError


class PreviewText:
    """Shows a text on the node."""

    def __init__(self, value: str, **_host_fields: object) -> None:
        self.value = value

    def as_dict(self) -> dict[str, object]:
        return {"text": [self.value]}


class PreviewImage:
    """Shows pictures [B,H,W,C] on the node; they are saved in the temp folder, if the host
    wants previews.
    """

    def __init__(
        self, image: Pictures, animated: bool = False, cls: type[ComfyNode] | None = None
    ) -> None:
        hidden = getattr(cls, "hidden", None)
        self.values = (
            save_pictures(image, "inkstone_preview", "temp", hidden) if saves_previews() else []
        )

    def as_dict(self) -> dict[str, object]:
        return {"images": self.values}


def Custom(io_type: str) -> type:
    """A socket type of our own; links connect when the strings are equal."""
    return _make_kind(io_type)


_COMMON_NAMES = {
    item.__name__: item
    for item in (
        Hidden,
        FolderType,
        UploadType,
        NumberDisplay,
        Schema,
        NodeOutput,
        ComfyNode,
        Custom,
    )
}
io = SimpleNamespace(
    **_COMMON_NAMES,
    **{name: _make_kind(io_type, extra) for io_type, (name, extra) in _KINDS.items()},
    MultiType=_MultiType,
)
ui = SimpleNamespace(PreviewText=PreviewText, PreviewImage=PreviewImage)
