"""Our socket types, growing inputs, and the check that a wire carries what its input takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..errors import InkstoneError
from ..host.api import io

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

Model = io.Custom("INKSTONE_MODEL")  # loaders.models.diffusion_model.DiffusionModel
TextEncoder = io.Custom("INKSTONE_TEXT_ENCODER")  # loaders.models.text_encoder.TextEncoderModel
VAE = io.Custom("INKSTONE_VAE")  # loaders.models.vae.VAEModel
Lora = io.Custom("INKSTONE_LORA")  # loaders.lora.adapters.Adapter
Control = io.Custom("INKSTONE_CONTROL")  # loaders.models.control.ControlModel, or InContextModel
Stitch = io.Custom("INKSTONE_STITCH")  # sampling.inpaint.Repaint

NO_FILE = "none"  # a combo of files with nothing chosen
GROWN = "images"  # the growing input of pictures
MOST = 16  # pictures of a growing input
FIXED = 4  # sockets on a host without growing inputs
PICTURES = (f"{GROWN}.picture_", MOST + 1)  # GROWS of a node with pictures
GROWN_MASKS = "masks"  # the growing input of masks
MASKS = (f"{GROWN_MASKS}.mask_", MOST + 1)  # GROWS of a node with masks

Kind = TypeVar("Kind")


class ModelInput(NamedTuple):
    """An input of a loader that names a model file: its folder under models/, and the file's role
    ("" for a folder with several). Loader nodes list theirs as `FILES`, which `inkstone check`,
    `convert` and `run` read.
    """

    folder: str
    role: str


def growing_pictures(tip: str, least: int = 1) -> list[io.Input]:
    """Inputs for pictures that grow as they are connected; on hosts without them `FIXED` sockets,
    with the names that a growing input writes into a graph. `least` (0 or 1) must be connected.
    """

    def socket(name: str, label: str | None) -> io.Input:
        needed = least == 1 and name.endswith("_1")
        return io.Image.Input(name, display_name=label, optional=not needed, tooltip=tip)

    names = [f"picture_{n}" for n in range(1, MOST + 1)]
    return _growing(GROWN, names, socket, tip, least)


def growing_masks(tip: str, most: int) -> list[io.Input]:
    """Inputs for up to `most` masks, as `growing_pictures`; none must be connected."""

    def socket(name: str, label: str | None) -> io.Input:
        return io.Mask.Input(name, display_name=label, optional=True, tooltip=tip)

    return _growing(GROWN_MASKS, [f"mask_{n}" for n in range(1, most + 1)], socket, tip, 0)


def _growing(
    group: str,
    names: list[str],
    socket: Callable[[str, str | None], io.Input],
    tip: str,
    least: int,
) -> list[io.Input]:
    """One growing input, or the first `FIXED` of its sockets. socket: of a name and a label."""
    if hasattr(io, "Autogrow"):
        template = io.Autogrow.TemplateNames(socket(names[0], None), names=names, min=least)
        return [io.Autogrow.Input(group, template=template, tooltip=tip)]
    return [socket(f"{group}.{n}", n.replace("_", " ").capitalize()) for n in names[:FIXED]]


def numbered_masks(inputs: Mapping[str, object]) -> dict[int, Tensor]:
    """The masks that are connected, by number; inputs: of a node, on hosts of both kinds."""
    import torch

    grown = inputs.get(GROWN_MASKS)
    every = {**(grown if isinstance(grown, dict) else {}), **inputs}
    start = f"{GROWN_MASKS}.mask_"
    return {
        int(name.rpartition("_")[2]): value
        for name, value in every.items()
        if isinstance(value, torch.Tensor) and name.startswith((start, "mask_"))
    }


def writing_inputs(usual: float, tips: tuple[str, str], *between: io.Input) -> list[io.Input]:
    """Temperature and seed of a text that is written. usual: the temperature; tips: of both;
    between: further inputs of the choice.
    """
    return [
        io.Float.Input("temperature", default=usual, min=0.0, max=2.0, step=0.05, tooltip=tips[0]),
        *between,
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=False,  # a new seed alone would write another text
            tooltip=tips[1],
        ),
    ]


def connected(
    images: Mapping[str, Tensor | None] | None, fixed: Mapping[str, Tensor | None]
) -> list[Tensor]:
    """The values of growing inputs, by number; gaps close up."""
    by_number = {
        int(name.rpartition("_")[2]): image
        for name, image in ({**(images or {}), **fixed}).items()
        if image is not None
    }
    return [by_number[number] for number in sorted(by_number)]


def require_type(value: object, kind: type[Kind], name: str, node: str) -> Kind:
    """The value, or InkstoneError where a hand-written API graph connects something else."""
    if not isinstance(value, kind):
        raise InkstoneError(
            f"The input {name} got {type(value).__name__}: expected the output of {node}. Connect "
            "that node."
        )
    return value


def require_models(**wires: object) -> None:
    """Refuses wires `model`, `text_encoder`, `vae` that carry something else."""
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..loaders.models.text_encoder import TextEncoderModel
    from ..loaders.models.vae import VAEModel

    kinds: dict[str, tuple[type, str]] = {
        "model": (DiffusionModel, "Diffusion Model"),
        "text_encoder": (TextEncoderModel, "Text Encoder"),
        "vae": (VAEModel, "VAE"),
    }
    for name, value in wires.items():
        kind, label = kinds[name]
        require_type(value, kind, name, f"Inkstone Load {label}")
