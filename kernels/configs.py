"""The shapes of the networks as frozen records, without torch: loaders read them from a file's
tensors, compare every tensor with them, and only then build a network.

Defaults are the published models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MMDiTConfig:
    """Shape of the MMDiT and of the control branches that are built of its blocks."""

    layers: int = 60
    heads: int = 24
    head_dim: int = 128
    channels: int = 64  # packed latent channels of one token, in and out
    joint: int = 3584  # width of the text encoder
    ff: int = 12288
    axes: tuple[int, int, int] = (16, 56, 56)  # of a head: rotated by frame, row and column
    theta: float = 10000.0

    @property
    def width(self) -> int:
        """D, the width of both streams."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class SingleStreamConfig:
    """Shape of the single-stream network of Qwen-Image-2.1 and of its control branches."""

    layers: int = 32
    heads: int = 32
    head_dim: int = 128
    channels: int = 64  # latent channels of one token, in and out
    joint: int = 4096  # width of the text encoder
    ff: int = 12288  # of each half of the SwiGLU
    axes: tuple[int, int, int] = (16, 56, 56)  # of a head: rotated by frame, row and column
    theta: float = 10000.0

    @property
    def width(self) -> int:
        """D, the width of the stream."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class BlockwiseConfig:
    """Shape of a blockwise control: the sizes of its base model."""

    layers: int = 60
    width: int = 3072
    channels: int = 64


@dataclass(frozen=True)
class TextConfig:
    """Shape of the language model of Qwen2.5-VL, and of Qwen3-VL with the flags below."""

    layers: int = 28
    width: int = 3584
    heads: int = 28
    kv_heads: int = 4
    head_dim: int = 128
    ff: int = 18944
    vocab: int = 152064
    theta: float = 1e6
    eps: float = 1e-6
    sections: tuple[int, int, int] | None = None  # frequencies for time, row and column
    bias: bool = True  # of q, k and v
    qk_norm: bool = False  # an RMS norm of each head of q and k, before they are rotated
    interleaved: bool = False  # frequencies of time, row and column take turns
    final_norm: bool = True  # of encoded states; scores of tokens are always of normalised ones
    condition_layers: int | None = None  # that encoding runs, below those that answer; None = all

    @property
    def encoding_layers(self) -> int:
        """Layers whose result, after the final norm, is the state of a prompt."""
        return self.layers if self.condition_layers is None else self.condition_layers

    @property
    def axes(self) -> tuple[int, int, int]:
        """The sections; where none are given, in the proportion of the published 16, 24, 24 and
        24, 20, 20."""
        half = self.head_dim // 2
        time = half * 3 // 8 if self.interleaved else half // 4
        row = (half - time) // 2
        return self.sections or (time, row, half - time - row)

    @property
    def axis_of(self) -> tuple[int, ...]:
        """For each frequency whether it follows time (0), row (1) or column (2)."""
        if not self.interleaved:
            return tuple(axis for axis, count in enumerate(self.axes) for _ in range(count))
        ends = (0, *(3 * count for count in self.axes[1:]))
        return tuple(n % 3 if n < ends[n % 3] else 0 for n in range(self.head_dim // 2))


@dataclass(frozen=True)
class VisionConfig:
    """Shape of the vision tower of Qwen2.5-VL."""

    depth: int = 32
    width: int = 1280
    heads: int = 16
    ff: int = 3420
    patch: int = 14  # pixels
    frames: int = 2
    merge: int = 2  # patches on a side of a cell; a cell becomes one token
    channels: int = 3
    out: int = 3584
    window: int = 112  # pixels
    full: tuple[int, ...] = (7, 15, 23, 31)  # blocks with attention over the whole image
    theta: float = 10000.0
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def side(self) -> int:
        """Cells on a side of a window."""
        return self.window // self.merge // self.patch


@dataclass(frozen=True)
class DeepVisionConfig:
    """Shape of the vision tower of Qwen3-VL."""

    depth: int = 27
    width: int = 1152
    heads: int = 16
    ff: int = 4304
    patch: int = 16  # pixels
    frames: int = 2
    merge: int = 2  # patches on a side of a cell; a cell becomes one token
    channels: int = 3
    out: int = 4096
    places: int = 2304  # rows of the table of positions: a square grid
    taps: tuple[int, ...] = (8, 16, 24)  # blocks whose states the language model gets too
    theta: float = 10000.0
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class VAEConfig:
    """Shape of the VAE."""

    base: int = 96
    mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    z: int = 16
    channels: int = 3  # 4 for RGBA (Qwen-Image-Layered)

    @property
    def scale(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the encoder, level by level from full size down."""
        return tuple(self.base * m for m in self.mult)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels of the decoder, level by level up to full size."""
        return self.widths[::-1]

    @property
    def levels(self) -> tuple[tuple[int, int, int], ...]:
        """Channels into, in and out of each level of the decoder, up to full size: here an
        upsampling halves them.
        """
        inside = self.decoder_widths
        out = (*(width // 2 for width in inside[:-1]), inside[-1])
        return tuple(zip((inside[0], *out), inside, out, strict=False))

    @property
    def shortcuts(self) -> bool:
        """True where the input of a whole block is added to what it makes."""
        return False


@dataclass(frozen=True)
class ResidualVAEConfig(VAEConfig):
    """Shape of the VAE of Qwen-Image-2.1: a shortcut around every block, a wider decoder."""

    mult: tuple[int, ...] = (1, 2, 4, 8, 8)
    z: int = 64
    channels: int = 4
    decoder_base: int = 144
    # which steps of the encoder halve time too (in the decoder the other way round): in a still
    # they decide which channels a shortcut fills
    temporal: tuple[bool, ...] = (False, True, True, True)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        return tuple(self.decoder_base * m for m in reversed(self.mult))

    @property
    def levels(self) -> tuple[tuple[int, int, int], ...]:
        widths = self.decoder_widths
        return tuple(zip((widths[0], *widths), widths, widths, strict=False))

    @property
    def shortcuts(self) -> bool:
        return True

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames that each block of the encoder joins to one; the last block joins none."""
        return (*(1 + step for step in self.temporal), 1)

    @property
    def fault(self) -> str:
        """Why a network of this shape cannot have its shortcuts; "" where it can."""
        if len(self.frames) != len(self.mult):
            return f"{len(self.mult)} levels with {len(self.frames) - 1} steps between them"
        for into, out, frames in zip((1, *self.mult), self.mult, self.frames, strict=False):
            if not into or not out or out % into or frames % (out // into):
                return f"no shortcut leads from {into * self.base} to {out * self.base} channels"
        return ""


QWEN_IMAGE = MMDiTConfig()
QWEN_IMAGE_21 = SingleStreamConfig()
QWEN_VL_TEXT = TextConfig()
QWEN_VL_VISION = VisionConfig()
QWEN3_VL_TEXT = TextConfig(
    layers=36,
    width=4096,
    heads=32,
    kv_heads=8,
    ff=12288,
    vocab=151936,
    theta=5e6,
    bias=False,
    qk_norm=True,
    interleaved=True,
    final_norm=False,
)
QWEN3_VL_VISION = DeepVisionConfig()
QWEN_IMAGE_VAE = VAEConfig()
QWEN_IMAGE_21_VAE = ResidualVAEConfig()
