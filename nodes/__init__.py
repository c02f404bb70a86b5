"""The literal list of our nodes, and the extension that hands it to the host."""

from __future__ import annotations

from ..errors import InkstoneError
from ..host.api import ComfyExtension, io
from ..host.progress import listen
from .bridge.nodes import ToCLIP, ToModel, ToVAE
from .control import ApplyControlNet, LoadControlNet
from .decode import Decode
from .edit import EncodeEdit, EncodeLayers, ImageToLatent, SplitLayers
from .encode import EncodePrompt
from .info import ModelInfo
from .inpaint import Inpaint, PadForOutpaint, StitchPart
from .load import LoadAll, LoadDiffusionModel, LoadTextEncoder, LoadVAE
from .lora import LoadLora, LoraStack
from .preprocess import ControlPicture
from .quantize import Quantize
from .sample import Denoise, EmptyLatent, ScheduleSigmas

NODES: list[type[io.ComfyNode]] = [
    LoadAll,
    LoadDiffusionModel,
    LoadTextEncoder,
    LoadVAE,
    LoadLora,
    LoraStack,
    ControlPicture,
    LoadControlNet,
    ModelInfo,
    EncodePrompt,
    EncodeEdit,
    EncodeLayers,
    ApplyControlNet,
    EmptyLatent,
    ImageToLatent,
    Inpaint,
    PadForOutpaint,
    ScheduleSigmas,
    Denoise,
    Decode,
    StitchPart,
    SplitLayers,
    Quantize,
    ToModel,
    ToCLIP,
    ToVAE,
]


listen()


class InkstoneExtension(ComfyExtension):
    """What ComfyUI asks for its node list."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


def extension() -> InkstoneExtension:
    """The extension object. ComfyUI names a pack's modules by their path, and its page writes the
    class of an error before our sentence: the path is taken out of the name.
    """
    if not InkstoneError.__module__.startswith("inkstone."):
        InkstoneError.__module__ = "inkstone"
    return InkstoneExtension()
