"""Our own socket types and the checks at the border: what came in through a wire, in words if
wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernels.errors import InkstoneError
from .host import io

if TYPE_CHECKING:
    from torch import Tensor

Model = io.Custom("INKSTONE_MODEL")
TextEncoder = io.Custom("INKSTONE_TEXT_ENCODER")
VAE = io.Custom("INKSTONE_VAE")
Lora = io.Custom("INKSTONE_LORA")  # loaders.lora_stack.Adapter


def text_states(conditioning: list, name: str) -> Tensor:
    """CONDITIONING [[ [1,L,J], dict ]] -> [1,L,J], without padding. More than one entry is
    refused.
    """
    if not isinstance(conditioning, list) or len(conditioning) != 1:
        count = len(conditioning) if isinstance(conditioning, list) else "no"
        raise InkstoneError(
            f"The {name} conditioning has {count} entries: expected one prompt. Areas and "
            f"combined prompts are "
            "not supported by this node: connect one text encode node."
        )
    states, options = conditioning[0]
    if options.get("reference_latents"):
        raise InkstoneError(
            f"The {name} conditioning carries reference pictures, which this version does not use. "
            "Disconnect the reference nodes."
        )
    mask = options.get("attention_mask")
    return states if mask is None else states[:, mask[0].bool()]


def latent_samples(latent: dict) -> Tensor:
    """LATENT -> samples [B,16,1,h,w]; 4-D is taken as one frame."""
    samples = latent["samples"]
    if samples.dim() == 4:
        samples = samples[:, :, None]
    if samples.dim() != 5 or samples.shape[1] != 16 or samples.shape[2] != 1:
        raise InkstoneError(
            f"The latent has shape {list(latent['samples'].shape)}: expected [batch, 16, 1, "
            f"height/8, width/8]. "
            "Use the node Inkstone Empty Latent."
        )
    if latent.get("noise_mask") is not None:
        raise InkstoneError(
            "The latent carries a mask; inpainting is not part of this node. Remove the mask node."
        )
    return samples


def require_type(value: Any, kind: type, name: str, node: str) -> Any:
    """Refuses a wire that carries something else (possible in hand-written API graphs)."""
    if not isinstance(value, kind):
        raise InkstoneError(f"{name} got {type(value).__name__}: connect the output of {node}.")
    return value
