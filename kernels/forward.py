"""One forward of an MMDiT: its inputs, its hooks, and what all its blocks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from .block_streaming import Asking
from .configs import MMDiTConfig
from .modulation import Modulation
from .prefix_store import PrefixStore
from .recompute import Part, Recompute, Streams
from .references import NO_REFERENCES, ReferenceContext, References
from .regions import Regions
from .rope import Grid, joint_rope
from .shared_modulation import SharedModulation

Probe = Callable[[str, Tensor], None]  # ("attention", tensor)
# (block, blocks, image stream [B,S,D]) -> the stream with the residual of a control
After = Callable[[int, int, Tensor], Tensor]


@runtime_checkable
class PrefixAfter(Protocol):
    """An After of a control that changes text and references too (single_stream.py)."""

    def prefix(self, index: int, layers: int, x: Tensor) -> Tensor:
        """The stream of text and references x [n,P,D] as the next block gets it."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of one forward."""

    img: Tensor  # [B,S,64] packed latents of the target
    txt: Tensor  # [B,L,J] text states
    modulation: Modulation | SharedModulation  # rows with n = 1 or B
    grids: Sequence[Grid]  # (f,h,w) in tokens of each image: the target's, then the references'
    mask: Tensor | None = None  # [B,L] True = real text token
    references: ReferenceContext = NO_REFERENCES
    regions: Regions | None = None  # txt has their prompts in front
    # of networks that read text and images in one order (single_stream.py):
    slots: tuple[int, ...] = ()  # for each reference, the text tokens before it
    prefix: PrefixStore | None = None  # what of text and references serves several steps


@dataclass(frozen=True)
class ForwardSize:
    """How large a forward is, for the bytes that it needs."""

    target: int  # tokens that are drawn, in each row of the batch
    prefix: int  # tokens of text and references
    batch: int
    rows: int  # in which text and references are computed: 1 where all rows have the same
    stored: bool = False  # a store on the device keeps the prefix's keys and values, counted there

    @property
    def targets(self) -> int:
        """Tokens that are drawn, of all rows."""
        return self.batch * self.target

    @property
    def prefixes(self) -> int:
        """Tokens of text and references, of all rows."""
        return self.rows * self.prefix

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self.targets + self.prefixes


class Shortcut(Protocol):
    """What a step cache (sampling/step_cache.py) decides in one forward. It gets the image stream
    x [B,S',D] float32, the target's tokens first; an answer [B,S,D], the target's alone, takes the
    place of what the last block would give, and no further block is computed.
    """

    def before(self, x: Tensor, modulated: Callable[[], Tensor]) -> Tensor | None:
        """x as it enters block 0; modulated() is what its attention reads of it."""

    def behind_first(self, x: Tensor) -> Tensor | None:
        """x behind block 0, without what controls add there."""

    def behind_last(self, x: Tensor) -> None:
        """x [B,S,D] behind the last block, with all that controls added."""


class ForwardHooks:
    """Callbacks of one forward.

    on_block(i) may raise to stop between blocks; probe(i, name, tensor) sees intermediate results;
    after: what controls add to the image stream after each block; shortcut: a step cache;
    recompute: how blocks run in training.
    """

    def __init__(
        self,
        on_block: Callable[[int], None] | None = None,
        probe: Callable[[int, str, Tensor], None] | None = None,
        after: Sequence[After] = (),
        shortcut: Shortcut | None = None,
        recompute: Recompute | None = None,
    ) -> None:
        self._on_block, self._probe, self._after = on_block, probe, after
        self._shortcut, self._recompute = shortcut, recompute

    def on_block(self, index: int) -> None:
        """Callback before block `index`; it may raise to stop."""
        if self._on_block is not None:
            self._on_block(index)

    def run_block(self, index: int, part: Part, *streams: Tensor) -> Asking[Streams]:
        """part(*streams), the streams behind block `index`: a part of a walk."""
        if self._recompute is None:
            return part(*streams)
        return self._recompute.run_block(index, part, *streams)

    def probe_of(self, index: int) -> Probe | None:
        """The probe bound to one block."""
        probe = self._probe
        return None if probe is None else (lambda name, x: probe(index, name, x))

    def before_blocks(self, x: Tensor, modulated: Callable[[], Tensor]) -> tuple[Tensor, bool]:
        """The image stream x [B,S,D] as block 0 gets it; True: it is final, no block is computed.
        modulated: see `Shortcut.before`.
        """
        known = None if self._shortcut is None else self._shortcut.before(x, modulated)
        return (x, False) if known is None else (known, True)

    def after_block(self, index: int, layers: int, x: Tensor) -> tuple[Tensor, bool]:
        """The image stream x [B,S,D] as the next block gets it; True: it is final, no further block
        is computed.
        """
        if index == 0 and self._shortcut is not None:
            known = self._shortcut.behind_first(x)
            if known is not None:
                return known, True
        for add in self._after:
            x = add(index, layers, x)
        if index == layers - 1 and self._shortcut is not None:
            self._shortcut.behind_last(x)
        return x, False

    def after_prefix(self, index: int, layers: int, x: Tensor) -> Tensor:
        """The stream of text and references x [n,P,D] as the next block gets it."""
        for add in self._after:
            if isinstance(add, PrefixAfter):
                x = add.prefix(index, layers, x)
        return x


NO_HOOKS = ForwardHooks()


@dataclass(frozen=True)
class PassContext:
    """The values that all blocks of one forward share."""

    img_freqs_cis: Tensor  # [S,d/2] complex
    txt_freqs_cis: Tensor  # [L,d/2] complex
    mask: Tensor | None  # [B,1,1,L+S] boolean, True = is attended to
    dtype: torch.dtype  # of weights and products; both streams are float32
    tokens: int  # image tokens of the target; those behind them are references
    probe: Probe | None = None
    cached: References | None = None  # in the first block: holds its references' keys and values
    regions: Regions | None = None  # regional prompts say who sees whom

    def look(self, name: str, x: Tensor) -> Tensor:
        """Shows a tensor to the probe, if there is one."""
        if self.probe is not None:
            self.probe(name, x)
        return x


def pass_context(
    config: MMDiTConfig,
    img: Tensor,
    txt: Tensor,
    grids: Sequence[Grid],
    mask: Tensor | None = None,
    layers: int = 0,
    regions: Regions | None = None,
) -> PassContext:
    """The context for img [B,S,64] and txt [B,L,J]; mask [B,L] True = real text token, for forwards
    without regions.
    """
    text = txt.shape[1] if regions is None else regions.texts[-1]
    img_freqs_cis, txt_freqs_cis = joint_rope(
        grids, text, config.axes, config.theta, img.device, layers
    )
    if regions is not None:
        prompts = regions.freqs_cis(config.axes, config.theta)
        txt_freqs_cis = torch.cat([prompts, txt_freqs_cis])
    if mask is not None:
        mask = F.pad(mask, (0, len(img_freqs_cis)), value=True)[:, None, None, :]
    return PassContext(img_freqs_cis, txt_freqs_cis, mask, img.dtype, img.shape[1], regions=regions)
