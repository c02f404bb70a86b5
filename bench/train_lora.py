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
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common

if TYPE_CHECKING:
    from inkstone.loaders.models.bundle import Bundle
    from inkstone.training.grammar import Scene

SEED = 60
SHAPE = "hexagon"


def hexagons(rng: np.random.Generator, split: str) -> Scene:
    """A scene of the grammar in which one shape is a hexagon."""
    from inkstone.training.grammar import Shape, sample

    while True:
        scene = sample(rng, "scenes", None, split)
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


@dataclass(frozen=True)
class Data:
    """Pictures of a folder, and what they were made of."""

    folder: Path
    texts: frozenset[str]


def write_pictures(folder: Path, count: int) -> Data:
    """Pictures and captions."""
    from PIL import Image

    from inkstone.training.grammar import prompt
    from inkstone.training.render import render

    rng = np.random.default_rng(SEED)
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        scene = hexagons(rng, "train")
        scenes.setdefault(prompt(scene), scene)
    folder.mkdir(parents=True, exist_ok=True)
    for number, (text, scene) in enumerate(scenes.items()):
        Image.fromarray(render(scene)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(text + "\n")
    return Data(folder, frozenset(scenes))


def unseen(data: Data, count: int) -> list[Scene]:
    """Scenes with a hexagon of which no text was trained on."""
    from inkstone.training.grammar import prompt

    rng = np.random.default_rng(SEED + 1)
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        scene = hexagons(rng, "test")
        if prompt(scene) not in data.texts:
            scenes.setdefault(prompt(scene), scene)
    return list(scenes.values())


def rates(pictures: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict[str, float]:
    """Percent right, with hexagons among the shapes that are read."""
    from inkstone.training.grammar import KINDS, TAUGHT
    from inkstone.training.reader import score

    return {k: 100 * v for k, v in score(pictures, scenes, (*KINDS, *TAUGHT)).items()}


def hexagon_report(bundle: Bundle, after: Bundle, data: Data, count: int) -> common.Cells:
    """Scores of hexagons and of all else, before and after."""
    from inkstone.training.evaluate import KEYS, draw_scenes, test_scenes
    from inkstone.training.render import render

    new, old = unseen(data, count), test_scenes(2 * count)
    preset = bundle.model.preset()
    rows = [
        ("hexagons, true renderings", rates([render(s) for s in new], new)),
        ("hexagons, before", rates(draw_scenes(bundle, new, preset), new)),
        ("hexagons, after", rates(draw_scenes(after, new, preset), new)),
        ("others, true renderings", rates([render(s) for s in old], old)),
        ("others, before", rates(draw_scenes(bundle, old, preset), old)),
        ("others, after", rates(draw_scenes(after, old, preset), old)),
    ]
    return [("", *KEYS), *((name, *(f"{row[k]:.1f}" for k in KEYS)) for name, row in rows)]


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
    p.add_argument("--pictures", type=int, default=60)
    p.add_argument("--count", type=int, default=100, help="unseen prompts; twice as many of others")
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--schedule", default="cosine")
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--ema", type=float, default=0.0)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--progress", action="store_true")
    args = p.parse_args()
    import torch

    from inkstone.loaders.lora.adapters import Adapter
    from inkstone.loaders.lora.file import load_lora
    from inkstone.loaders.models.load import load_all

    torch.set_num_threads(args.threads)
    bundle = load_all(None)
    output = args.folder / f"{args.what}.safetensors"
    data = write_pictures(args.folder / "pictures", args.pictures)
    minutes = train(args, data.folder, output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    model = bundle.model.with_loras([Adapter(load_lora(output), 1.0)])
    cells = hexagon_report(bundle, replace(bundle, model=model), data, args.count)
    title = f"{args.pictures} pictures, {minutes:.1f} minutes, peak {peak:.2f} GB of the process"
    print(common.report(title, cells, common.facts(args)))


if __name__ == "__main__":
    main()
