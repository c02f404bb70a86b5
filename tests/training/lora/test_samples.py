"""Samples of a training: what the nodes draw with the same weights, and nothing stays of them."""

from __future__ import annotations

import gc
import json
import threading
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.files.png import read_text_chunks, save_png
from inkstone.loaders.lora.adapters import Adapter as Applied
from inkstone.loaders.lora.file import load_lora
from inkstone.nodes.canvas import EmptyLatent
from inkstone.nodes.decode import Decode
from inkstone.nodes.edit import EncodeEdit
from inkstone.nodes.encode import EncodePrompt
from inkstone.nodes.sample import Denoise
from inkstone.pipeline.train_choices import TrainSettings
from inkstone.training.dataset.arrange import CacheSettings, arrange
from inkstone.training.dataset.cache import Encoders
from inkstone.training.dataset.read import read
from inkstone.training.lora import samples as module
from inkstone.training.lora.adapter import Adapter, AdapterSettings
from inkstone.training.lora.result import Result
from inkstone.training.lora.samples import Samples, Stopped, encode_samples
from inkstone.training.lora.save import Origin, save_lora, trained_tensors
from inkstone.training.lora.sheet import SHEET, sample_path
from inkstone.training.lora.state import RunFolder

from ..dataset.test_encoding import bundle_of, image, picture

WORDS = "a red circle on a white background"
OTHER = "a blue star on a white background"
STEPS = 3


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(module, "MOST_STEPS", STEPS)


def changes_on(bundle, seed=5, size=0.05):
    """Random weights on every attention and MLP layer."""
    torch.manual_seed(seed)
    trained = Adapter.create(bundle.model.network, AdapterSettings(rank=2, alpha=3.0))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return trained


def with_file(bundle, changes, tmp_path):
    """The model with the same weights, from a file."""
    path = tmp_path / "same.safetensors"
    save_lora(
        path, trained_tensors(changes), Origin(name="x", kind="lora", spec="x"), torch.float32
    )
    return bundle.model.with_loras([Applied(load_lora(path))])


def arranged_on(bundle, data, resolution=128, **sides):
    return arrange(read(data, **sides), bundle.model, CacheSettings(resolution))


def samples_of(bundle, arranged, tmp_path, prompts=(WORDS,)):
    encoders = Encoders(lambda: bundle.text_encoder, lambda: bundle.vae)
    ready = encode_samples(prompts, arranged, encoders, tmp_path / "cache")
    return Samples(bundle.model, ready, lambda: bundle.vae, tmp_path / "samples", seed=9)


def described(folder, *sizes):
    for n, size in enumerate(sizes):
        path = picture(folder / f"{n}.png", size, n)
        path.with_suffix(".txt").write_text(WORDS)
    return folder


def as_drawn(bundle, model, positive, latent):
    """What the nodes give, 8 bits."""
    drawn = Denoise.execute(
        model, positive, seed=9, cfg=model.preset().cfg, latent=latent, steps=STEPS
    ).result[0]
    return cut(Decode.execute(bundle.vae, drawn).result[0])


def cut(pictures):
    """As a PNG has them."""
    return (pictures.numpy() * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["embedded", "2.1"])
def test_a_sample_is_what_the_nodes_draw(tiny_folder, tmp_path, kind):
    bundle = bundle_of(tiny_folder, kind)
    changes = changes_on(bundle)
    # two of 128x128 and one wide: the canvas is that of most
    data = described(tmp_path / "data", (128, 128), (160, 96), (128, 128))
    samples = samples_of(bundle, arranged_on(bundle, data), tmp_path, (WORDS, OTHER))
    pictures = samples.draw(500, changes)
    latent = EmptyLatent.execute("custom (width and height below)", 128, 128, 1).result[0]
    for number, prompt in enumerate((WORDS, OTHER), 1):
        preset = bundle.model.preset()
        positive, _ = EncodePrompt.execute(bundle.text_encoder, prompt, preset.negative).result
        want = as_drawn(bundle, with_file(bundle, changes, tmp_path), positive, latent)
        got = np.asarray(Image.open(sample_path(tmp_path / "samples", 500, number)))
        assert np.abs(got.astype(int) - want[0].astype(int)).max() <= 1
        assert np.array_equal(cut(pictures[f"{number} {prompt}"]), got)
    assert Image.open(tmp_path / "samples" / SHEET).width > 500


@pytest.mark.parametrize("kind", ["edit-2511", "2.1", "embedded"])
def test_an_edit_is_drawn_on_the_references_of_the_dataset(tiny_folder, tmp_path, kind):
    bundle = bundle_of(tiny_folder, kind)
    changes = changes_on(bundle)
    data = described(tmp_path / "data", (128, 128), (160, 96))
    before = [picture(tmp_path / "before" / f"{n}.png", (160, 96), 7 + n) for n in range(2)]
    arranged = arranged_on(bundle, data, control_dir=tmp_path / "before")
    samples = samples_of(bundle, arranged, tmp_path, (WORDS, OTHER, WORDS))
    samples.draw(1, changes)
    shown = [np.asarray(Image.open(sample_path(tmp_path / "samples", 1, n))) for n in (1, 2, 3)]
    assert shown[0].shape[:2] == (128, 128) and shown[1].shape[:2] == (96, 160)
    assert np.array_equal(shown[0], shown[2]), "the third is drawn on the first references again"
    positive, _, latent = EncodeEdit.execute(
        bundle.text_encoder,
        bundle.model,
        bundle.vae,
        OTHER,
        bundle.model.preset(1).negative,
        "auto",
        {"picture_1": image(before[1])},
    ).result
    drawn = Denoise.execute(
        with_file(bundle, changes, tmp_path),
        positive,
        seed=9,
        cfg=bundle.model.preset(1).cfg,
        latent=latent,
        steps=STEPS,
    ).result[0]
    want = cut(Decode.execute(bundle.vae, drawn).result[0])[0]
    assert np.abs(shown[1].astype(int) - want.astype(int)).max() <= 1


def test_layers_are_drawn_beside_one_another(tiny_folder, tmp_path):
    bundle = bundle_of(tiny_folder, "layered")
    for n, name in enumerate("abc"):
        picture(tmp_path / f"{name}.png", (128, 96), n, "RGBA")
    line = {"image": "a.png", "caption": WORDS, "layers": ["b.png", "c.png"]}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    samples = samples_of(bundle, arranged_on(bundle, tmp_path / "list.jsonl"), tmp_path)
    changes = changes_on(bundle)
    (got,) = samples.draw(1, changes).values()
    assert got.shape == (96, 2 * 128, 4)


def test_prompts_are_encoded_once(tiny_folder, tmp_path):
    bundle = bundle_of(tiny_folder, "embedded")
    arranged = arranged_on(bundle, described(tmp_path / "data", (128, 128)))
    first = samples_of(bundle, arranged, tmp_path, (WORDS, OTHER, WORDS))
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2, "equal prompts share a file"
    stamps = [file.stat().st_mtime_ns for file in files]

    def encoded(*_):
        raise AssertionError("encoded again")

    bundle.text_encoder.encode = encoded
    again = samples_of(bundle, arranged, tmp_path, (WORDS, OTHER, WORDS))
    assert [file.stat().st_mtime_ns for file in files] == stamps
    for one, other in zip(first._samples, again._samples, strict=True):
        assert torch.equal(one.positive, other.positive) and one.size == other.size
    assert encode_samples([], arranged, Encoders(encoded, encoded), tmp_path / "none") == []


def test_nothing_stays_and_no_random_number_is_used(tiny_folder, tmp_path):
    """The VAE leaves, the network is as it was, and the training draws as without samples."""
    bundle = bundle_of(tiny_folder, "embedded")
    arranged = arranged_on(bundle, described(tmp_path / "data", (128, 128)))
    encoders = Encoders(lambda: bundle.text_encoder, lambda: bundle.vae)
    ready = encode_samples([WORDS], arranged, encoders, tmp_path / "cache")
    loaded = []

    def load_vae():
        vae = bundle_of(tiny_folder, "embedded").vae
        loaded.append(weakref.ref(vae))
        return vae

    changes = changes_on(bundle)
    before = torch.get_rng_state()
    Samples(bundle.model, ready, load_vae, tmp_path / "s", 1).draw(7, changes)
    assert torch.equal(torch.get_rng_state(), before)
    gc.collect()
    assert [vae() for vae in loaded] == [None]
    named = dict(bundle.model.network.named_modules())
    assert not any(getattr(layer, "branches", ()) for layer in named.values())


def test_later_weights_draw_another_picture(tiny_folder, tmp_path):
    """2.1 keeps keys and values of a prompt from run to run: those of the weights before."""
    bundle = bundle_of(tiny_folder, "2.1")
    arranged = arranged_on(bundle, described(tmp_path / "data", (128, 128)))
    samples = samples_of(bundle, arranged, tmp_path)
    first, second = changes_on(bundle, 5), changes_on(bundle, 6)
    (early,) = samples.draw(1, first).values()
    (late,) = samples.draw(2, second).values()
    (alone,) = (
        samples_of(bundle_of(tiny_folder, "2.1"), arranged, tmp_path).draw(3, second).values()
    )
    assert not torch.equal(early, late) and torch.equal(late, alone)


def test_what_a_picture_says(tiny_folder, tmp_path):
    bundle = bundle_of(tiny_folder, "embedded")
    arranged = arranged_on(bundle, described(tmp_path / "data", (128, 128)))
    samples_of(bundle, arranged, tmp_path).draw(12, changes_on(bundle))
    text = read_text_chunks(sample_path(tmp_path / "samples", 12, 1))["inkstone_sample"]
    assert json.loads(text) == {"prompt": WORDS, "step": 12, "seed": 9, "run": ""}


def test_pictures_that_are_there_are_not_drawn_again(tiny_folder, tmp_path):
    bundle = bundle_of(tiny_folder, "embedded")
    arranged = arranged_on(bundle, described(tmp_path / "data", (128, 128)))
    samples = samples_of(bundle, arranged, tmp_path)
    assert samples.kept(12) is None
    drawn, kept = samples.draw(12, changes_on(bundle)), samples.kept(12)
    assert kept is not None and list(kept) == list(drawn)
    worst = max((kept[name] - drawn[name].clamp(0, 1)).abs().max().item() for name in drawn)
    assert worst <= 1.001 / 255, f"{worst}: cut to 8 bits"
    assert samples.kept(13) is None
    path = sample_path(tmp_path / "samples", 12, 1)
    path.write_bytes(path.read_bytes()[:-20])
    assert samples.kept(12) is None, "cut"
    save_png(path, kept[next(iter(kept))].numpy(), {"inkstone_sample": "{}"})
    assert samples.kept(12) is None, "of another prompt"


def test_a_stop_ends_samples_within_a_block(tiny_folder, tmp_path, caplog):
    """Nothing is written, the changes have left the network, and the run is told at once."""
    caplog.set_level("INFO")
    bundle = bundle_of(tiny_folder, "embedded")
    arranged = arranged_on(bundle, described(tmp_path / "data", (128, 128)))
    samples, changes = samples_of(bundle, arranged, tmp_path), changes_on(bundle)

    class Late(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 7  # in the second step of six blocks

    late, placed = Late(), []
    settings = TrainSettings(data=tmp_path / "data", output=tmp_path / "x.safetensors")
    result = Result(settings, arranged, changes, RunFolder(settings))
    result.sampler(samples, lambda: placed.append(1), late)(500)
    assert late.asked == 8 and not placed
    assert "stopped before the samples of step 500 were drawn" in caplog.text
    assert not (tmp_path / "samples").exists()
    late.asked = 7
    with pytest.raises(Stopped):
        samples.draw(500, changes, late)
    assert len(samples.draw(500, changes, threading.Event())) == 1


def test_a_folder_that_cannot_be_made_is_named(tiny_folder, tmp_path):
    bundle = bundle_of(tiny_folder, "embedded")
    arranged = arranged_on(bundle, described(tmp_path / "data", (128, 128)))
    samples = samples_of(bundle, arranged, tmp_path)
    (tmp_path / "samples").write_text("")
    with pytest.raises(InkstoneError, match="samples: samples cannot be written.*resumes"):
        samples.draw(1, changes_on(bundle))


@pytest.mark.parametrize("fault", [InkstoneError("no room"), torch.OutOfMemoryError("no room")])
def test_samples_that_fail_later_do_not_end_a_training(tiny_folder, tmp_path, caplog, fault):
    bundle = bundle_of(tiny_folder, "embedded")
    arranged = arranged_on(bundle, described(tmp_path / "data", (128, 128)))
    settings = TrainSettings(data=tmp_path / "data", output=tmp_path / "x.safetensors")
    placed = []

    class Failing:
        def kept(self, step):
            return None

        def draw(self, step, changes, stop):
            raise fault

    result = Result(settings, arranged, changes_on(bundle), RunFolder(settings))
    draw = result.sampler(Failing(), lambda: placed.append(True), threading.Event())
    with pytest.raises(type(fault)):
        draw(0)
    draw(250)
    assert "step 250 has no samples, the training goes on: no room" in caplog.text
    assert placed == [True], "the weights are placed for training again"
