"""What step caches save, and what they cost in the embedded model's scores.

Held-out prompts of text to image, edits and a Canny control are drawn in 20 steps at CFG 2 without
a cache and with each of --caches, from the same seeds. Scores in points of 100: text to image and
edits count a picture in which everything is right, the control the F of its edges. Evaluations are
counted at the blocks themselves. Points lost are of the same pictures, with intervals at 95 %. The
usual numbers were chosen on the first 100 prompts: --first 100 leaves them out.

python bench/step_cache.py --count 100
python bench/step_cache.py --first 100 --count 400 --keep /tmp/step-caches
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
    """One task with one cache ("" = none). marks: points of 100 of each picture."""

    task: str
    cache: str
    evaluations: int
    marks: list[float]
    seconds: float

    @property
    def score(self) -> float:
        """Their mean."""
        return sum(self.marks) / len(self.marks)


@dataclass(frozen=True)
class Prompts:
    """Held-out prompts `first` .. `first + count - 1` of a task; their numbers are the seeds."""

    first: int
    count: int


Task = tuple[Callable[["Bundle"], "list[np.ndarray]"], Callable[["list[np.ndarray]"], list[float]]]


def _preset(bundle: Bundle):
    return replace(bundle.model.family.preset, steps=STEPS, cfg=CFG)


def _text(prompts: Prompts) -> Task:
    from inkstone.training import evaluate, reader

    scenes = evaluate.test_scenes(prompts.first + prompts.count)[prompts.first :]
    return (
        lambda bundle: evaluate.draw_scenes(bundle, scenes, _preset(bundle), prompts.first),
        lambda pictures: [100.0 * bool(reader.read(p, s)["all"]) for p, s in zip(pictures, scenes)],
    )


def _edit(prompts: Prompts) -> Task:
    from inkstone.training import edit_scores

    edits = edit_scores.test_edits(prompts.first + prompts.count)[prompts.first :]
    return (
        lambda bundle: edit_scores.draw_edits(bundle, edits, _preset(bundle), prompts.first),
        lambda pictures: [100.0 * all(edit_scores.judge(p, e)) for p, e in zip(pictures, edits)],
    )


def _control(prompts: Prompts) -> Task:
    from inkstone.loaders.models.control import ControlModel, load_control
    from inkstone.loaders.models.load import EMBEDDED_FOLDER
    from inkstone.training import control_scores
    from inkstone.training.render import render

    branch = load_control(EMBEDDED_FOLDER)
    assert isinstance(branch, ControlModel)  # the embedded one is
    first, count = prompts.first, prompts.count
    named, free = control_scores.test_scenes((first + count + 1) // 2)
    scenes = [*named[first // 2 :], *free[first // 2 :]][:count]

    def draw(bundle: Bundle) -> list[np.ndarray]:
        setting = control_scores.Setting("canny", _preset(bundle))
        return control_scores.draw_controlled(bundle, branch, scenes, setting, first)

    def score(pictures: Sequence[np.ndarray]) -> list[float]:
        pairs = zip(pictures, scenes)
        return [100 * control_scores.edge_score(p, render(s)) for p, s in pairs]

    return draw, score


TASKS = {"text": _text, "edit": _edit, "control": _control}


def outcome(bundle: Bundle, task: str, cache: str, prompts: Prompts) -> Outcome:
    """Draws and scores one task with one cache."""
    settings = parse_step_cache(cache) if cache else None
    bundle = replace(bundle, model=replace(bundle.model, step_cache=settings))
    draw, score = TASKS[task](prompts)
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


def lost(none: Outcome, own: Outcome) -> str:
    """Points lost of the same pictures, with the interval at 95 % of a paired bootstrap."""
    from inkstone.score.statistics import paired_interval

    points = paired_interval(own.marks, none.marks, [1] * len(own.marks))
    return f"{points.value:+.1f} ({points.low:+.1f} to {points.high:+.1f})"


def table(outcomes: Sequence[Outcome], tasks: Sequence[str]) -> common.Cells:
    """Rows of the table: of each task times fewer evaluations, score, and what it lost."""
    by = {(o.task, o.cache): o for o in outcomes}
    head = ["cache", *(f"{t}: fewer" for t in tasks), *(f"{t}: score" for t in tasks)]
    cells = [(*head, *(f"{t}: lost" for t in tasks), "mean lost")]
    for cache in dict.fromkeys(o.cache for o in outcomes):
        pairs = [(by[task, ""], by[task, cache]) for task in tasks if (task, cache) in by]
        if len(pairs) < len(tasks):
            continue
        row = [f"{none.evaluations / own.evaluations:.2f}" for none, own in pairs]
        row += [f"{own.score:.1f}" for _, own in pairs]
        row += [lost(none, own) for none, own in pairs]
        mean = sum(none.score - own.score for none, own in pairs) / len(pairs)
        cells.append((cache or "none", *row, f"{mean:+.1f}"))
    return cells


def measured(task: str, cache: str, prompts: Prompts, keep: Path | None) -> Outcome:
    """`outcome` of the embedded model, from the folder `keep` where it is there."""
    from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all

    name = f"{task}-{cache or 'none'}-{prompts.first}-{prompts.count}.json".replace(":", "_")
    if keep is not None and (keep / name).exists():
        return Outcome(**json.loads((keep / name).read_text("utf-8")))
    found = outcome(load_all(EMBEDDED_FOLDER), task, cache, prompts)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / name).write_text(json.dumps(asdict(found)), "utf-8")
    line = {"task": task, "cache": cache, "score": found.score, "seconds": found.seconds}
    print(json.dumps(line), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Draws everything and prints the table."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--count", type=int, default=100, help="prompts of each task")
    p.add_argument("--first", type=int, default=0, help="number of the first prompt and its seed")
    p.add_argument("--caches", default=CACHES, help="NAME:THRESHOLD, separated by commas")
    p.add_argument("--tasks", default=",".join(TASKS), help="text, edit, control")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--keep", type=Path, help="keeps what is measured, and goes on from there")
    p.add_argument("--json", action="store_true", help="print facts as JSON instead of a table")
    args = p.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    tasks, prompts = args.tasks.split(","), Prompts(args.first, args.count)
    outcomes = [
        measured(task, cache, prompts, args.keep)
        for task in tasks
        for cache in ("", *args.caches.split(","))
    ]
    facts = {
        **common.facts(args),
        "steps": STEPS,
        "cfg": CFG,
        "count": args.count,
        "first": args.first,
    }
    if args.json:
        print(json.dumps({**facts, "results": [asdict(o) for o in outcomes]}, indent=1))
        return
    title = (
        f"Step caches, {args.count} held-out prompts of each task from {args.first} on, "
        f"{STEPS} steps, CFG {CFG:g}"
    )
    print(common.report(title, table(outcomes, tasks), facts))


if __name__ == "__main__":
    main()
