"""The memory plan of an answer, from file headers and picture sizes alone.

The same stages and the same functions as the run: the vision tower, then the language model with
its output head and the keys and values of prompt and answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..loaders.memory.placement import NotEnoughMemory, Occupant
from ..loaders.models.generation import answer_bytes, cache_room, forms_for
from ..loaders.models.text_encoder import TextEncoderModel
from ..sampling.vision_sizes import answer_sizes
from .memory_plan import MemoryNow, memory_now
from .plan_stages import PlannedRun, PlanStage, follow


@dataclass(frozen=True)
class AskPlan:
    """Bytes of each part, where the weights are, and the peak."""

    runtime: int
    vision_tower: int  # 0 without pictures
    text_encoder: int  # as placed
    output_head: int  # 0 where it is the table of embeddings
    forms: int  # for single tokens; 0 where there is no room or no use for them
    key_values: int  # of prompt and answer
    activations: int
    prompt_tokens: int
    peak: int
    budget: int
    text_encoder_placed: str

    def sentence(self) -> str:
        """One line for people."""
        g = {k: f"{v / 1e9:.2f} GB" for k, v in asdict(self).items() if type(v) is int}
        tower = f"vision tower {g['vision_tower']}, " if self.vision_tower else ""
        head = f"output head {g['output_head']}, " if self.output_head else ""
        head += f"form for single tokens {g['forms']}, " if self.forms else ""
        return (
            f"plan: {tower}text encoder {g['text_encoder']} ({self.text_encoder_placed}), {head}"
            f"keys and values {g['key_values']} for a prompt of {self.prompt_tokens} tokens and "
            f"its answer, activations {g['activations']}, program {g['runtime']}: at most "
            f"{g['peak']} of {g['budget']}"
        )

    def facts(self) -> dict[str, object]:
        """The content of --json."""
        return asdict(self) | {"sentence": self.sentence()}


def plan_answer(
    text: TextEncoderModel,
    question: str,
    sizes: Sequence[tuple[int, int]],
    most: int,
    max_tokens: int,
) -> AskPlan:
    """Plans from headers. sizes: width and height of each picture; most: pixels that are seen."""
    head = text.head.open()
    tower = text.tower("questions about pictures") if sizes else None
    sight = (tower.sight,) if tower else ()
    seen = [answer_sizes(*size, most, *sight)[1] for size in sizes]
    cells = sum(math.prod(size) // tower.cell**2 for size in seen) if tower else 0
    tokens = len(text.tokens(text.family.chat.text(question, len(sizes)))) - len(sizes) + cells
    stages: list[PlanStage] = []
    if tower is not None:
        patches = max(math.prod(size) for size in seen) // tower.network.config.patch**2
        working = tower.network.activation_bytes(patches, tower.dtype)
        stages.append(PlanStage(tower.weights, working))
    own = [] if head.weights is None else [head.weights]
    working = answer_bytes(text, [tokens], max_tokens, cells)
    forms = [one.weights for one in forms_for(text, head, max_tokens)]
    now = memory_now(text.weights, text.budget)
    run = _with_forms([*stages, PlanStage(text.weights, working, [*own, *forms])], now, forms)
    extra = sum(weights.nbytes for weights in forms) if run is not None else 0
    run = run or follow([*stages, PlanStage(text.weights, working, own)], now.room, 0, now.present)
    placed = run.placement(text.weights)
    kept = cache_room(text, [tokens], max_tokens)
    return AskPlan(
        runtime=now.runtime,
        vision_tower=run.placement(tower.weights).nbytes if tower else 0,
        text_encoder=placed.nbytes,
        output_head=head.nbytes,
        forms=extra,
        key_values=kept,
        activations=working - kept,
        prompt_tokens=tokens,
        peak=now.fixed + run.peak,
        budget=now.budget,
        text_encoder_placed=placed.words(),
    )


def _with_forms(
    stages: Sequence[PlanStage], now: MemoryNow, forms: Sequence[Occupant]
) -> PlannedRun | None:
    """The run with forms for single tokens; None where there is no room for them."""
    if not forms:
        return None
    try:
        run = follow(stages, now.room, 0, now.present)
    except NotEnoughMemory:
        return None
    return None if run.placement(stages[-1].weights).streamed else run
