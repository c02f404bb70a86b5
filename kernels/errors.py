"""The exception of the whole pack, where most modules look for it (quant/ lies below kernels/)."""

from ..quant.errors import InkstoneError

__all__ = ["InkstoneError"]
