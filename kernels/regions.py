"""Regional prompts in joint attention: who sees whom, without a mask over the whole sequence.

The text stream is the prompts of the regions, then the global prompt. A region's prompt sees itself
and the image tokens of its region; the global prompt sees itself and the whole image; prompts do
not see each other. Image tokens see all image tokens, the global prompt and the prompts of all
regions that they belong to (EliGen; numbers of DiffSynth-Studio). With a `base` share, for models
without EliGen's LoRA, a region is first a picture of its own: its tokens see its prompts and each
other, and this is mixed with what they would see without regions.

Queries that see the same keys share one call without a mask, so torch's flash kernels work and
nothing grows with the square of the sequence; the same numbers as with a dense mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention import attention
from .rope import Place, prompt_rope

_FEW = 32  # image tokens with the same prompts: fewer share a masked call with other such tokens
_MASK = 1 << 22  # elements of a mask

Index = slice | Tensor


@dataclass(frozen=True, eq=False)
class View:
    """What queries see: keys, of them those in mask [queries, keys]."""

    keys: Index
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Queries that see the same; with a base also what they would see without regions."""

    queries: Index
    own: View
    whole: View | None = None


@dataclass(frozen=True, eq=False)
class Regions:
    """The regional prompts of a run; one object for all its forwards.

    texts: tokens of each region's prompt, then of the global one; cells [n,S] bool: the image
    tokens of each region, of target and references; places: of each region's prompt the position
    of its first token; base: None = as EliGen, else 0 to 1.
    """

    texts: tuple[int, ...]
    cells: Tensor
    places: tuple[Place, ...]
    base: float | None = None
    _plans: dict[int, list[Group]] = field(default_factory=dict)

    def freqs_cis(self, axes: Sequence[int], theta: float) -> Tensor:
        """freqs_cis [L,d/2] of the regions' prompts."""
        device = str(self.cells.device)
        return prompt_rope(self.places, self.texts[:-1], tuple(axes), theta, device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B,H,Lq,D] of all tokens, or of the first image tokens alone; k, v [B,H,L+S,D] -> the
        shape of q.
        """
        out = torch.empty_like(q)
        for group in self._plan(q.shape[2]):
            some = q[:, :, group.queries]
            seen = _seen(some, k, v, group.own)
            if group.whole is not None:
                seen = seen.lerp(_seen(some, k, v, group.whole), self.base or 0.0)
            out[:, :, group.queries] = seen
        return out

    def _plan(self, queries: int) -> list[Group]:
        """The groups of so many queries: of all tokens, or of the first image tokens."""
        if queries not in self._plans:
            text = sum(self.texts)
            whole = queries > self.cells.shape[1]
            if whole != (queries == text + self.cells.shape[1]):
                raise ValueError(f"{queries} queries for {text} + {self.cells.shape[1]} tokens")
            with torch.inference_mode(False):  # the plan outlives a run's context
                groups = self._text_groups() if whole else []
                groups += self._image_groups(self.cells.shape[1] if whole else queries, whole)
            self._plans[queries] = groups
        return self._plans[queries]

    def _spans(self) -> list[Tensor]:
        """The places of each prompt's tokens in the sequence."""
        return list(torch.arange(sum(self.texts), device=self.cells.device).split(self.texts))

    @property
    def _picture(self) -> View:
        """What image tokens of no region see: the global prompt and the image."""
        text = sum(self.texts)
        return View(slice(text - self.texts[-1], text + self.cells.shape[1]))

    def _text_groups(self) -> list[Group]:
        text, groups = sum(self.texts), []
        for span, cells in zip(self._spans(), self.cells):
            keys = torch.cat([span, text + cells.nonzero().flatten()])
            groups.append(Group(_index(span), View(_index(keys))))
        return groups

    def _image_groups(self, count: int, whole: bool) -> list[Group]:
        """The groups of the first `count` image tokens, and with `whole` of the global prompt,
        which sees what image tokens of no region see.
        """
        offset = sum(self.texts) if whole else 0
        patterns, which = torch.unique(self.cells[:, :count].T, dim=0, return_inverse=True)
        free = [self._spans()[-1]] if whole else []
        few: list[Tensor] = []
        groups = []
        base = self._picture if self.base else None
        for number, pattern in enumerate(patterns):
            queries = (which == number).nonzero().flatten()
            if not pattern.any():
                free.append(queries + offset)
            elif len(queries) < _FEW:
                few.append(queries)
            else:
                groups.append(Group(_index(queries + offset), self._own(pattern), base))
        if free:
            groups.append(Group(_index(torch.cat(free)), self._picture))
        total = sum(self.texts) + self.cells.shape[1]
        for part in torch.cat(few).split(max(1, _MASK // total)) if few else ():
            groups.append(Group(_index(part + offset), self._masked(part), base))
        return groups

    def _own(self, pattern: Tensor) -> View:
        """What image tokens see that belong to the regions of `pattern` [n] bool."""
        text, spans = sum(self.texts), self._spans()
        own = [spans[i] for i in pattern.nonzero().flatten().tolist()]
        if self.base is None:
            image = torch.arange(text - self.texts[-1], text + self.cells.shape[1]).to(own[0])
        else:
            image = text + self.cells[pattern].any(0).nonzero().flatten()
        return View(_index(torch.cat([*own, image])))

    def _masked(self, tokens: Tensor) -> View:
        """What image tokens see that belong to different regions."""
        lengths = torch.tensor(self.texts[:-1], device=self.cells.device)
        member = self.cells[:, tokens].T  # [t,n]
        eligen = self.base is None
        near = (member.float() @ self.cells.float()) > 0
        parts = [
            member.repeat_interleave(lengths, dim=1),
            member.new_full((len(tokens), self.texts[-1]), eligen),
            torch.ones_like(near) if eligen else near,
        ]
        mask = torch.cat(parts, dim=1)
        return View(slice(0, mask.shape[1]), mask)


def _seen(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    return attention(q, k[:, :, view.keys], v[:, :, view.keys], view.mask)


def _index(places: Tensor) -> Index:
    """Places in a sequence; a slice, which copies nothing, where they follow each other."""
    first, count = int(places[0]), len(places)
    if bool((places == torch.arange(first, first + count).to(places)).all()):
        return slice(first, first + count)
    return places
