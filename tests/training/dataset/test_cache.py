"""The cache of encoded examples: what is made again and what is not, faults of the disk, memory."""

from __future__ import annotations

import os
import shutil
import weakref
from collections import Counter, namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.loaders.models.load import (
    EMBEDDED_FOLDER,
    load_diffusion_model,
    load_text_encoder,
    load_vae,
)
from inkstone.loaders.models.text_encoder import TextEncoderModel
from inkstone.loaders.models.vae import VAEModel
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.training.dataset.arrange import CacheSettings, arrange
from inkstone.training.dataset.cache import Encoders, prepare
from inkstone.training.dataset.read import read
from inkstone.training.lora.order import Order

OPTIONS = LoadOptions(torch.float32, wait=True)
COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def model():
    return load_diffusion_model(EMBEDDED_FOLDER, OPTIONS)


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for n, colour in enumerate(COLOURS):
        Image.new("RGB", (64, 64 + 16 * (n % 2)), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text("a circle" if n < 2 else f"a {colour} star")
    return folder


class Counted:
    """Loads the embedded model's encoders, and counts what they encode."""

    def __init__(self, monkeypatch) -> None:
        self.pictures: list[str] = []
        self.texts: list[str] = []
        self.alive: list[weakref.ref] = []
        encode, encode_text = VAEModel._encode, TextEncoderModel._states

        def pictures(vae, x):
            self.pictures.append("x".join(map(str, x.shape[1:3])))
            return encode(vae, x)

        def texts(model, ids, drop):
            assert all(vae() is None for vae in self.alive), "the VAE is still in memory"
            self.texts.append(len(ids))
            return encode_text(model, ids, drop)

        monkeypatch.setattr(VAEModel, "_encode", pictures)
        monkeypatch.setattr(TextEncoderModel, "_states", texts)
        self.encoders = Encoders(self.text, self.vae)

    def text(self) -> TextEncoderModel:
        self.language = load_text_encoder(EMBEDDED_FOLDER, OPTIONS)
        return self.language

    def vae(self) -> VAEModel:
        vae = load_vae(EMBEDDED_FOLDER, OPTIONS)
        self.alive.append(weakref.ref(vae))
        return vae

    def took(self) -> tuple[int, int]:
        """(pictures, texts) since the last call."""
        counts = len(self.pictures), len(self.texts)
        self.pictures, self.texts = [], []
        return counts


@pytest.fixture
def counted(monkeypatch) -> Counted:
    return Counted(monkeypatch)


def make(model, data, counted, folder, resolution=64, on_item=lambda *_: None, **settings):
    arranged = arrange(read(data), model, CacheSettings(resolution, **settings))
    counted.encoders.forget()  # each is a run of its own
    return prepare(arranged, counted.encoders, folder, on_item)


def test_everything_is_encoded_once_and_leaves(model, data, counted, tmp_path):
    stages = []
    cache = make(model, data, counted, tmp_path / "c", on_item=lambda *got: stages.append(got))
    # "a circle" twice, two others, and the empty caption of all
    assert counted.took() == (4, 4) and len(cache) == 4
    assert not counted.language.weights.reserved
    assert all(vae() is None for vae in counted.alive)
    assert stages[-4:] == [("encoding captions", n, 4) for n in range(1, 5)]
    assert stages[-8:-4] == [("encoding pictures", n, 4) for n in range(1, 5)]
    files = list((tmp_path / "c").iterdir())
    assert cache.nbytes == sum(file.stat().st_size for file in files)
    again = make(model, data, counted, tmp_path / "c")
    assert counted.took() == (0, 0)
    assert again.buckets() == cache.buckets() == {((1, 4, 4),): [0, 2], ((1, 4, 3),): [1, 3]}
    for index in range(4):
        one, other = cache.example(index), again.example(index)
        assert torch.equal(one.latents, other.latents) and torch.equal(one.text, other.text)


def test_repeats_are_in_the_buckets_and_encoded_once(model, data, counted, tmp_path):
    """10 and 20 repeats are 1 and 2; pictures in no such folder count once."""
    for folder, names in (("10_a", ("blue", "green")), ("20_b", ("red", "yellow"))):
        (data / folder).mkdir()
        for name in names:
            for path in data.glob(f"{name}.*"):
                path.rename(data / folder / path.name)
    cache = make(model, data, counted, tmp_path / "c")
    assert [entry.work.item.repeats for entry in cache.entries] == [1, 1, 2, 2]
    assert cache.buckets() == {((1, 4, 4),): [0, 2, 2], ((1, 4, 3),): [1, 3, 3]}
    assert counted.took() == (4, 4) and len(cache) == 4
    order = Order(cache.buckets().values(), 2, 5)
    epoch = [i for n in range(order.per_epoch) for i in order.batch(n)]
    assert Counter(epoch) == {0: 1, 1: 1, 2: 2, 3: 2}


def change_caption(data: Path) -> None:
    (data / "red.txt").write_text("a square")


def change_picture(data: Path) -> None:
    Image.new("RGB", (64, 64), "white").save(data / "red.png")


def change_name(data: Path) -> None:
    (data / "red.png").rename(data / "other.png")
    (data / "red.txt").rename(data / "other.txt")


def touch(data: Path) -> None:
    for file in data.iterdir():
        os.utime(file, (1, 1))


CHANGES = [(change_caption, (0, 1)), (change_picture, (1, 0)), (change_name, (0, 0))]
CHANGES += [(touch, (0, 0))]


@pytest.mark.parametrize("change, took", CHANGES, ids=lambda c: getattr(c, "__name__", ""))
def test_only_what_changed_is_encoded_again(model, data, counted, tmp_path, change, took):
    make(model, data, counted, tmp_path / "c")
    counted.took()
    change(data)
    make(model, data, counted, tmp_path / "c")
    assert counted.took() == took


def test_another_resolution_encodes_pictures_only(model, data, counted, tmp_path):
    first = make(model, data, counted, tmp_path / "c")
    counted.took()
    other = make(model, data, counted, tmp_path / "c", resolution=48)
    assert counted.took() == (4, 0)
    assert other.example(0).latents.shape[0] < first.example(0).latents.shape[0]


@pytest.mark.parametrize("part, took", [("text_encoder", (0, 4)), ("vae", (4, 0))])
def test_other_weights_encode_again(model, data, counted, tmp_path, part, took):
    """One bit of a weight that is of no consequence is another file all the same."""
    make(model, data, counted, tmp_path / "c")
    for name in (part, "tokenizer"):
        shutil.copytree(EMBEDDED_FOLDER / name, tmp_path / name)
    (file,) = (tmp_path / part).glob("*.safetensors")
    flip(file)
    text, vae = counted.encoders.text_encoder, counted.encoders.vae
    changed = {
        "text_encoder": Encoders(lambda: load_text_encoder(tmp_path / part, OPTIONS), vae),
        "vae": Encoders(text, lambda: load_vae(tmp_path / part, OPTIONS)),
    }
    counted.encoders = changed[part]
    counted.took()
    make(model, data, counted, tmp_path / "c")
    assert counted.took() == took
    counted.encoders = Encoders(text, vae)
    make(model, data, counted, tmp_path / "c")
    assert counted.took() == (0, 0)


@pytest.mark.parametrize(
    "stage, left", [("encoding pictures", (2, 4)), ("encoding captions", (0, 2))]
)
def test_a_run_that_was_stopped_goes_on(model, data, counted, tmp_path, stage, left):
    def stop(what, done, total):
        if (what, done) == (stage, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(model, data, counted, tmp_path / "c", on_item=stop)
    assert not counted.language.weights.reserved
    assert not list((tmp_path / "c").glob(".*")), "half a file was left"
    counted.took()
    cache = make(model, data, counted, tmp_path / "c")
    assert counted.took() == left
    assert [cache.example(n).name for n in range(4)] == [f"{c}.png" for c in sorted(COLOURS)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def exchange(path: Path) -> None:
    other = next(p for p in path.parent.iterdir() if p != path and p.stem[:4] == path.stem[:4])
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [cut, flip, empty, exchange])
@pytest.mark.parametrize("kind", ["picture", "text"])
def test_a_damaged_file_is_named_and_made_again(
    model, data, counted, tmp_path, caplog, damage, kind
):
    cache = make(model, data, counted, tmp_path / "c")
    entry = cache.entries[0]
    stored = entry.pictures if kind == "picture" else entry.text
    before = stored.path.read_bytes()
    damage(stored.path)
    with pytest.raises(InkstoneError, match=r"blue\.png cannot be read.*same command"):
        cache.example(0)
    counted.took()
    make(model, data, counted, tmp_path / "c")
    assert counted.took() == ((1, 0) if kind == "picture" else (0, 1))
    assert stored.path.read_bytes() == before
    assert f"{stored.path.name} is damaged and is made again" in caplog.text


def test_a_full_disk_is_said_before_anything_is_encoded(
    model, data, counted, tmp_path, monkeypatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 1000))
    with pytest.raises(InkstoneError, match=r"take about 0\.00 GB.*Free .* GB, give another"):
        make(model, data, counted, tmp_path / "c")
    assert counted.took() == (0, 0)


def test_a_disk_that_fills_up_is_a_sentence(model, data, counted, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InkstoneError, match="cannot be written: No space left.*free space"):
        make(model, data, counted, tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())


def test_the_folder_is_a_file(model, data, counted, tmp_path):
    (tmp_path / "c").write_text("x")
    with pytest.raises(InkstoneError, match="no such folder: it is a file"):
        make(model, data, counted, tmp_path / "c")


def test_without_dropout_no_empty_caption_is_encoded(model, data, counted, tmp_path):
    cache = make(model, data, counted, tmp_path / "c", dropped=False)
    assert counted.took() == (4, 3)
    example = cache.example(0)
    assert example.dropped.shape == (0, example.text.shape[1])


def test_a_picture_that_is_lost_after_the_report(model, data, counted, tmp_path):
    arranged = arrange(read(data), model, CacheSettings(64))
    (data / "red.png").unlink()
    with pytest.raises(InkstoneError, match="red.png cannot be read as a picture: No such file"):
        prepare(arranged, counted.encoders, tmp_path / "c")


def test_a_picture_that_changes_before_it_is_encoded(model, data, counted, tmp_path):
    """The file of its digest would hold another picture."""
    arranged = arrange(read(data), model, CacheSettings(64))
    Image.new("RGB", (64, 64), "white").save(data / "red.png")
    with pytest.raises(InkstoneError, match="red.png was changed while this command ran"):
        prepare(arranged, counted.encoders, tmp_path / "c")
    counted.took()
    cache = make(model, data, counted, tmp_path / "c")
    assert counted.took()[0] >= 1 and len(cache) == 4


def test_lines_do_not_come_with_every_picture(model, data, counted, tmp_path, caplog):
    with caplog.at_level("INFO"):
        make(model, data, counted, tmp_path / "c")
    lines = [record.getMessage() for record in caplog.records]
    assert "encoding pictures: 4" in lines and "encoding captions: 4" in lines
    assert not [line for line in lines if line.startswith("VAE encode")], lines


@pytest.mark.parametrize("colours", ["white", "black", "picture"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_of_a_mask_with_transparency_what_is_opaque_is_learned(
    model, tmp_path, counted, colours, mode
):
    for folder in ("data", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "a.txt").write_text("a circle")
    cut = Image.effect_noise((64, 64), 90) if colours == "picture" else None
    cut = (cut or Image.new("L", (64, 64), colours)).convert("RGBA")
    alpha = Image.new("L", (64, 64), 255)
    alpha.paste(0, (32, 0, 64, 64))
    cut.putalpha(alpha)
    if mode == "PA":  # a palette whose last colour is transparent
        cut.convert("P").save(tmp_path / "masks" / "a.png")
    else:
        cut.convert(mode).save(tmp_path / "masks" / "a.png")
    found = read(tmp_path / "data", None, tmp_path / "masks")
    cache = prepare(arrange(found, model, CacheSettings(64)), counted.encoders, tmp_path / "c")
    assert cache.example(0).weight.tolist() == [1, 1, 0, 0] * 4


def test_masks_become_the_weight_of_tokens(model, tmp_path, counted):
    for folder in ("data", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "a.txt").write_text("a circle")
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (0, 0, 64, 128))
    mask.paste(128, (64, 0, 96, 32))
    mask.save(tmp_path / "masks" / "a.png")
    arranged = arrange(read(tmp_path / "data", None, tmp_path / "masks"), model, CacheSettings(64))
    example = prepare(arranged, counted.encoders, tmp_path / "c").example(0)
    grey = 128 / 255
    rows = [[1, 1, grey, 0]] + [[1, 1, 0, 0]] * 3
    want = torch.tensor(rows).flatten()
    assert torch.allclose(example.weight, want, atol=1e-6), (example.weight - want).abs().max()
