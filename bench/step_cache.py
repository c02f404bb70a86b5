"""What step caches save, and what they cost in the embedded model's scores.

Held-out prompts of text to image, edits and a Canny control are drawn in 20 steps at CFG 2 without
a cache and with each of --caches, from the same seeds. Scores in points of 100: text to image and
edits count a picture in which everything is right, the control the F of its edges. Evaluations are
counted at the blocks themselves.

python bench/step_cache.py --count 100
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common
from inkstone.sampling.step_cache_choices import METHODS, parse_step_cache

if TYPE_CHECKING:
    import numpy as np

    from inkstone.loaders.models.bundle import Bundle

STEPS, CFG = 20, 2.0
CACHES = ",".join(f"{name}:{method.usual:g}" for name, method in METHODS.items())


@dataclass(frozen=True)
class Outcome:
    """One task with one cache ("" = none)."""

    task: str
    cache: str
    evaluations: int
    score: float
    seconds: float


Task = tuple[Callable[["Bundle"], "list[np.ndarray]"], Callable[["list[np.ndarray]"], float]]


def _preset(bundle: Bundle):
    return replace(bundle.model.family.preset, steps=STEPS, cfg=CFG)


def _text(count: int) -> Task:
    from inkstone.training import evaluate, reader

    scenes = evaluate.test_scenes(count)
    return (
        lambda bundle: evaluate.draw_scenes(bundle, scenes, _preset(bundle)),
        lambda pictures: 100 * reader.score(pictures, scenes)["all"],
    )


def _edit(count: int) -> Task:
    from inkstone.training import edit_scores

    edits = edit_scores.test_edits(count)
    return (
        lambda bundle: edit_scores.draw_edits(bundle, edits, _preset(bundle)),
        lambda pictures: (
            100 * sum(all(edit_scores.judge(p, e)) for p, e in zip(pictures, edits)) / count
        ),
    )


def _control(count: int) -> Task:
    from inkstone.loaders.models.control import ControlModel, load_control
    from inkstone.loaders.models.load import EMBEDDED_FOLDER
    from inkstone.training import control_scores
    from inkstone.training.render import render

    branch = load_control(EMBEDDED_FOLDER)
    assert isinstance(branch, ControlModel)  # the embedded one is
    named, free = control_scores.test_scenes((count + 1) // 2)
    scenes = [*named, *free][:count]

    def draw(bundle: Bundle) -> list[np.ndarray]:
        setting = control_scores.Setting("canny", _preset(bundle))
        return control_scores.draw_controlled(bundle, branch, scenes, setting)

    def score(pictures: Sequence[np.ndarray]) -> float:
        pairs = zip(pictures, scenes)
        return 100 * sum(control_scores.edge_score(p, render(s)) for p, s in pairs) / count

    return draw, score


TASKS = {"text": _text, "edit": _edit, "control": _control}


def outcome(bundle: Bundle, task: str, cache: str, count: int) -> Outcome:
    """Draws and scores one task with one cache."""
    settings = parse_step_cache(cache) if cache else None
    bundle = replace(bundle, model=replace(bundle.model, step_cache=settings))
    draw, score = TASKS[task](count)
    counts = [0]

    def one(*_: object) -> None:
        counts[0] += 1

    blocks = bundle.model.network.transformer_blocks
    handles = [block.register_forward_hook(one) for block in blocks]
    began = time.perf_counter()
    pictures = draw(bundle)
    seconds = time.perf_counter() - began
    for handle in handles:
        handle.remove()
    return Outcome(task, cache, counts[0], score(pictures), seconds)


def table(outcomes: Sequence[Outcome], tasks: Sequence[str]) -> common.Cells:
    """Rows of the table: of each task times fewer evaluations, score, and what it lost."""
    by = {(o.task, o.cache): o for o in outcomes}
    head = ["cache", *(f"{t}: fewer" for t in tasks), *(f"{t}: score" for t in tasks)]
    cells = [(*head, *(f"{t}: lost" for t in tasks), "mean lost")]
    for cache in dict.fromkeys(o.cache for o in outcomes):
        pairs = [(by[task, ""], by[task, cache]) for task in tasks]
        lost = [none.score - own.score for none, own in pairs]
        row = [f"{none.evaluations / own.evaluations:.2f}" for none, own in pairs]
        row += [f"{own.score:.1f}" for _, own in pairs]
        row += [f"{points:+.1f}" for points in (*lost, sum(lost) / len(lost))]
        cells.append((cache or "none", *row))
    return cells


def main() -> None:
    """Draws everything and prints the table."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--count", type=int, default=100, help="prompts of each task")
    p.add_argument("--caches", default=CACHES, help="NAME:THRESHOLD, separated by commas")
    p.add_argument("--tasks", default=",".join(TASKS), help="text, edit, control")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--json", action="store_true", help="print facts as JSON instead of a table")
    args = p.parse_args()
    import torch

    from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all

    torch.set_num_threads(args.threads)
    bundle, tasks = load_all(EMBEDDED_FOLDER), args.tasks.split(",")
    outcomes = []
    for task in tasks:
        for cache in ("", *args.caches.split(",")):
            outcomes.append(outcome(bundle, task, cache, args.count))
            print(json.dumps(asdict(outcomes[-1])), file=sys.stderr, flush=True)
    facts = {**common.facts(args), "steps": STEPS, "cfg": CFG, "count": args.count}
    if args.json:
        print(json.dumps({**facts, "results": [asdict(o) for o in outcomes]}, indent=1))
        return
    title = f"Step caches, {args.count} held-out prompts of each task, {STEPS} steps, CFG {CFG:g}"
    print(common.report(title, table(outcomes, tasks), facts))


if __name__ == "__main__":
    main()
