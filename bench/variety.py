"""What variety does to the pictures of different seeds, and what it costs in the embedded model's
scores.

Two sets of held-out prompts, drawn with --seeds seeds each. *Whole* prompts say everything, as the
model was trained: right is a picture in which the checker finds all of it. *Open* prompts name a
shape and leave two or more of its colour, size, place and ground open: right is a picture with one
shape that is as the prompt says.

Distance: the root mean square over pixels and channels, of 255, between two pictures of one prompt,
made 4 times smaller first so that no edge counts that moved by a pixel; the mean over all pairs of
seeds and all prompts. *Differ*: share of those pairs of open prompts in which the checker names
another colour, size, place, kind or ground.

python bench/variety.py --count 40 --seeds 6
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common
from inkstone.sampling.variety_choices import REWRITE, parse_variety, variety_of

if TYPE_CHECKING:
    from inkstone.loaders.models.bundle import Bundle
    from inkstone.training.grammar import Scene

STEPS, CFG, SIDE, SMALLER = 20, 2.0, 128, 4
OPTIONS = (
    "text-noise:0.25,text-noise:0.5,text-noise:1,no-early-cfg:0.2,no-early-cfg:0.5,"
    "text-noise:0.5+no-early-cfg:0.2,rewrite:0.7,rewrite:1"
)
Facts = dict[str, str]
"""Of a picture with one shape: ground, kind, colour, size, place, as the grammar names them."""


@dataclass(frozen=True)
class Task:
    """One prompt. scene: all that it says, of a whole prompt; said: the facts of an open one."""

    text: str
    scene: Scene | None = None
    said: Facts | None = None


@dataclass(frozen=True)
class Outcome:
    """One set of prompts with one option ("" = none)."""

    prompts: str
    option: str
    distance: float
    right: float  # percent
    differ: float  # percent of pairs


def whole_prompts(count: int) -> list[Task]:
    """Held-out prompts that say everything."""
    from inkstone.training import grammar
    from inkstone.training.evaluate import SEED

    rng = np.random.default_rng(SEED)
    scenes = [grammar.sample(rng, "scenes", (SIDE, SIDE), "test") for _ in range(count)]
    return [Task(grammar.prompt(scene), scene=scene) for scene in scenes]


def open_prompts(count: int) -> list[Task]:
    """Prompts of one shape that say two or three of its five facts, the kind among them."""
    from inkstone.training import grammar
    from inkstone.training.evaluate import SEED

    rng = np.random.default_rng(SEED + 18)
    tasks: list[Task] = []
    while len(tasks) < count:
        scene = grammar.sample(rng, "scenes", (SIDE, SIDE), "test")
        shape = scene.items[0]
        if len(scene.items) > 1 or not isinstance(shape, grammar.Shape):
            continue
        facts = {"colour": shape.colour, "ground": scene.ground, "size": shape.size}
        named = [name for name, fact in facts.items() if fact]
        extra = rng.permutation(named)[: int(rng.integers(1, 3))]
        said = {"kind": shape.kind} | {name: facts[name] for name in sorted(extra)}
        name = " ".join(said[k] for k in ("size", "colour", "kind") if k in said)
        text = f"a {name}" + (f" on a {said['ground']} background" if "ground" in said else "")
        tasks.append(Task(text.replace("a orange", "an orange"), said=said))
    return tasks


def facts_of(picture: np.ndarray) -> Facts:
    """What the checker reads in a picture of one shape; "" for what it cannot tell."""
    from inkstone.training import grammar, reader

    ground, ink = reader.ground_and_ink(picture)
    lines = [np.flatnonzero(ink.sum(axis) >= 2) for axis in (1, 0)]
    if not all(map(len, lines)):
        return dict.fromkeys(("kind", "colour", "size", "place"), "") | {
            "ground": reader.nearest_colour(ground)
        }
    (top, bottom), (left, right) = ((int(at[0]), int(at[-1]) + 1) for at in lines)
    box = ink[top:bottom, left:right]
    colour = np.median(picture[top:bottom, left:right][box], axis=0)
    size = min(grammar.SIZES, key=lambda name: abs(grammar.SIZES[name] - max(box.shape)))
    middle = ((left + right) / 2, (top + bottom) / 2)
    diameter = grammar.SIZES[size]

    def off(place: str) -> float:
        return float(np.hypot(*np.subtract(middle, grammar.centre(place, SIDE, SIDE, diameter))))

    place = min(grammar.PLACES, key=off)
    return {
        "ground": reader.nearest_colour(ground),
        "kind": reader.kind_of(box) if min(box.shape) >= 8 else "",
        "colour": reader.nearest_colour(colour),
        "size": size,
        "place": place if off(place) <= reader.NEAR else "",
    }


def is_right(picture: np.ndarray, task: Task) -> bool:
    """Whether a picture is as its prompt says."""
    from inkstone.training import reader

    if task.scene is not None:
        return bool(reader.read(picture, task.scene)["all"])
    assert task.said is not None
    facts = facts_of(picture)
    return all(facts[name] == fact for name, fact in task.said.items())


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square of the difference of two pictures [H,W,3], made smaller, of 255."""

    def smaller(picture: np.ndarray) -> np.ndarray:
        h, w, c = picture.shape
        cells = picture.astype(np.float64).reshape(h // SMALLER, SMALLER, w // SMALLER, SMALLER, c)
        return cells.mean(axis=(1, 3))

    return float(np.sqrt(np.mean((smaller(a) - smaller(b)) ** 2)))


def draw(bundle: Bundle, task: Task, option: str, seeds: int) -> list[np.ndarray]:
    """The pictures of one prompt: a batch, or with rewriting one after the other."""
    from inkstone.pipeline.enhance import EnhanceRequest, enhance
    from inkstone.sampling.request import Request
    from inkstone.sampling.sampler import denoise
    from inkstone.sampling.schedule import sigmas

    options = [parse_variety(one) for one in option.split("+") if one]
    model = replace(bundle.model, variety=variety_of(options))
    rewrite = next((one for one in options if one.method == REWRITE), None)
    text, vae = bundle.text_encoder, bundle.vae
    assert text is not None and vae is not None
    prompts = [task.text]
    if rewrite is not None:
        requests = [
            EnhanceRequest(prompt=task.text, temperature=rewrite.amount, seed=seed)
            for seed in range(seeds)
        ]
        prompts = [enhance(text, request).text for request in requests]
    levels = sigmas(model.schedule, STEPS, (SIDE // 16) ** 2)
    negative = text.encode("").states
    pictures = []
    for seed, prompt in enumerate(prompts):
        batch = 1 if rewrite is not None else seeds
        request = Request(SIDE, SIDE, levels, seed=seed, batch=batch, cfg=CFG)
        latent = denoise(model, text.encode(prompt).states, negative, request)
        pictures += list((vae.decode(latent) * 255).round().byte().numpy())
    return pictures


def outcome(bundle: Bundle, name: str, tasks: Sequence[Task], option: str, seeds: int) -> Outcome:
    """Draws and scores one set with one option."""
    distances, differ, right = [], [], []
    for task in tasks:
        pictures = draw(bundle, task, option, seeds)
        right += [is_right(picture, task) for picture in pictures]
        distances += [distance(a, b) for a, b in combinations(pictures, 2)]
        if task.said is not None:
            differ += [a != b for a, b in combinations(map(facts_of, pictures), 2)]
    means = [100 * float(np.mean(values)) if values else float("nan") for values in (right, differ)]
    return Outcome(name, option, float(np.mean(distances)), *means)


def table(outcomes: Sequence[Outcome], names: Sequence[str]) -> common.Cells:
    """Rows: of each set distance, its growth and the percent right; of open ones what differs."""
    by = {(o.prompts, o.option): o for o in outcomes}
    head = ["variety"]
    for name in names:
        head += [f"{name}: distance", "growth", "right", "points"]
    cells = [(*head, "differ")]
    for option in dict.fromkeys(o.option for o in outcomes):
        row = [option or "none"]
        for name in names:
            none, own = by[name, ""], by[name, option]
            growth = 100 * (own.distance / none.distance - 1)
            row += [f"{own.distance:.2f}", f"{growth:+.0f} %", f"{own.right:.1f}"]
            row.append(f"{own.right - none.right:+.1f}")
        cells.append((*row, f"{by[names[-1], option].differ:.0f} %"))
    return cells


SETS = {"whole": whole_prompts, "open": open_prompts}


def main() -> None:
    """Draws everything and prints the table."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--count", type=int, default=40, help="prompts of each set")
    p.add_argument("--seeds", type=int, default=6)
    p.add_argument("--options", default=OPTIONS, help="NAME:AMOUNT, + joins two, commas separate")
    p.add_argument("--sets", default=",".join(SETS), help="whole, open")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--json", action="store_true", help="print facts as JSON instead of a table")
    args = p.parse_args()
    import torch

    from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all
    from inkstone.loaders.models.weight_file import LoadOptions

    torch.set_num_threads(args.threads)
    bundle = load_all(EMBEDDED_FOLDER, LoadOptions(torch.float32))
    names, outcomes = args.sets.split(","), []
    for option in ("", *args.options.split(",")):
        for name in names:
            tasks = SETS[name](args.count)
            outcomes.append(outcome(bundle, name, tasks, option, args.seeds))
            print(json.dumps(asdict(outcomes[-1])), file=sys.stderr, flush=True)
    facts = {**common.facts(args), "steps": STEPS, "cfg": CFG, "size": f"{SIDE}x{SIDE}"}
    if args.json:
        print(json.dumps({**facts, "results": [asdict(o) for o in outcomes]}, indent=1))
        return
    title = f"Variety, {args.count} prompts of each set, {args.seeds} seeds, {STEPS} steps"
    print(common.report(title, table(outcomes, names), facts))


if __name__ == "__main__":
    main()
