"""Cached examples against what the nodes of inference compute for the same picture and prompt."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from PIL import Image

from inkstone.loaders.models.bundle import Bundle
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.nodes import conditioning
from inkstone.nodes.edit import EncodeEdit, EncodeLayers, ImageToLatent
from inkstone.nodes.encode import EncodePrompt
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.training.dataset.arrange import CacheSettings, arrange
from inkstone.training.dataset.cache import Cache, Encoders, expected, outline, prepare
from inkstone.training.dataset.encode import target_latents
from inkstone.training.dataset.read import read
from inkstone.training.lora.adapter import Adapter, AdapterSettings
from inkstone.training.lora.objective import Draws, Objective
from inkstone.training.lora.step import Trainer

WORDS = "a red circle on a white background"


def picture(path: Path, size: tuple[int, int], seed: int, mode: str = "RGB") -> Path:
    """A picture of smooth random colours; with alpha, half of it clear."""
    import numpy as np

    path.parent.mkdir(exist_ok=True, parents=True)
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, len(mode)), dtype=np.uint8)
    image = Image.fromarray(small, mode).resize(size, Image.Resampling.BICUBIC)
    if mode == "RGBA":
        image.paste((9, 9, 9, 0), (0, 0, size[0] // 2, size[1]))
    image.save(path)
    return path


def bundle_of(tiny_folder, kind: str) -> Bundle:
    folder = EMBEDDED_FOLDER if kind == "embedded" else tiny_folder(kind)
    return load_all(folder, LoadOptions(torch.float32, wait=True))


def prepared(bundle: Bundle, resolution: int, folder: Path, data: Path, **sides) -> Cache:
    arranged = arrange(read(data, **sides), bundle.model, CacheSettings(resolution))
    cache = prepare(arranged, Encoders(lambda: bundle.text_encoder, lambda: bundle.vae), folder)
    for work, entry in zip(arranged.works, range(len(cache)), strict=True):
        shapes, example = outline(work, bundle.text_encoder), cache.example(entry)
        for name in ("latents", "text", "dropped", "references", "weight"):
            got, want = getattr(example, name), getattr(shapes, name)
            assert (got is None) == (want is None), name
            assert got is None or got.shape == want.shape, f"{name}: {got.shape} {want.shape}"
        assert (example.grids, example.drawn) == (shapes.grids, shapes.drawn)
    size = expected(arranged, bundle.text_encoder)
    assert abs(size - cache.nbytes) <= 1500 * sum(1 for _ in folder.iterdir()), cache.nbytes
    return cache


def tokens(bundle: Bundle, raw: torch.Tensor) -> torch.Tensor:
    """Raw latents [1,C,1,h,w] -> normalised and packed [S,F]."""
    model = bundle.model
    return model.latents.pack((raw[:, :, 0] - model.latent_mean) / model.latent_std)[0]


def image(path: Path) -> torch.Tensor:
    from inkstone.files.images import read_picture

    return read_picture(path)


def target_of(bundle: Bundle, path: Path) -> torch.Tensor:
    latent = ImageToLatent.execute(bundle.vae, image(path), "the picture's own").result[0]
    return tokens(bundle, latent["samples"])


@pytest.mark.parametrize("kind", ["qwen-image", "2.1", "embedded"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_description(tiny_folder, tmp_path, kind, mode):
    bundle = bundle_of(tiny_folder, kind)
    path = picture(tmp_path / "data" / "a.png", (128, 96), 1, mode)
    path.with_suffix(".txt").write_text(WORDS + "\n")
    cache = prepared(bundle, 112, tmp_path / "cache", tmp_path / "data")
    example = cache.example(0)
    states = [
        entry[0][0][0] for entry in EncodePrompt.execute(bundle.text_encoder, WORDS, "").result
    ]
    assert torch.equal(example.text, states[0]) and torch.equal(example.dropped, states[1])
    assert torch.equal(example.latents, target_of(bundle, path))
    token = 16
    assert example.grids == ((1, 96 // token, 128 // token),) and example.drawn == 1
    assert example.slots == () and example.references is None


EDITS = [("edit", 1), ("edit-2511", 1), ("edit-2511", 3), ("2.1", 1), ("2.1", 3), ("embedded", 1)]


@pytest.mark.parametrize("kind, count", EDITS)
def test_an_edit(tiny_folder, tmp_path, kind, count):
    bundle = bundle_of(tiny_folder, kind)
    path = picture(tmp_path / "data" / "a.png", (128, 96), 1)
    path.with_suffix(".txt").write_text(WORDS)
    names = ["a.png", "a_1.png", "a_2.png"][:count]
    sizes = [(128, 96), (90, 170), (200, 64)]
    pictures = [
        picture(tmp_path / "before" / name, size, 5 + n)
        for n, (name, size) in enumerate(zip(names, sizes))
    ]
    cache = prepared(
        bundle, 112, tmp_path / "cache", tmp_path / "data", control_dir=tmp_path / "before"
    )
    example = cache.example(0)
    images = {f"picture_{n}": image(p) for n, p in enumerate(pictures, 1)}
    positive, negative, _ = EncodeEdit.execute(
        bundle.text_encoder, bundle.model, bundle.vae, WORDS, "", "auto", images
    ).result
    assert torch.equal(example.text, positive[0][0][0])
    assert torch.equal(example.dropped, negative[0][0][0])
    options = positive[0][1]
    raw = options[conditioning.REFERENCES]
    assert len(raw) == count
    assert torch.equal(example.references, torch.cat([tokens(bundle, z) for z in raw]))
    assert example.slots == example.dropped_slots == tuple(options.get(conditioning.SLOTS, ()))
    assert bool(example.slots) == (kind == "2.1")
    assert torch.equal(example.latents, target_of(bundle, path))
    grids = tuple(bundle.model.latents.grid(z) for z in raw)
    assert example.grids == ((1, 6, 8), *grids)


def test_layers(tiny_folder, tmp_path):
    bundle = bundle_of(tiny_folder, "layered")
    paths = [
        picture(tmp_path / f"{name}.png", (128, 96), n, "RGBA") for n, name in enumerate("abc")
    ]
    line = {"image": "a.png", "caption": WORDS, "layers": ["b.png", "c.png"]}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    example = prepared(bundle, 112, tmp_path / "cache", tmp_path / "list.jsonl").example(0)
    targets = [target_of(bundle, path) for path in paths]
    assert torch.equal(example.latents, torch.cat(targets))
    assert torch.equal(example.references, targets[0])
    assert example.drawn == 3
    assert example.grids == ((1, 6, 8),) * 4
    prompt = EncodeLayers.execute(
        bundle.text_encoder, bundle.vae, image(paths[0]), WORDS, "", 2, "640x640"
    ).result[0]
    assert torch.equal(example.text, prompt[0][0][0])


def test_a_step_sees_layers_as_a_drawing_does(tiny_folder, tmp_path, monkeypatch):
    """Grids, the number of drawn images and the condition; an example without layers is no example
    of such a model, so what is drawn says it all."""
    bundle = bundle_of(tiny_folder, "layered")
    for n, name in enumerate("abcd"):
        picture(tmp_path / f"{name}.png", (128, 96), n, "RGBA")
    lines = [{"image": "a.png", "layers": ["b.png", "c.png"]}, {"image": "d.png", "caption": "d"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = read(tmp_path / "list.jsonl")
    arranged = arrange(dataset, bundle.model, CacheSettings(112))
    assert [work.item.name for work in arranged.works] == ["a.png"]
    assert ("bad layers", "d.png", "it has none") in map(astuple, arranged.findings)
    cache = prepared(bundle, 112, tmp_path / "cache", tmp_path / "list.jsonl")
    example, seen = cache.example(0), []
    walk = type(bundle.model.network).walk
    monkeypatch.setattr(
        type(bundle.model.network),
        "walk",
        lambda self, inputs, *more: seen.append(inputs) or walk(self, inputs, *more),
    )
    adapter = Adapter.create(bundle.model.network, AdapterSettings(rank=2))
    bundle.model.ready(0)
    trainer, draws = Trainer(bundle.model, adapter, Objective()), [Draws(0.5, 1, False)]
    trainer.look_ahead(draws)
    trainer.losses([example], draws)
    prompt, *_ = EncodeLayers.execute(
        bundle.text_encoder, bundle.vae, image(tmp_path / "a.png"), WORDS, "", 2, "640x640"
    ).result
    raw = target_latents(arranged.works[0], bundle.vae, dataset.items[0].picture)
    width, height = arranged.works[0].fit.bucket
    request = Request(
        width=width,
        height=height,
        sigmas=torch.tensor([1.0, 0.0]),
        cfg=1.0,
        references=(raw,),
        layers=2,
    )
    denoise(bundle.model, prompt[0][0], None, request)
    ours, theirs = seen
    assert list(map(tuple, ours.grids)) == list(map(tuple, theirs.grids))
    assert ours.img.shape == theirs.img.shape
    assert ours.references.layers == theirs.references.layers == 3
    assert torch.equal(ours.references.references.tokens, theirs.references.references.tokens)
