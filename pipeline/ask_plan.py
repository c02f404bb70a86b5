"""The memory plan of an answer, from file headers and picture sizes alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .answer_stages import PlannedAnswer
from .memory_plan import memory_now
from .plan_stages import follow


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


def plan_answer(answer: PlannedAnswer) -> AskPlan:
    """Plans from headers."""
    now = memory_now(answer.text.weights, answer.text.budget)
    forms = answer.fitting_forms(now.room, now.present)
    run = follow(answer.stages(forms), now.room, 0, now.present)
    placed, tower = run.placement(answer.text.weights), answer.tower
    return AskPlan(
        runtime=now.runtime,
        vision_tower=run.placement(tower.weights).nbytes if tower else 0,
        text_encoder=placed.nbytes,
        output_head=answer.head.nbytes,
        forms=sum(weights.nbytes for weights in forms),
        key_values=answer.key_values,
        activations=answer.working - answer.key_values,
        prompt_tokens=answer.tokens,
        peak=now.fixed + run.peak,
        budget=now.budget,
        text_encoder_placed=placed.words(),
    )
