"""The report of a training's pictures, before anything runs: what is used, how, and what is wrong.

`--report` prints it; its facts are the same as JSON.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ...loaders.models.text_encoder import TextEncoderModel
from ...sampling.prompt_tags import prompt_tags
from .arrange import Arranged, Work
from .findings import Finding, lines, shown
from .outline import expected

_SHOWN = 12  # buckets in the line
_TRIGGER = "[trigger]"  # ai-toolkit puts its trigger word there
Json = bool | int | float | str | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Report:
    """What a person reads before a training."""

    lines: tuple[str, ...]
    facts: dict[str, Json]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def report(arranged: Arranged, text_encoder: TextEncoderModel | None = None) -> Report:
    """text_encoder: for the length of captions and the size on disk; its weights are not read."""
    works, findings = arranged.works, [*arranged.findings, *tags(arranged)]
    nbytes = None
    if text_encoder is not None:
        findings += too_long(arranged, text_encoder)
        nbytes = expected(arranged, text_encoder)
    most = max(works, key=lambda work: work.fit.cropped)
    counts = Counter(work.fit.bucket for work in works)
    facts: dict[str, Json] = {
        "pictures": len(works),
        "epoch": sum(work.item.repeats for work in works),
        **_having(works),
        "buckets": {f"{w}x{h}": n for (w, h), n in counts.most_common()},
        "cropped_at_most": round(most.fit.cropped, 4),
        "encoded_bytes": nbytes,
        "findings": [
            {"kind": one.kind, "name": shown(one.name), "detail": shown(one.detail, 400)}
            for one in findings
        ],
    }
    head = _head(works, counts, most)
    head += _rounded(arranged.settings.resolution, arranged.model.latents.step)
    head += [f"encoded, they take about {size_words(nbytes)} on disk"] if nbytes else []
    return Report((*head, *lines(findings)), facts)


def _head(works: tuple[Work, ...], counts: Counter[tuple[int, int]], most: Work) -> list[str]:
    """The lines about what is used."""
    parts = [f"{n:,} with {name}" for name, n in _having(works).items() if n]
    epoch = sum(work.item.repeats for work in works)
    if epoch > len(works):
        parts.append(f"{epoch:,} in an epoch with repeats")
    having = ", ".join(parts)
    sizes = [f"{w}x{h} ({n:,})" for (w, h), n in counts.most_common(_SHOWN)]
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    cropped = most.fit.cropped
    crop = f"at most {cropped:.1%} of a picture is cropped"
    return [
        f"{_count(len(works), 'picture')} to train on" + (f": {having}" if having else ""),
        f"{_count(len(counts), 'bucket')}: {', '.join(sizes)}{more}; "
        + (f"{crop} ({shown(most.item.name)})" if cropped else "nothing is cropped"),
    ]


def _rounded(resolution: int, step: int) -> list[str]:
    """What becomes of a resolution that no square bucket has."""
    side = resolution // step * step
    if side == resolution:
        return []
    square = f"{side}x{side}"
    return [f"--resolution {resolution}: sides are multiples of {step}, a square has {square}"]


def _having(works: tuple[Work, ...]) -> dict[str, int]:
    """How many pictures have what."""
    return {
        "captions": sum(bool(work.item.caption) for work in works),
        "references": sum(bool(work.item.references) for work in works),
        "masks": sum(work.item.mask is not None for work in works),
        "layers": sum(bool(work.item.layers) for work in works),
    }


def size_words(nbytes: int) -> str:
    """ "1.50 GB", "3.20 MB", "0.05 MB"."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.2f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def tags(arranged: Arranged) -> list[Finding]:
    """Captions with LoRA tags, weights in brackets and the like."""
    marks = ((work.item.name, prompt_tags(work.item.caption or "")) for work in arranged.works)
    findings = []
    for name, found in marks:
        plain = [tag for tag in found if tag.lower() != _TRIGGER]
        findings += [Finding("tags", name, ", ".join(plain[:3]))] if plain else []
        findings += [Finding("trigger", name)] if len(plain) < len(found) else []
    return findings


def too_long(arranged: Arranged, text_encoder: TextEncoderModel) -> list[Finding]:
    """Captions of which the text encoder does not take the end. Prompts of edits are not cut."""
    family, findings = text_encoder.family, []
    for work in arranged.works:
        caption = work.item.caption or ""
        if work.item.references or len(caption) <= family.most_tokens:  # a token is a byte at least
            continue
        tokens = len(text_encoder.tokenizer.encode(family.template.format(caption))) - family.drop
        if tokens > family.most_tokens:
            detail = f"{tokens} tokens of {family.most_tokens}"
            findings.append(Finding("long caption", work.item.name, detail))
    return findings
