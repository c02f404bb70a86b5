"""Does a LoRA learn? The embedded model is taught a shape that it does not know, a hexagon, by 60
pictures with captions, and the edit "make it a hexagon" by 60 pairs.

Pictures are the grammar's scenes with a hexagon in the place of one shape. Right is a picture of an
unseen prompt in which the checker finds everything, the hexagon included; `kind` is the share in
which its shape is read as a hexagon. The other scores are those of `inkstone train --score`, with
hexagons among the shapes that the reader knows, before and after. The reader's own accuracy is that
on true renderings.

python bench/train_lora.py hexagon
python bench/train_lora.py edit
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common

if TYPE_CHECKING:
    from inkstone.loaders.models.bundle import Bundle
    from inkstone.training.edits import Edit
    from inkstone.training.grammar import Scene

SEED = 60
SHAPE, REQUEST = "hexagon", "make it a hexagon"
CANVAS = (128, 128)  # of pictures with a hexagon
Report: TypeAlias = "Callable[[Bundle, Bundle], common.Cells]"
"""(model before, model after) -> a table."""


def hexagons(rng: np.random.Generator, split: str) -> Scene:
    """A scene of the grammar in which one shape is a hexagon."""
    from inkstone.training.grammar import Shape, sample

    while True:
        scene = sample(rng, "scenes", CANVAS, split)
        shapes = [i for i, item in enumerate(scene.items) if isinstance(item, Shape)]
        if shapes:
            return with_hexagon(scene, shapes[int(rng.integers(len(shapes)))])


def with_hexagon(scene: Scene, index: int) -> Scene:
    """The scene with another kind of shape, in its text too."""
    items = list(scene.items)
    old = items[index]
    items[index] = replace(old, kind=SHAPE)
    name = f"{old.size} {old.colour} {old.kind}".strip()
    front, found, back = (scene.text.rpartition if index else scene.text.partition)(name)
    assert found, scene.text
    text = front + name.removesuffix(old.kind) + SHAPE + back
    return replace(scene, items=tuple(items), text=text)


def scenes(count: int, split: str, seed: int, without: Sequence[str] = ()) -> dict[str, Scene]:
    """Scenes with a hexagon by their prompts, none of which is in `without`."""
    from inkstone.training.grammar import prompt

    rng, found = np.random.default_rng(seed), dict[str, "Scene"]()
    while len(found) < count:
        scene = hexagons(rng, split)
        if prompt(scene) not in without:
            found.setdefault(prompt(scene), scene)
    return found


def others(count: int, seed: int) -> dict[str, Scene]:
    """Scenes with the shapes that the model knows."""
    from inkstone.training.grammar import Shape, prompt, sample

    rng, found = np.random.default_rng(seed), dict[str, "Scene"]()
    while len(found) < count:
        scene = sample(rng, "scenes")
        if any(isinstance(item, Shape) for item in scene.items):
            found.setdefault(prompt(scene), scene)
    return found


def edits(count: int, split: str, seed: int) -> list[Edit]:
    """The edit that makes the only shape of a scene a hexagon."""
    from inkstone.training.edits import Edit
    from inkstone.training.grammar import Shape, prompt, sample

    rng, found = np.random.default_rng(seed), dict[str, "Edit"]()
    while len(found) < count:
        scene = sample(rng, "scenes", CANVAS, split)
        shapes = [i for i, item in enumerate(scene.items) if isinstance(item, Shape)]
        if len(shapes) == 1:
            target = with_hexagon(scene, shapes[0])
            found[prompt(scene)] = Edit(scene, target, REQUEST, "kind", shapes[0])
    return list(found.values())


def write(folder: Path, name: str, picture: np.ndarray, text: str = "") -> None:
    """A picture, and its caption."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / f"{name}.png")
    if text:
        (folder / f"{name}.txt").write_text(text + "\n")


def rates(pictures: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict[str, float]:
    """Percent right, with hexagons among the shapes that are read."""
    from inkstone.training.grammar import KINDS, TAUGHT
    from inkstone.training.reader import score

    return {k: 100 * v for k, v in score(pictures, scenes, (*KINDS, *TAUGHT)).items()}


def hexagon(args: argparse.Namespace) -> tuple[float, Path, Report]:
    """Trains the shape; minutes, file, and how it is scored."""
    from inkstone.training.evaluate import KEYS, draw_scenes, test_scenes
    from inkstone.training.render import render

    taught, folder = scenes(args.pictures, "train", SEED), args.folder / "hexagon"
    known = others(args.known, SEED + 2)
    shown = [*list(taught.items()) * args.repeat, *known.items()]
    for number, (text, scene) in enumerate(shown):
        write(folder, f"{number:03}", render(scene), text)
    output = args.folder / "hexagon.safetensors"
    minutes = train(args, folder, output)

    def report(before: Bundle, after: Bundle) -> common.Cells:
        new = list(scenes(args.count, "test", SEED + 1, list(taught)).values())
        old, preset = test_scenes(2 * args.count), before.model.preset()
        rows = [
            ("hexagons, true renderings", rates([render(s) for s in new], new)),
            ("hexagons, before", rates(draw_scenes(before, new, preset), new)),
            ("hexagons, after", rates(draw_scenes(after, new, preset), new)),
            ("others, true renderings", rates([render(s) for s in old], old)),
            ("others, before", rates(draw_scenes(before, old, preset), old)),
            ("others, after", rates(draw_scenes(after, old, preset), old)),
        ]
        return [("", *KEYS), *((name, *(f"{row[k]:.1f}" for k in KEYS)) for name, row in rows)]

    return minutes, output, report


def edit(args: argparse.Namespace) -> tuple[float, Path, Report]:
    """Trains the edit; minutes, file, and how it is scored."""
    from inkstone.training.edit_scores import draw_edits, test_edits
    from inkstone.training.edits import sample_edit
    from inkstone.training.render import render

    taught, folder = edits(args.pictures, "train", SEED), args.folder / "edit"
    rng = np.random.default_rng(SEED + 2)
    taught *= args.repeat
    taught += [sample_edit(rng) for _ in range(args.known)]
    for number, one in enumerate(taught):
        write(folder, f"{number:03}", render(one.target), one.text)
        write(args.folder / "edit-before", f"{number:03}", render(one.source))
    output = args.folder / "edit.safetensors"
    minutes = train(args, folder, output, control_dir=[args.folder / "edit-before"])

    def report(before: Bundle, after: Bundle) -> common.Cells:
        new, old = edits(args.count, "test", SEED + 1), test_edits(2 * args.count)
        preset, cells = before.model.preset(1), [("", "asked", "rest", "both")]
        for name, asked in (("hexagons", new), ("others", old)):
            pictures = {
                "true renderings": [render(one.target) for one in asked],
                "before": draw_edits(before, asked, preset),
                "after": draw_edits(after, asked, preset),
            }
            cells += [
                (f"{name}, {when}", *judged(drawn, asked)) for when, drawn in pictures.items()
            ]
        return cells

    return minutes, output, report


def judged(pictures: Sequence[np.ndarray], asked: Sequence[Edit]) -> tuple[str, ...]:
    """Percent of edits done, of all else as it was, of both."""
    from inkstone.training.edit_scores import judge
    from inkstone.training.grammar import KINDS, TAUGHT

    verdicts = [judge(p, one, (*KINDS, *TAUGHT)) for p, one in zip(pictures, asked, strict=True)]
    sums = [sum(v) for v in zip(*[(a, b, a and b) for a, b in verdicts])]
    return tuple(f"{100 * one / len(verdicts):.1f}" for one in sums)


def train(args: argparse.Namespace, data: Path, output: Path, **more: object) -> float:
    """Trains, in this process; the minutes."""
    from inkstone.pipeline.train_choices import TrainSettings
    from inkstone.training.lora.session import train as train_lora

    began = time.perf_counter()
    settings = TrainSettings(
        data=data,
        output=output,
        steps=args.steps,
        batch=args.batch,
        lr=args.lr,
        rank=args.rank,
        lr_schedule=args.schedule,
        warmup=20,
        seed=args.seed,
        ema=args.ema,
        caption_dropout=args.dropout,
        caption_noise=args.noise,
        targets=tuple(args.targets),
        shift=args.shift,
        save_every=args.steps,
        **more,
    )
    train_lora(settings, _show if args.progress else None)
    return (time.perf_counter() - began) / 60


def _show(report) -> None:
    if report.line.step % 50 == 0:
        print(f"step {report.line.step}: {report.text()}", file=sys.stderr, flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("what", choices=("hexagon", "edit"))
    p.add_argument("--folder", type=Path, default=Path("hexagon-lora"), help="pictures and result")
    p.add_argument("--pictures", type=int, default=60, help="that teach the hexagon")
    p.add_argument("--known", type=int, default=600, help="further pictures, of what it knows")
    p.add_argument("--repeat", type=int, default=12, help="how often each comes in an epoch")
    p.add_argument("--count", type=int, default=100, help="unseen prompts; twice as many of others")
    p.add_argument("--steps", type=int, default=5000)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--schedule", default="cosine")
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--ema", type=float, default=0.995)
    p.add_argument("--shift", type=float, help="of noise levels (default: as it draws)")
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--noise", type=float, default=0.75, help="on encoded captions")
    p.add_argument("--targets", nargs="*", default=["attention", "mlp", "txt_in"])
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--progress", action="store_true")
    args = p.parse_args()
    import torch

    from inkstone.loaders.lora.adapters import Adapter
    from inkstone.loaders.lora.file import load_lora
    from inkstone.loaders.models.load import load_all

    torch.set_num_threads(args.threads)
    minutes, output, report = {"hexagon": hexagon, "edit": edit}[args.what](args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    before = load_all(None)
    model = before.model.with_loras([Adapter(load_lora(output), 1.0)])
    logging.disable(logging.WARNING)  # hexagon is no word of its grammar
    cells = report(before, replace(before, model=model))
    known = f" and {args.known} of what it knows" if args.known else ""
    title = (
        f"{args.pictures} pictures{known}: {minutes:.1f} minutes, peak {peak:.2f} GB of the process"
    )
    print(common.report(title, cells, common.facts(args)))


if __name__ == "__main__":
    main()
