"""Stand-ins for ComfyUI's nodes of masks and references that editing graphs use.

Sockets, defaults and values are the core's (host 0.3.64); the code is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...host.api import io
from .load_save import LoadImageMask

if TYPE_CHECKING:
    import torch

MAX_SIDE = 16384
OPERATIONS = ["multiply", "add", "subtract", "and", "or", "xor"]


def _sides(*names: str, low: int = 0, start: int = 0) -> list[Any]:
    return [io.Int.Input(n, default=start, min=low, max=MAX_SIDE, step=1) for n in names]


def _planes(mask: torch.Tensor) -> torch.Tensor:
    """[H,W] or [B,H,W] -> [B,H,W], a copy."""
    return mask.reshape(-1, *mask.shape[-2:]).clone()


class SolidMask(io.ComfyNode):
    """A mask of one value."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SolidMask",
            category="mask",
            inputs=[
                io.Float.Input("value", default=1.0, min=0.0, max=1.0, step=0.01),
                *_sides("width", "height", low=1, start=512),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, value: float, width: int, height: int) -> io.NodeOutput:
        import torch

        return io.NodeOutput(torch.full((1, height, width), value))


class InvertMask(io.ComfyNode):
    """1 - mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InvertMask",
            category="mask",
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: torch.Tensor) -> io.NodeOutput:
        return io.NodeOutput(1.0 - mask)


class MaskComposite(io.ComfyNode):
    """A mask put into another at (x, y)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskComposite",
            category="mask",
            inputs=[
                io.Mask.Input("destination"),
                io.Mask.Input("source"),
                *_sides("x", "y"),
                io.Combo.Input("operation", options=OPERATIONS),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(
        cls, destination: torch.Tensor, source: torch.Tensor, x: int, y: int, operation: str
    ) -> io.NodeOutput:
        made, source = _planes(destination), _planes(source)
        part = made[:, y : y + source.shape[1], x : x + source.shape[2]]
        source = source[:, : part.shape[1], : part.shape[2]]
        a, b = part.round().bool(), source.round().bool()
        part[:] = {
            "multiply": part * source,
            "add": part + source,
            "subtract": part - source,
            "and": (a & b).float(),
            "or": (a | b).float(),
            "xor": (a ^ b).float(),
        }[operation]
        return io.NodeOutput(made.clamp(0.0, 1.0))


class FeatherMask(io.ComfyNode):
    """A mask that fades out over so many pixels at each edge of the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FeatherMask",
            category="mask",
            inputs=[io.Mask.Input("mask"), *_sides("left", "top", "right", "bottom")],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(
        cls, mask: torch.Tensor, left: int, top: int, right: int, bottom: int
    ) -> io.NodeOutput:
        made = _planes(mask)
        for axis, first, last in ((2, left, right), (1, top, bottom)):
            made *= _ramp(made.shape[axis], first, last)[(...,) + (None,) * (2 - axis)]
        return io.NodeOutput(made)


def _ramp(length: int, first: int, last: int) -> torch.Tensor:
    """[length]: rises 1/n, 2/n ... over the first n places, and so towards the end."""
    import torch

    ramp, first, last = torch.ones(length), min(first, length), min(last, length)
    if first:
        ramp[:first] *= torch.arange(1, first + 1) / first
    if last:
        ramp[length - last :] *= torch.arange(last, 0, -1) / last
    return ramp


class GrowMask(io.ComfyNode):
    """A mask that is larger (or, below 0, smaller) by so many pixels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GrowMask",
            display_name="Grow Mask",
            category="mask",
            inputs=[
                io.Mask.Input("mask"),
                *_sides("expand", low=-MAX_SIDE),
                io.Boolean.Input("tapered_corners", default=True),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: torch.Tensor, expand: int, tapered_corners: bool) -> io.NodeOutput:
        made = _planes(mask)
        sign = 1 if expand >= 0 else -1  # to shrink is to grow the rest
        for _ in range(abs(expand)):
            made = sign * _largest_neighbour(sign * made, tapered_corners)
        return io.NodeOutput(made)


def _largest_neighbour(mask: torch.Tensor, tapered: bool) -> torch.Tensor:
    """[B,H,W]: the largest of a pixel and its 4 (tapered) or 8 neighbours."""
    from torch.nn.functional import max_pool2d

    if not tapered:
        return max_pool2d(mask, 3, 1, 1)
    across = max_pool2d(mask, (1, 3), 1, (0, 1))
    return across.maximum(max_pool2d(mask, (3, 1), 1, (1, 0)))


class SetLatentNoiseMask(io.ComfyNode):
    """A latent of which only the masked part is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SetLatentNoiseMask",
            display_name="Set Latent Noise Mask",
            category="latent/inpaint",
            inputs=[io.Latent.Input("samples"), io.Mask.Input("mask")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: dict, mask: torch.Tensor) -> io.NodeOutput:
        return io.NodeOutput({**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])})


class ReferenceLatent(io.ComfyNode):
    """Conditioning with one more reference picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReferenceLatent",
            category="advanced/conditioning/edit_models",
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Latent.Input("latent", optional=True),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: list, latent: dict | None = None) -> io.NodeOutput:
        if latent is None:
            return io.NodeOutput(conditioning)
        return io.NodeOutput(
            [
                [
                    states,
                    {
                        **said,
                        "reference_latents": [
                            *said.get("reference_latents", []),
                            latent["samples"],
                        ],
                    },
                ]
                for states, said in conditioning
            ]
        )


MASK_NODES = [SolidMask, InvertMask, MaskComposite, FeatherMask, GrowMask, LoadImageMask]
MASK_NODES += [SetLatentNoiseMask, ReferenceLatent]
