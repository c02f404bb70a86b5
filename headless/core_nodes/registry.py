"""The node classes that run without ComfyUI: ours, and stand-ins for core's basic nodes."""

from __future__ import annotations

from ..node_types import NodeClass
from .images import IMAGE_NODES
from .latents import LATENT_NODES
from .load_save import FILE_NODES, LoadFirstFrame
from .masks import MASK_NODES
from .models import BRIDGE_NODES, MODEL_NODES
from .prompts import PROMPT_NODES
from .sampling import SAMPLING_NODES
from .scaling import SCALING_NODES
from .texts import TEXT_NODES
from .values import VALUE_NODES

CORE_NODES: dict[str, NodeClass] = {
    **FILE_NODES,
    **SCALING_NODES,
    **IMAGE_NODES,
    **MASK_NODES,
    **LATENT_NODES,
    **VALUE_NODES,
    **MODEL_NODES,
    **PROMPT_NODES,
    **SAMPLING_NODES,
    **TEXT_NODES,
}


def node_classes() -> dict[str, NodeClass]:
    """Every node that runs headless: ours and our stand-ins for core nodes, by id."""
    from ...nodes import NODES

    own = {LoadFirstFrame.ID: LoadFirstFrame}
    ours = {node.define_schema().node_id: node for node in NODES}
    return CORE_NODES | own | ours | BRIDGE_NODES
