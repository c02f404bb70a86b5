"""The report of a dataset that is in order, and what models make of the same pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.training.dataset.arrange import CacheSettings, arrange
from inkstone.training.dataset.read import read
from inkstone.training.dataset.report import report

SIZES = [(128, 128), (256, 192), (192, 256), (300, 200), (100, 50)]


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for n, size in enumerate(SIZES):
        Image.new("RGB", size, (n, 0, 0)).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text("a red circle")
    return folder


def bundle_of(tiny_folder, kind: str):
    return load_all(tiny_folder(kind), LoadOptions(torch.float32, wait=True))


def before(data: Path, count: int = 1, size: tuple[int, int] = (128, 96)) -> Path:
    """A folder of references for all pictures."""
    folder = data.parent / "before"
    folder.mkdir()
    for picture in data.glob("*.png"):
        for k in range(count):
            Image.new("RGB", size, (k, 9, 9)).save(folder / f"{picture.stem}_{k}.png")
    return folder


def test_the_report_of_a_good_dataset(tiny_folder, data):
    bundle = bundle_of(tiny_folder, "qwen-image")
    found = report(arrange(read(data), bundle.model, CacheSettings(128)), bundle.text_encoder)
    assert found.lines[0] == "5 pictures to train on: 5 with captions"
    assert found.lines[1].startswith("5 buckets: 128x128 (1), 144x112 (1), 112x144 (1), ")
    assert "% of a picture is cropped (" in found.lines[1]
    assert found.lines[2].startswith("encoded, they take about 0.")
    assert found.lines[3].startswith(
        "1 picture is smaller than the resolution and is learned at its own size: 4.png (100x50 at"
    )
    assert len(found.lines) == 4 and str(found) == "\n".join(found.lines)
    facts = json.loads(json.dumps(found.facts))
    assert facts["pictures"] == facts["captions"] == 5 and facts["references"] == 0
    assert facts["buckets"]["128x128"] == 1 and facts["encoded_bytes"] > 0
    assert [one["kind"] for one in facts["findings"]] == ["smaller"]


def test_sides_are_multiples_of_the_models_step(tiny_folder, data):
    for kind, step in (("qwen-image", 16), ("2.1", 32)):
        model = bundle_of(tiny_folder, kind).model
        works = arrange(read(data), model, CacheSettings(128)).works
        assert all(side % step == 0 for work in works for side in work.fit.bucket)
    assert len(works) == 4, "50 pixels are too few for two steps of 32"


REFUSED = {
    "qwen-image": (True, "takes no reference pictures"),
    "edit-2511": (False, "edits pictures, and no picture has a reference.*--control-dir"),
    "layered": (False, "learns from pictures and their layers"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_dataset_for_another_kind_of_model(tiny_folder, data, kind):
    pairs, words = REFUSED[kind]
    dataset = read(data, before(data) if pairs else None)
    with pytest.raises(InkstoneError, match=words):
        arrange(dataset, bundle_of(tiny_folder, kind).model, CacheSettings(128))


def test_a_model_that_draws_and_edits_learns_both(tiny_folder, data):
    lines = [{"image": "0.png"}, {"image": "1.png", "references": "0.png"}]
    (data / "both.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arranged = arrange(
        read(data / "both.jsonl"), bundle_of(tiny_folder, "2.1").model, CacheSettings(128)
    )
    assert [len(work.locks) for work in arranged.works] == [0, 1]
    assert [one.kind for one in arranged.findings] == ["other count"]


def test_numbered_references_keep_their_order(tiny_folder, data):
    folder = before(data, 12)
    dataset = read(data, folder)
    names = [picture.path.name for picture in dataset.items[0].references]
    assert names == [f"0_{k}.png" for k in range(12)]
    arranged = arrange(dataset, bundle_of(tiny_folder, "edit-2511").model, CacheSettings(128))
    words = (
        "5 pictures have more references than the model was tried with: 0.png (12, tried with 3)"
    )
    assert any(line.startswith(words) for line in report(arranged).lines)


def test_references_have_the_canvases_of_inference_or_smaller_ones(tiny_folder, data):
    from inkstone.pipeline.edit import locks_for

    bundle = bundle_of(tiny_folder, "edit-2511")
    dataset = read(data, before(data, size=(300, 170)))
    own = arrange(dataset, bundle.model, CacheSettings(128)).works[0].locks
    assert own == locks_for(bundle.vae.family, [torch.zeros(1, 170, 300, 3)])
    (small,) = arrange(dataset, bundle.model, CacheSettings(128, 96)).works[0].locks
    assert small.work[0] * small.work[1] == pytest.approx(96 * 96, rel=0.02)
    assert small.work[0] / small.work[1] == pytest.approx(300 / 170, rel=0.02)
    (larger,) = arrange(dataset, bundle.model, CacheSettings(128, 512)).works[0].locks
    assert larger == own[0], "a small reference is not enlarged"


def test_several_folders_of_references_are_picture_1_2_3(data):
    one, two = before(data), data.parent / "two"
    one.rename(data.parent / "one")
    two.mkdir()
    for picture in data.glob("*.png"):
        Image.new("RGB", (64, 64), "white").save(two / picture.name)
    items = read(data, (data.parent / "one", two)).items
    assert [p.path.parent.name for p in items[0].references] == ["one", "two"]
