"""The list of our nodes, and the extension that registers them with ComfyUI."""

from __future__ import annotations

from ..errors import InkstoneError
from ..host.api import ComfyExtension, io
from ..host.page_text import for_page
from ..host.progress import listen
from .ask import AskPicture
from .bridge.nodes import ToCLIP, ToModel, ToVAE
from .camera import CameraAngle
from .canvas import EmptyLatent
from .control import ApplyControlNet, LoadControlNet
from .decode import Decode
from .edit import EncodeEdit, EncodeLayers, ImageToLatent, SplitLayers
from .encode import EncodePrompt
from .enhance import EnhancePrompt
from .find import FindInPicture
from .info import ModelInfo
from .inpaint import Inpaint, PadForOutpaint, StitchPart
from .load import LoadAll, LoadDiffusionModel, LoadTextEncoder, LoadVAE
from .lora import LoraLoader
from .lora_stack import LoadLora, LoraStack
from .preprocess import ControlPicture
from .quantize import Quantize
from .reference_cache import ReferenceCache
from .regions import RegionalPrompts
from .sample import Denoise
from .schedule import ScheduleSigmas
from .step_cache import StepCacheNode
from .train import TrainLora
from .upscale import UpscalePicture
from .variety import VarietyNode

NODES: list[type[io.ComfyNode]] = [
    LoadAll,
    LoadDiffusionModel,
    LoadTextEncoder,
    LoadVAE,
    LoraLoader,
    ControlPicture,
    LoadControlNet,
    ModelInfo,
    EncodePrompt,
    EncodeEdit,
    EncodeLayers,
    ApplyControlNet,
    RegionalPrompts,
    EmptyLatent,
    ImageToLatent,
    Inpaint,
    PadForOutpaint,
    ScheduleSigmas,
    Denoise,
    ReferenceCache,
    StepCacheNode,
    VarietyNode,
    Decode,
    StitchPart,
    SplitLayers,
    EnhancePrompt,
    AskPicture,
    FindInPicture,
    CameraAngle,
    UpscalePicture,
    Quantize,
    TrainLora,
    ToModel,
    ToCLIP,
    ToVAE,
    LoadLora,
    LoraStack,
]


class InkstoneExtension(ComfyExtension):
    """Gives ComfyUI the list of nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


def extension() -> InkstoneExtension:
    """The extension object; from here on the stop button and the progress bar reach our work.

    ComfyUI names a pack's modules by their path, and its page shows the class of an error before
    our sentence: this removes the path from the name.
    """
    listen()
    for node in NODES:
        if not hasattr(node.execute, "__wrapped__"):  # this may be called again
            node.execute = classmethod(for_page(node.execute.__func__))
    if not InkstoneError.__module__.startswith("inkstone."):
        InkstoneError.__module__ = "inkstone"
    return InkstoneExtension()
