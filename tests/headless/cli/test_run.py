"""`inkstone run` on what people have: UI graphs, API graphs, pictures; --set through subgraphs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inkstone.files.png import read_text_chunks, save_png
from inkstone.headless.cli.main import main
from inkstone.headless.workflow.load import find_graph

from ...support.ui_graphs import feature_graphs

ROOT = Path(__file__).resolve().parents[3]
EMBEDDED = sorted(p.stem for p in (ROOT / "workflows" / "api").glob("*_embedded.json"))
GRAPHS = feature_graphs()


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]


def run(graph: Path, out: Path, *settings: str) -> list[np.ndarray]:
    sets = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", str(graph), "--output", str(out), "--quiet", *sets]) == 0
    return pictures(out)


def written(tmp_path: Path, name: str) -> Path:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(GRAPHS[name]))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_shipped_graph_draws_the_same_from_ui_api_and_picture(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = ROOT / "workflows"
    api = json.loads((folder / "api" / f"{name}.json").read_text("utf-8"))
    steps = 10 if "step_cache" in name else 1  # a step cache refuses fewer
    few = [
        f"{key}.steps={steps}"
        for key, entry in api.items()
        if "steps" in entry["inputs"] and entry["class_type"] != "InkstoneTrainLora"
    ]
    ui = run(Path(name), tmp_path / "ui", *few)
    plain = run(folder / "api" / f"{name}.json", tmp_path / "api", *few)
    saved = next(iter((tmp_path / "api").rglob("*.png")))
    again = run(saved, tmp_path / "png")
    assert len(ui) == len(plain) == len(again) > 0
    for a, b, c in zip(ui, plain, again, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)


def test_picture_carries_the_workflow_and_leads_back(tmp_path):
    (picture,) = run(written(tmp_path, "subgraph"), tmp_path / "a")
    assert picture.shape == (6, 200, 3)  # width from w2, height from the inner
    (file,) = (tmp_path / "a").rglob("*.png")
    chunks = read_text_chunks(file)
    assert json.loads(chunks["workflow"]) == GRAPHS["subgraph"]
    assert json.loads(chunks["prompt"])["5:12"]["inputs"]["width"] == 200
    only = save_png(tmp_path / "ui.png", np.zeros((2, 2, 3)), {"workflow": chunks["workflow"]})
    (again,) = run(only, tmp_path / "b")
    assert np.array_equal(picture, again)


@pytest.mark.parametrize(
    ("setting", "name", "size"),
    [
        ("5:12.width=31", "subgraph", (31, 6)),  # a node inside
        ("5.w2=32", "subgraph", (32, 6)),  # the subgraph's own widget
        ("Sub aaaa.w2=33", "subgraph", (33, 6)),  # by the subgraph's name
        ("5:12.height=34", "subgraph", (200, 34)),
        ("1.value=35", "primitive", (35, 32)),  # the page's primitive, gone in the API form
        ("1.value=36", "primitive of the core", (36, 32)),
        ("5:21:12.height=37", "subgraph: nested", (400, 37)),
        ("EmptyImage.width=38", "bypassed: two in a row", (38, 32)),
    ],
)
def test_set_reaches_what_the_page_shows(setting, name, size, tmp_path):
    (picture,) = run(written(tmp_path, name), tmp_path / "out", setting)[:1]
    assert picture.shape[1::-1] == size
    (file,) = list((tmp_path / "out").rglob("*.png"))[:1]
    assert "workflow" not in read_text_chunks(file), "with --set it would not be what ran"


def test_set_of_nothing_is_a_wrong_call(tmp_path, capsys):
    path = written(tmp_path, "subgraph")
    assert main(["run", str(path), "--set", "5.w3=1", "--quiet"]) == 2
    assert "5.w3" in capsys.readouterr().err


def test_missing_models_are_listed_before_anything_runs(tmp_path, capsys):
    graph = find_graph(Path("text_to_image_qwen_image"))
    out = tmp_path / "out"
    call = ["run", str(graph), "--models", str(tmp_path), "--output", str(out), "--quiet"]
    assert main(call) == 1
    stderr = capsys.readouterr().err
    assert "3 model files are not here" in stderr and "models/vae" in stderr
    assert "qwen_image_fp8_e4m3fn.safetensors" in stderr and not out.exists()


def test_foreign_classes_are_named(tmp_path, capsys):
    path = tmp_path / "g.json"
    path.write_text(json.dumps(GRAPHS["choice: one"]))
    assert main(["run", str(path), "--quiet"]) == 1
    stderr = capsys.readouterr().err
    assert "ProbeChoice" in stderr and "run in ComfyUI only" in stderr


@pytest.mark.slow
def test_drawn_picture_runs(tmp_path):
    picture = tmp_path / "drawn.png"
    call = ["draw", "a red star", "--steps", "2", "--seed", "3", "-o", str(picture), "--quiet"]
    assert main(call) == 0
    again, other = (
        run(picture, tmp_path / f"out{n}", *settings)
        for n, settings in enumerate(([], ["Inkstone Denoise.seed=4"]))
    )
    error = np.abs(again[0].astype(int) - np.asarray(Image.open(picture))).max()
    assert error <= 1, f"a draw rounds to 8 bits, Save Image cuts: {error}/255"
    assert not np.array_equal(again[0], other[0])


def test_picture_of_an_older_draw_says_how_it_was_made(tmp_path, capsys):
    picture, call = tmp_path / "drawn.png", {"prompt": "a red star", "seed": 3}
    save_png(picture, np.zeros((4, 4, 3), np.uint8), {"inkstone": json.dumps(call)})
    assert main(["run", str(picture), "--quiet"]) == 1
    stderr = capsys.readouterr().err
    assert "made by `inkstone draw`" in stderr and "a red star" in stderr


def test_previews_lie_below_the_output_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    Path("graph.json").write_text(json.dumps(graph))
    assert len(run(Path("graph.json"), Path("out"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.json", "out"]
    assert [path.name for path in Path("out").iterdir()] == ["temp"]
