"""The example graphs: one source, no drift, and the embedded one runs without ComfyUI."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inkstone.files.png import read_text_chunks
from inkstone.headless.cli.main import main
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.headless.graph.validation import validate
from inkstone.headless.workflow.run import run_file
from inkstone.host.headless import HeadlessHost
from inkstone.nodes.canvas import CUSTOM
from inkstone.nodes.sockets import NO_FILE
from inkstone.pipeline import edit
from inkstone.pipeline.ask_choices import MOST_PIXELS
from inkstone.sampling.vision_sizes import answer_sizes
from scripts.workflows import build
from scripts.workflows.titles import TITLES

from .support.answers import as_answer, scripted

ROOT = Path(__file__).resolve().parent.parent
API = sorted((ROOT / "workflows" / "api").glob("*.json"))


def test_files_are_what_the_builder_writes():
    made = build.render_all()
    kept = {
        str(p.relative_to(ROOT / "workflows").as_posix())
        for p in (ROOT / "workflows").rglob("*.json")
    }
    assert kept == set(made), "run python scripts/workflows/build.py"
    for name, text in made.items():
        assert (ROOT / "workflows" / name).read_text(encoding="utf-8") == text, (
            f"{name}: run python scripts/workflows/build.py"
        )


@pytest.mark.slow
def test_the_machine_is_not_in_the_files(tmp_path, monkeypatch):
    """Other models at hand, another folder: the same text."""
    before = build.render_all()
    for kind, name in (("diffusion_models", "a.safetensors"), ("vae", "b.safetensors")):
        (tmp_path / "models" / kind).mkdir(parents=True)
        (tmp_path / "models" / kind / name).touch()
    (tmp_path / "models" / "diffusers" / "c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert build.render_all() == before


def test_the_width_of_the_source_is_not_in_the_notes():
    unwrapped = build.unwrapped
    assert unwrapped("# T\n\none\ntwo\n\n- a\n- b\n  c\n| x |\n|---|\n| y |\n") == (
        "# T\n\none two\n\n- a\n- b   c\n| x |\n|---|\n| y |\n"
    )


@pytest.mark.parametrize("path", API, ids=lambda p: p.stem)
def test_graph_is_sound(path):
    validate(
        parse_graph(json.loads(path.read_text(encoding="utf-8"))), node_classes(), choices=False
    )
    title = TITLES[path.stem]
    assert (ROOT / "workflows" / f"{title}.jpg").is_file(), "the template browser shows a thumbnail"
    assert len(title) <= 36 and not set(title) & set('<>:"/\\|?*#%'), "it is a file name"
    ui = json.loads((ROOT / "workflows" / f"{title}.json").read_text(encoding="utf-8"))
    notes = [n for n in ui["nodes"] if n["type"] == "MarkdownNote"]
    assert notes, "a note says which files to download, or that none is needed"


def test_embedded_graph_runs_headless(tmp_path, capsys):
    graph = ROOT / "workflows" / "api" / "text_to_image_embedded.json"
    call = [
        "run",
        str(graph),
        "--output",
        str(tmp_path),
        "--set",
        "Inkstone Sampler.steps=3",
        "--json",
        "--quiet",
    ]
    assert main(call) == 0
    facts = json.loads(capsys.readouterr().out)
    (file,) = map(Path, facts["files"])
    picture = np.asarray(Image.open(file))
    assert picture.shape == (128, 128, 3) and picture.std() > 5
    chunks = read_text_chunks(file)
    assert json.loads(chunks["prompt"])["7"]["inputs"]["steps"] == 3
    assert "sha256" in chunks["inkstone_models"]


def test_draw_and_run_give_the_same_picture(tmp_path):
    """The same functions serve both."""
    graph = ROOT / "workflows" / "api" / "text_to_image_embedded.json"
    inputs = {k: v["inputs"] for k, v in json.loads(graph.read_text(encoding="utf-8")).items()}
    prompt, seed = inputs["4"]["prompt"], str(inputs["7"]["seed"])
    settings = ["--set", "Inkstone Sampler.steps=4"]
    assert main(["run", str(graph), "--output", str(tmp_path), *settings, "--quiet"]) == 0
    out = tmp_path / "draw.png"
    assert main(["draw", prompt, "-o", str(out), "--steps", "4", "--seed", seed, "--quiet"]) == 0
    (made,) = (tmp_path / "inkstone").glob("*.png")
    a, b = (np.asarray(Image.open(p)).astype(int) for p in (made, out))
    assert np.abs(a - b).max() <= 1, f"pictures differ by {np.abs(a - b).max()}/255"


def test_thumbnails_and_titles_differ():
    thumbnails = {(ROOT / "workflows" / f"{title}.jpg").read_bytes() for title in TITLES.values()}
    assert len(thumbnails) == len(set(TITLES.values())) == len(API)
    assert {path.stem for path in API} == set(TITLES)
    assert len(list((ROOT / "workflows").glob("*.jpg"))) == len(API), "none is left over"


# --- graphs that start from a picture

NAMES = [path.stem for path in API if "embedded" not in path.stem and "text" not in path.stem]


def on_tiny(name: str, tiny_folder, tiny_control) -> dict:
    """The shipped graph with its files exchanged for a tiny model of the same variant."""
    graph = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    kind = graph["1"]["inputs"]["variant"]
    folder = str(tiny_folder("layered" if kind == "auto" else kind))
    for key, field in (("1", "model"), ("2", "text_encoder"), ("3", "vae")):
        graph[key]["inputs"][field] = folder
    for entry in graph.values():
        if entry["class_type"] in ("InkstoneDenoise", "InkstoneUpscalePicture"):
            entry["inputs"]["steps"] = 2
        if entry["class_type"] == "InkstoneLoadControlNet":
            entry["inputs"]["control"] = tiny_control(name)
        if entry["class_type"] == "InkstoneLoraLoader":
            entry["inputs"]["lora_1"] = NO_FILE  # published for the 20B model
        if entry["class_type"] == "InkstoneEmptyLatent":
            entry["inputs"] |= {"size": CUSTOM, "width": 64, "height": 32}
        if entry["class_type"] == "InkstoneInpaint" and entry["inputs"]["grow"]:
            entry["inputs"]["grow"] = 2
        if entry["class_type"] == "InkstonePadForOutpaint":
            entry["inputs"]["right"] = 21
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_graph_runs_on_tiny_models(name, tiny_folder, tiny_control, tmp_path, monkeypatch):
    """Every picture has the size of the one that it started from."""
    monkeypatch.setitem(edit.LAYER_AREAS, "640x640", 4096)
    (tmp_path / "input").mkdir()
    data = np.random.default_rng(0).integers(0, 255, (37, 53, 4), np.uint8)
    data[..., 3] = 255
    data[5:20, 10:30, 3] = 0  # as the mask editor saves a mask
    Image.fromarray(data).save(tmp_path / "input" / "example.png")
    graph = on_tiny(name, tiny_folder, tiny_control)
    if "find" in name:  # random models answer no boxes
        data[..., 3] = 255
        data[2:23, 7:33, 3] = 0  # the box in whole pixels, and two by which its mask is grown
        finding = shutil.copytree(graph["2"]["inputs"]["text_encoder"], tmp_path / "finding")
        seen = answer_sizes(53, 37, MOST_PIXELS)[1]
        scripted(finding, as_answer([(10, 5, 30, 20)], seen, (53, 37)))
        graph["2"]["inputs"]["text_encoder"] = str(finding)
    host = HeadlessHost(
        input=tmp_path / "input", output=tmp_path, temp=tmp_path / "temp", any_path=True
    )
    Executor(node_classes()).run(parse_graph(graph), host)
    files = sorted((tmp_path / "inkstone").glob("*.png"))
    assert len(files) == (4 if name in ("layered", "variety_qwen_image") else 1)
    drawn = name in ("transparent_2_1", "regions_qwen_image", "variety_qwen_image")  # no picture
    picture = (64, 32) if drawn else (53, 37)
    twice = "super_resolution" in name or "upscale" in name
    wide, times = (21 if "outpaint" in name else 0), (2 if twice else 1)
    for file in files:
        width, height = picture
        assert Image.open(file).size == ((width + wide) * times, height * times), name
    if "2_1" in name:
        assert Image.open(files[0]).mode == "RGBA", "random weights draw transparency"
    if "inpaint" in name:
        made = np.asarray(Image.open(files[0]))
        kept = data[..., 3] == 255
        assert np.array_equal(made[kept], data[kept][:, :3]), "outside the mask nothing changes"
        assert not np.array_equal(made[~kept], data[~kept][:, :3]), "inside it is drawn"


@pytest.mark.parametrize("name", ["image_to_image_embedded", "inpaint_embedded"])
def test_graph_draws_its_own_source(name, tmp_path):
    host = HeadlessHost(output=tmp_path, temp=tmp_path / "temp", input=tmp_path / "none")
    graph = ROOT / "workflows" / "api" / f"{name}.json"
    run_file(graph, ["Source: sampler.steps=2", "Result: sampler.steps=3"], host, lambda *_: None)
    (made,), (source,) = ((tmp_path / f).glob("*.png") for f in ("inkstone", "temp"))
    a, b = (np.asarray(Image.open(p)) for p in (made, source))
    assert a.shape == b.shape == (128, 128, 3) and not np.array_equal(a, b)
    if name == "inpaint_embedded":
        assert np.array_equal(a[:, 64:], b[:, 64:]) and not np.array_equal(a[:, :64], b[:, :64])


@pytest.mark.slow
def test_control_graph_draws_its_own_source(tmp_path):
    """The map is of the source; strength 0 draws another picture."""
    host = HeadlessHost(output=tmp_path, temp=tmp_path / "temp", input=tmp_path / "none")
    graph = ROOT / "workflows" / "api" / "controlnet_embedded.json"
    steps = ["Source: sampler.steps=8", "Result: sampler.steps=8"]
    for strength in ("1", "0"):
        setting = f"Inkstone Apply ControlNet.strength={strength}"
        run_file(graph, [*steps, setting], host, lambda *_: None)
    a, b = (np.asarray(Image.open(p)) for p in sorted((tmp_path / "inkstone").glob("*.png")))
    assert a.shape == b.shape == (128, 128, 3) and not np.array_equal(a, b)
    maps = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "temp").glob("inkstone_pre*"))]
    assert maps and 0.005 < (maps[0] > 127).mean() < 0.2, "a map of edges is shown"
