"""Does a LoRA learn? The embedded model is taught a shape that it does not know, a hexagon, by 60
pictures with captions; and an edit that it does not know, "make it a hexagon", by 60 pairs.

Pictures are the grammar's scenes with a hexagon in the place of one shape. Right is a picture of an
unseen prompt in which the checker finds everything, the hexagon included; `kind` is the share in
which its shape is read as a hexagon. The other scores are those of `inkstone train --score`, with
hexagons among the shapes that the reader knows, before and after. The reader's own accuracy is that
on true renderings.

python bench/train_lora.py hexagon
python bench/train_lora.py edit
python bench/train_lora.py edit --shape star --scenes all
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
SHAPE = "hexagon"
USUAL: dict[str, dict[str, float]] = {
    "hexagon": {"known": 3000, "repeat": 50, "steps": 9000, "noise": 0.5, "module_dropout": 0.25},
    "edit": {"known": 2000, "repeat": 33, "steps": 5000, "noise": 0.75, "module_dropout": 0.0},
}
CANVAS = (128, 128)  # of pictures with a hexagon
Models: TypeAlias = "dict[str, Bundle]"
Report: TypeAlias = "Callable[[Models], common.Cells]"
"""Models by what a row says of them, the first without the LoRA -> a table."""


def hexagons(rng: np.random.Generator, split: str) -> Scene:
    """A scene of the grammar in which one shape is a hexagon."""
    from inkstone.training.grammar import Shape, sample

    while True:
        scene = sample(rng, "scenes", CANVAS, split)
        shapes = [i for i, item in enumerate(scene.items) if isinstance(item, Shape)]
        if shapes:
            return with_kind(scene, shapes[int(rng.integers(len(shapes)))])


def with_kind(scene: Scene, index: int, kind: str = SHAPE) -> Scene:
    """The scene with another kind of shape, in its text too."""
    items = list(scene.items)
    old = items[index]
    items[index] = replace(old, kind=kind)
    name = f"{old.size} {old.colour} {old.kind}".strip()
    front, found, back = (scene.text.rpartition if index else scene.text.partition)(name)
    assert found, scene.text
    text = front + name.removesuffix(old.kind) + kind + back
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


FORMS = {"small": 10, "large": 12, "alone": 8, "two": 10, "word": 20}
"""Of 60 pictures: how many show what (a dataset that a person makes shows what is to be learned in
each way that will be asked for)."""


def form(scene: Scene) -> str:
    """Which of FORMS a scene has."""
    from inkstone.training.grammar import Shape

    shapes = [item for item in scene.items if isinstance(item, Shape)]
    if len(shapes) < len(scene.items):
        return "word"
    return "two" if len(shapes) == 2 else shapes[0].size or "alone"


def shown(count: int, seed: int) -> dict[str, Scene]:
    """Scenes with a hexagon to learn from, by their prompts: each form as often as FORMS says, and
    in half of those with two shapes both are hexagons.
    """
    from inkstone.training.grammar import prompt

    rng, found = np.random.default_rng(seed), dict[str, "Scene"]()
    left = {name: round(number * count / 60) for name, number in FORMS.items()}
    while any(left.values()):
        scene = hexagons(rng, "train")
        of = form(scene)
        if of == "two" and left[of] % 2:
            for index in (0, 1):
                if scene.items[index].kind != SHAPE:
                    scene = with_kind(scene, index)
        if left[of] and prompt(scene) not in found:
            found[prompt(scene)] = scene
            left[of] -= 1
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


def edits(args: argparse.Namespace, count: int, split: str, seed: int) -> list[Edit]:
    """The edit that makes the only shape of a scene one of another kind."""
    from inkstone.training.edits import Edit
    from inkstone.training.grammar import Shape, prompt, sample

    kind, request = args.shape, f"make it a {args.shape}"
    rng, found = np.random.default_rng(seed), dict[str, "Edit"]()
    while len(found) < count:
        scene = sample(rng, "scenes", CANVAS, split)
        shapes = [i for i, item in enumerate(scene.items) if isinstance(item, Shape)]
        if len(shapes) != 1 or scene.items[shapes[0]].kind == kind:
            continue
        if args.scenes == "all" or form(scene) == args.scenes:
            target = with_kind(scene, shapes[0], kind)
            found[prompt(scene)] = Edit(scene, target, request, "kind", shapes[0])
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

    taught, folder = shown(args.pictures, SEED), args.folder / "hexagon"
    known = others(args.known, SEED + 2)
    every = [*list(taught.items()) * args.repeat, *known.items()]
    for number, (text, scene) in enumerate(every):
        write(folder, f"{number:03}", render(scene), text)
    output = args.file or args.folder / "hexagon.safetensors"
    minutes = train(args, folder, output)

    def report(models: Models) -> common.Cells:
        new = list(scenes(args.count, "test", SEED + 1, list(taught)).values())
        cells: common.Cells = [("", *KEYS)]
        for name, asked in (("hexagons", new), ("others", test_scenes(2 * args.count))):
            pictures = {"true renderings": [render(one) for one in asked]}
            for when, bundle in models.items():
                pictures[when] = draw_scenes(bundle, asked, bundle.model.preset())
            for when, drawn in pictures.items():
                row = rates(drawn, asked)
                cells.append((f"{name}, {when}", *(f"{row[k]:.1f}" for k in KEYS)))
        return cells

    return minutes, output, report


def edit(args: argparse.Namespace) -> tuple[float, Path, Report]:
    """Trains the edit; minutes, file, and how it is scored."""
    from inkstone.training.edit_scores import draw_edits, test_edits
    from inkstone.training.edits import sample_edit
    from inkstone.training.render import render

    taught, folder = edits(args, args.pictures, "train", SEED), args.folder / "edit"
    rng = np.random.default_rng(SEED + 2)
    taught *= args.repeat
    taught += [sample_edit(rng) for _ in range(args.known)]
    for number, one in enumerate(taught):
        write(folder, f"{number:03}", render(one.target), one.text)
        write(args.folder / "edit-before", f"{number:03}", render(one.source))
    output = args.file or args.folder / "edit.safetensors"
    minutes = train(args, folder, output, control_dir=[args.folder / "edit-before"])

    def report(models: Models) -> common.Cells:
        new, old = edits(args, args.count, "test", SEED + 1), test_edits(2 * args.count)
        cells: common.Cells = [("", "asked", "rest", "both")]
        for name, asked in ((f"make it a {args.shape}", new), ("others", old)):
            pictures = {"true renderings": [render(one.target) for one in asked]}
            for when, bundle in models.items():
                pictures[when] = draw_edits(bundle, asked, bundle.model.preset(1))
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
    if args.file:
        return 0.0
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
        module_dropout=args.module_dropout,
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
    from inkstone.training.grammar import KINDS

    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("what", choices=("hexagon", "edit"))
    p.add_argument("--folder", type=Path, default=Path("hexagon-lora"), help="pictures and result")
    p.add_argument("--file", type=Path, help="scores this LoRA, nothing is trained")
    p.add_argument("--shape", default=SHAPE, choices=(SHAPE, *KINDS), help="of the edit")
    p.add_argument(
        "--scenes",
        default="word",
        choices=("word", "all"),
        help="of the edit: with a word and a shape, or also with a shape alone, which this model "
        "does not keep in an edit",
    )
    p.add_argument("--pictures", type=int, default=60, help="that teach the hexagon")
    p.add_argument("--known", type=int, help="further pictures, of what it knows")
    p.add_argument("--repeat", type=int, help="how often each of the 60 comes in an epoch")
    p.add_argument("--count", type=int, default=100, help="unseen prompts; twice as many of others")
    p.add_argument("--steps", type=int)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--schedule", default="cosine")
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--ema", type=float, default=0.995)
    p.add_argument("--shift", type=float, help="of noise levels (default: as it draws)")
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--noise", type=float, help="on encoded captions")
    p.add_argument("--module-dropout", type=float, help="share of layers")
    p.add_argument("--targets", nargs="*", default=["attention", "mlp", "txt_in"])
    p.add_argument("--strength", type=float, default=1.1, help="of the LoRA, scored beside 1")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--progress", action="store_true")
    p.set_defaults(**USUAL[p.parse_args().what])
    args = p.parse_args()
    import torch

    from inkstone.loaders.lora.adapters import Adapter
    from inkstone.loaders.lora.file import load_lora
    from inkstone.loaders.models.load import load_all

    torch.set_num_threads(args.threads)
    minutes, output, report = {"hexagon": hexagon, "edit": edit}[args.what](args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    before = load_all(None)
    models, lora = {"before": before}, load_lora(output)
    for strength in dict.fromkeys((1.0, args.strength)):
        model = before.model.with_loras([Adapter(lora, strength)])
        models[f"LoRA {strength:g}"] = replace(before, model=model)
    logging.disable(logging.WARNING)  # hexagon is no word of its grammar
    cells = report(models)
    known = f" and {args.known} of what it knows" if args.known else ""
    title = f"{args.pictures} pictures{known}"
    if not args.file:
        title += f": {minutes:.1f} minutes, peak {peak:.2f} GB of the process"
    print(common.report(title, cells, common.facts(args)))


if __name__ == "__main__":
    main()
