"""The stages of an answer as a memory plan sees them: the vision tower, then the language model
with its output head, the form for single tokens, and the keys and values of prompt and answer.

The bytes come from the functions that the run itself asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..loaders.memory.placement import NotEnoughMemory, Occupant
from ..loaders.memory.residency import Residency
from ..loaders.models.generation import answer_bytes, cache_room, forms_for
from ..loaders.models.output_head import HeadModel
from ..loaders.models.text_encoder import TextEncoderModel
from ..loaders.models.vision import VisionModel
from .plan_stages import PlanStage, follow


@dataclass(frozen=True)
class PlannedAnswer:
    """An answer to plan. sizes: width and height of each picture; most: pixels that are seen."""

    text: TextEncoderModel
    question: str
    sizes: Sequence[tuple[int, int]]
    most: int
    max_tokens: int

    @cached_property
    def head(self) -> HeadModel:
        """The output head; raises where the file has none."""
        return self.text.head.open()

    @cached_property
    def tower(self) -> VisionModel | None:
        """What encodes the pictures; raises where it is missing."""
        return self.text.tower("questions about pictures") if self.sizes else None

    @cached_property
    def tokens(self) -> int:
        """Tokens of the prompt with its pictures."""
        chat = self.text.family.chat.text(self.question, len(self.sizes))
        return len(self.text.tokens(chat)) - len(self.sizes) + self._cells

    @property
    def _cells(self) -> int:
        """Tokens of all pictures."""
        return sum(math.prod(size) // self.tower.cell**2 for size in self._seen if self.tower)

    @property
    def _seen(self) -> list[tuple[int, int]]:
        sight = (self.tower.sight,) if self.tower else ()
        sizes = self.text.family.seen_sizes
        return [sizes(*size, self.most, *sight)[1] for size in self.sizes]

    @property
    def key_values(self) -> int:
        """Bytes of keys and values of prompt and answer."""
        return cache_room(self.text, [self.tokens], self.max_tokens)

    @property
    def working(self) -> int:
        """Bytes of keys and values, and of activations."""
        return answer_bytes(self.text, [self.tokens], self.max_tokens, self._cells)

    @property
    def forms(self) -> list[Residency]:
        """The forms for single tokens that are of use."""
        return [one.weights for one in forms_for(self.text, self.head, self.max_tokens)]

    def stages(self, forms: Sequence[Occupant] = ()) -> list[PlanStage]:
        """The tower, where there are pictures, and the language model."""
        stages: list[PlanStage] = []
        if self.tower is not None:
            patches = max(map(math.prod, self._seen)) // self.tower.network.config.patch**2
            working = self.tower.network.activation_bytes(patches, self.tower.dtype)
            stages.append(PlanStage(self.tower.weights, working))
        own = [] if self.head.weights is None else [self.head.weights]
        return [*stages, PlanStage(self.text.weights, self.working, [*own, *forms])]

    def fitting_forms(self, room: int, present: Sequence[Occupant]) -> list[Residency]:
        """The forms for single tokens; none where there is no room for them in addition to the
        whole text encoder.
        """
        if not self.forms:
            return []
        try:
            run = follow(self.stages(self.forms), room, 0, present)
        except NotEnoughMemory:
            return []
        return [] if run.placement(self.text.weights).streamed else self.forms
