"""Shapes of matrices that a DFloat11 file has as streams of numbers only."""

from __future__ import annotations

from .packed_layer import PackedParts

# Matrices without bias, whose shape follows from the network: the axis that is its width.
_WIDTH_AXIS = (
    ("mlp.gate_proj", 1),
    ("mlp.up_proj", 1),
    ("mlp.down_proj", 0),
    ("self_attn.q_proj", 1),  # of Qwen3; those of Qwen2.5 have biases
    ("self_attn.k_proj", 1),
    ("self_attn.v_proj", 1),
    ("self_attn.o_proj", 0),
    ("embed_tokens", 1),
    ("lm_head", 1),
    ("attn.to_q", 1),  # of Qwen-Image-2.1, which has no biases
    ("attn.to_k", 1),
    ("attn.to_v", 1),
    ("attn.to_out.0", 0),
    ("img_mlp.proj", 1),
    ("img_mlp.gate_layer", 1),
    ("img_mlp.gate_up", 1),
    ("img_mlp.out", 0),
)
# tensors with as many rows as the network is wide
_WIDTH_OF = ("norm.weight", "layers.0.input_layernorm.weight", "img_in.weight")


def matrix_shape(parts: PackedParts, layer: str, count: int) -> tuple[int, int]:
    """Rows and columns of a matrix that the file has as a stream only: from its bias, or from the
    width of the network."""
    if layer + ".bias" in parts:
        rows = parts.rows_of_bias(layer)
        shape = (rows, count // max(1, rows))
    else:
        axis = next((axis for end, axis in _WIDTH_AXIS if layer.endswith(end)), None)
        width = next((parts.shape(n)[0] for n in _WIDTH_OF if n in parts), None)
        if axis is None or width is None:
            raise parts.fault(layer, "no plain tensor of the file gives the shape of its matrix")
        shape = (count // width, width) if axis else (width, count // width)
    if shape[0] * shape[1] != count or not count:
        raise parts.fault(layer, f"{count} elements do not make a matrix with {shape[0]} rows")
    return shape
