"""`--region`, lines of a queue, the Python API and the node: the same regions, the same picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import inkstone
from inkstone.errors import CallError, InkstoneError
from inkstone.headless.cli.main import main
from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.draw.option_values import parse_values
from inkstone.headless.draw.request import DrawCall, check_call
from inkstone.nodes.regions import ROWS, RegionalPrompts
from inkstone.sampling.region_choices import RegionSettings, parse_region

PROMPT, STEPS = "a white background", 4
LEFT = ("a red circle on a white background", (0, 0, 48, 64))
RIGHT = ('the word "HI" in blue on a white background', ("50%", 0, "50%", "100%"))
TEXTS = (f"{LEFT[0]}:0,0,48,64", f"{RIGHT[0]}:50%,0,50%,100%")
CALL = {"size": (96, 64), "steps": STEPS}


@pytest.fixture(scope="module")
def models():
    with inkstone.load() as loaded:
        yield loaded


def test_all_ways_draw_the_same(tmp_path, models):
    plain = np.asarray(models.draw(PROMPT, **CALL)[0])
    want = np.asarray(models.draw(PROMPT, region=[LEFT, RIGHT], **CALL)[0])
    assert not np.array_equal(want, plain)
    texts = np.asarray(models.draw(PROMPT, region=list(TEXTS), **CALL)[0])
    assert np.array_equal(texts, want)
    base = np.asarray(
        models.draw(PROMPT, region=[LEFT, RIGHT], region_method="composed:0", **CALL)[0]
    )
    assert not np.array_equal(base, want)

    out = tmp_path / "out.png"
    call = ["draw", PROMPT, "-o", str(out), "--size", "96x64", "--steps", str(STEPS)]
    assert main([*call, "--region", TEXTS[0], "--region", TEXTS[1]]) == 0
    assert np.array_equal(np.asarray(Image.open(out)), want)
    graph = json.loads(Image.open(out).info["prompt"])
    (node,) = [n for n in graph.values() if n["class_type"] == RegionalPrompts.ID]
    assert node["inputs"]["prompt_1"] == LEFT[0] and node["inputs"]["box_2"] == "50%,0,50%,100%"

    api = tmp_path / "graph.json"
    api.write_text(json.dumps(graph))
    assert main(["run", str(api), "--output", str(tmp_path / "run")]) == 0
    (again,) = (tmp_path / "run").rglob("*.png")
    other = np.asarray(Image.open(again)).astype(int) - want  # Save Image cuts, draw rounds
    assert abs(other).max() <= 1

    jobs = tmp_path / "jobs.jsonl"
    line = {"id": "a", "prompt": PROMPT, "size": "96x64", "steps": STEPS, "region": TEXTS}
    jobs.write_text(json.dumps(line))
    assert main(["batch", str(jobs), "--output", str(tmp_path / "batch")]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "batch" / "a.png")), want)


def test_masks_are_regions_by_every_way(tmp_path, models):
    """A mask of the box's place, of another size, draws what the box does; paint on an empty layer
    is read as other masks are.
    """
    want = np.asarray(models.draw(PROMPT, region=[LEFT, RIGHT], **CALL)[0])
    mask = Image.new("L", (192, 128))
    mask.paste(255, (96, 0, 192, 128))
    file, paint = tmp_path / "right.png", tmp_path / "paint.png"
    mask.save(file)
    Image.merge("RGBA", [mask.point(lambda _: 255)] * 3 + [mask]).save(paint)
    texts = [(TEXTS[0], f"{RIGHT[0]}:{path}") for path in (file, paint)]
    for region in ([LEFT, (RIGHT[0], mask)], [LEFT, (RIGHT[0], file)], *map(list, texts)):
        got = np.asarray(models.draw(PROMPT, region=region, **CALL)[0])
        assert np.array_equal(got, want), region
    out = tmp_path / "out.png"
    call = ["draw", PROMPT, "-o", str(out), "--size", "96x64", "--steps", str(STEPS)]
    assert main([*call, *(f"--region={text}" for text in texts[0])]) == 0
    assert np.array_equal(np.asarray(Image.open(out)), want)
    info = Image.open(out).info
    assert "right.png" in info["prompt"] and str(tmp_path) not in info["prompt"] + info["inkstone"]
    jobs = tmp_path / "jobs.jsonl"
    line = {"id": "a", "prompt": PROMPT, "size": "96x64", "steps": STEPS, "region": texts[0]}
    jobs.write_text(json.dumps(line))
    batch = ["batch", str(jobs), "--output", str(tmp_path / "batch")]
    for _ in range(2):  # the second time it is drawn already, until the mask is another one
        assert main(batch) == 0
        assert np.array_equal(np.asarray(Image.open(tmp_path / "batch" / "a.png")), want)
        drawn = (tmp_path / "batch" / "a.png").stat().st_mtime_ns
    mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)
    assert main(batch) == 0
    assert (tmp_path / "batch" / "a.png").stat().st_mtime_ns > drawn


def test_masks_that_are_none(tmp_path, models):
    (tmp_path / "text.png").write_text("no picture")
    for place, words in (
        ("missing.png", "--region missing.png: no such picture file"),
        (tmp_path / "text.png", "text.png"),
        (tmp_path / "a.folder", "no such"),
    ):
        with pytest.raises((CallError, InkstoneError), match=words):
            models.draw(PROMPT, region=[("a cat", place)], **CALL)
    Image.new("L", (96, 64)).save(tmp_path / "black.png")
    with pytest.raises(InkstoneError, match="mask"):
        models.draw(PROMPT, region=[("a cat", tmp_path / "black.png")], **CALL)


@pytest.mark.parametrize(
    ("text", "prompt", "place"),
    [
        ("a cat:mask.png", "a cat", "mask.png"),
        ('"a cat: black":my mask.webp', "a cat: black", "my mask.webp"),
        ('"a cat":10:30 mask.png', "a cat", "10:30 mask.png"),
        ("a cat:C:\\masks\\one.png", "a cat", "C:\\masks\\one.png"),
        ('the word "HI": red:dir/one.JPG', 'the word "HI": red', "dir/one.JPG"),
    ],
)
def test_the_spelling_of_masks(text, prompt, place):
    option = parse_region(text)
    assert (option.prompt, str(option.mask)) == (prompt, place)
    boxed = parse_region(f"{prompt}:0,0,50%,100%")
    assert (boxed.prompt, boxed.box, boxed.mask) == (prompt, "0,0,50%,100%", None)


def test_more_regions_than_a_node_has_rows(models):
    region = [("a red circle on a white background", (16 * (n % 6), 0, 16, 64)) for n in range(10)]
    assert ROWS < len(region)
    got = np.asarray(models.draw(PROMPT, region=region, **CALL)[0])
    less = np.asarray(models.draw(PROMPT, region=region[:ROWS], **CALL)[0])
    assert not np.array_equal(got, less)


def test_the_plan_counts_regions():
    calls = [DrawCall(PROMPT, region=tuple(map(parse_region, TEXTS[:n]))) for n in range(3)]
    activations = [Drawer().plan(call).activations for call in calls]
    assert activations == sorted(set(activations)), activations


def test_bad_calls(models):
    def words(**options: object) -> str:
        with pytest.raises(CallError) as fault:
            models.draw(PROMPT, **CALL, **options)
        return str(fault.value)

    assert "region is (a cat): expected (prompt, (x, y, width, height))" in words(region=("a cat",))
    assert "expected (prompt, (x, y" in words(region=("a cat", (1, 2, 3)))
    assert "no box" in words(region="a cat:1,2,3")
    assert "--region-method says how regions act" in words(region_method="eligen")
    assert "'attention'" in words(region=TEXTS[0], region_method="attention")
    assert "no method of regions" in words(region=TEXTS[0], region_method="composed:a")
    assert 'Did you mean "region"?' in words(regional_prompts=TEXTS[0])
    assert "65 --region: expected at most 64" in words(region=[TEXTS[0]] * 65)
    with pytest.raises(InkstoneError, match="reaches to 200x64, the picture is 96x64"):
        models.draw(PROMPT, region="a red circle:0,0,200,64", **CALL)
    with pytest.raises(InkstoneError, match="Region 1 is empty"):
        models.draw(PROMPT, region="a red circle:0,0,2,2", **CALL)


def test_values():
    values = parse_values({"region": list(TEXTS), "region_method": "composed:0.2:0-0.5"})
    assert values["region"] == list(map(parse_region, TEXTS))
    assert values["region_method"] == RegionSettings(base=0.2, end=0.5)
    assert parse_values({"region_method": "eligen"})["region_method"].method == "eligen"
    check_call(DrawCall(PROMPT, region=tuple(values["region"])))
