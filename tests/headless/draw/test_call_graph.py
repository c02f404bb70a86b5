"""A call as a graph: how files are named, what is told, and what the PNG carries beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from inkstone.errors import CallError
from inkstone.files.hashes import model_hash
from inkstone.files.png import read_text_chunks
from inkstone.headless.cli.main import main
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.draw.control_option import ControlOption
from inkstone.headless.draw.decide import ControlWiring, Drawing
from inkstone.headless.draw.file_names import FileNames
from inkstone.headless.draw.graph import draw_graph
from inkstone.headless.draw.image_traits import ImageTraits
from inkstone.headless.draw.png_metadata import graph_chunks
from inkstone.headless.draw.request import DrawCall, check_call
from inkstone.headless.workflow.to_ui import full_graph
from inkstone.loaders.models.load import EMBEDDED_FOLDER

from .test_draw_graph import lora_for_embedded
from .test_edit_draw import mask_file, pixels, save

RUN = Drawing("text", "x", "blurry", 4, 2.5, (64, 64))
WEIGHTS = {"diffusion_models": "transformer", "text_encoders": "text_encoder", "vae": "vae"}


def inputs(graph: dict, kind: str) -> list[dict]:
    return [n["inputs"] for n in graph.values() if n["class_type"].endswith(kind)]


def made(seed: int = 3, drawn: dict | None = None, **call) -> tuple[dict, tuple[str, ...]]:
    """The graph of a call whose files need not be there, and its notes."""
    files = (*call.get("image", ()), *(c.path for c in call.get("control", ())))
    traits = {path: ImageTraits((64, 64)) for path in files}
    drawing = replace(RUN, **{"traits": traits, "mask_channel": "red"} | (drawn or {}))
    graph = draw_graph(DrawCall("x", **call), drawing, FileNames(), seed, save=True)
    full_graph(graph.api, node_classes())
    return graph.api, graph.notes


# ---- names


@pytest.mark.parametrize(
    "kind, path, name",
    [
        ("diffusion_models", "models/diffusion_models/qwen.gguf", "qwen.gguf"),
        ("diffusion_models", "models/diffusion_models/sub/qwen.gguf", "sub/qwen.gguf"),
        ("diffusion_models", "/x/ComfyUI/models/unet/qwen.gguf", "qwen.gguf"),
        ("diffusers", "/x/models/diffusers/Qwen/Qwen-Image", "Qwen/Qwen-Image"),
        ("vae", "/x/models/diffusers/Qwen-Image", "Qwen-Image"),
        ("loras", "/loras/mine/loras/a.safetensors", "a.safetensors"),
        ("input", "input/sub/a.png", "sub/a.png"),
        ("input", "/x/ComfyUI/input/a.png", "a.png"),
    ],
)
def test_files_where_the_loaders_look(kind, path, name, place):
    names = FileNames()
    assert names.of(kind, Path(path)) == name and names.away() == []


def test_files_elsewhere_are_told_and_never_mixed_up(place):
    names = FileNames()
    found = [names.of("input", place / p) for p in ("a/x.png", "b/x.png", "a/x.png", "y.png")]
    assert found == ["x.png", "x_2.png", "x.png", "y.png"]
    assert names.of("loras", place / "x.png") == "x.png"
    assert names.away() == [
        "put x.png, b/x.png as x_2.png, y.png into the input folder",
        "put x.png into models/loras",
    ]
    assert str(place) not in str(names.away())


def test_a_whole_folder_elsewhere_belongs_to_the_whole_folders(place):
    Path("own").mkdir()
    Path("own/model_index.json").write_text("{}")
    names = FileNames()
    assert names.of("text_encoders", Path("own")) == "own"
    assert names.away() == ["put own into models/diffusers"]


# ---- what a graph cannot say


def test_what_is_told(place):
    image = {"kind": "image", "size": None}
    clean = made(image=[Path("input/a.png")], drawn=image)
    assert clean[1] == ()
    graph, notes = made(
        seed=2**60 + 1,
        image=[Path("input/a.png")],
        mask=Path("input/m.png"),
        drawn=image | {"strength": 0.004},
    )
    assert len(notes) == 1 and str(2**60 + 1) in notes[0], notes
    assert inputs(graph, "Denoise")[0]["strength"] == 0.004, "a small strength is kept as it is"
    assert inputs(graph, "Denoise")[0]["seed"] == 2**60 + 1


def test_pictures_beyond_the_sockets(place):
    """The stand-ins have the sockets of an old host; a graph with more is made all the same."""
    images = [Path(f"input/{n}.png") for n in range(16)]
    traits = {path: ImageTraits((64, 64)) for path in images}
    call, drawing = DrawCall("x", image=images), replace(RUN, kind="edit", traits=traits)
    graph = draw_graph(call, drawing, FileNames(), 1, save=True)
    assert "growing" in graph.notes[0] and graph.grown
    assert "images.picture_16" in inputs(graph.api, "EncodeEdit")[0]
    chunks = graph_chunks(call, drawing, 1)
    assert sorted(chunks) == ["inkstone_models", "prompt"]
    assert "images.picture_16" in chunks["prompt"]


def test_more_pictures_than_a_graph_can_have_are_refused(place):
    images = [Path(f"{n}.png") for n in range(17)]
    for path in images:
        path.touch()
    with pytest.raises(CallError, match="17 --image: expected at most 16"):
        check_call(DrawCall("x", image=images))


def test_guidance_off_connects_no_negative(place):
    graph, _ = made(drawn={"cfg": 1.0})
    assert "negative" not in inputs(graph, "Denoise")[0]
    assert "negative" in inputs(made()[0], "Denoise")[0]


def test_a_picture_that_serves_twice_is_loaded_once(place):
    picture = Path("input/a.png")
    graph, _ = made(
        image=[picture],
        control=[ControlOption("canny", picture), ControlOption("map", picture, 0.5)],
        control_model=[Path("models/controlnet/u.safetensors")],
        drawn={"kind": "image", "size": None, "controls": (ControlWiring(False, True),) * 2},
    )
    assert len(inputs(graph, "LoadImage")) == len(inputs(graph, "LoadControlNet")) == 1
    assert [i["strength"] for i in inputs(graph, "ApplyControlNet")] == [1.0, 0.5]


def test_the_control_of_a_models_own_folder(place):
    graph, notes = made(
        model=Path("models/diffusers/q"),
        control=[ControlOption("map", Path("input/a.png"))],
        drawn={"controls": (ControlWiring(False, False),)},
    )
    assert inputs(graph, "LoadControlNet")[0]["control"] == "q" and not notes


# ---- what the PNG carries


@pytest.mark.slow
def test_files_from_elsewhere_run_where_they_belong(tmp_path, place, caplog, capsys):
    """Split files, a picture and a mask outside of all folders: one line tells where they go."""
    caplog.set_level("INFO")
    own = tmp_path / "own"
    shutil.copytree(EMBEDDED_FOLDER, own)
    save(str(own / "a.png"), pixels())
    mask_file(str(own / "mask.png"))
    parts = zip(("--model", "--text-encoder", "--vae"), WEIGHTS.values(), strict=True)
    whole = [word for option, part in parts for word in (option, str(own / part))]
    call = [
        "draw",
        "a red circle",
        *whole,
        "--image",
        str(own / "a.png"),
        "--mask",
        str(own / "mask.png"),
        "--steps",
        "2",
        "-o",
        "out.png",
    ]
    assert main(call) == 0
    told = [r.message for r in caplog.records if r.message.startswith("the graph in the picture")]
    assert len(told) == 1 and all(
        f"put {name} into models/{kind}" in told[0] for kind, name in WEIGHTS.items()
    )
    assert "put a.png, mask.png into the input folder" in told[0]
    chunks = read_text_chunks("out.png")
    notes = [n for n in json.loads(chunks["workflow"])["nodes"] if n["type"] == "MarkdownNote"]
    assert "put a.png, mask.png into" in notes[0]["widgets_values"][0]
    assert str(tmp_path) not in "".join(chunks.values()), "no path of this machine"
    assert main(["run", "out.png", "--quiet"]) == 1
    said = capsys.readouterr().err
    assert all(f"{name}: not in models/{kind}" in said for kind, name in WEIGHTS.items()), said
    (tmp_path / "there" / "input").mkdir(parents=True)
    for name in ("a.png", "mask.png"):
        shutil.copy(own / name, tmp_path / "there" / "input")
    for kind, part in WEIGHTS.items():
        shutil.copytree(own / part, tmp_path / "there" / kind / part)
    shutil.copytree(own / "tokenizer", tmp_path / "there" / "text_encoders" / "tokenizer")
    there = ["--models", str(tmp_path / "there"), "--input", str(tmp_path / "there" / "input")]
    assert main(["run", "out.png", "--quiet", *there, "--output", "again"]) == 0


def test_models_go_by_hash_and_size(place, capsys):
    """A file of the same name that is another one is told."""
    Path("models/loras").mkdir(parents=True)
    file = Path("models/loras/l.safetensors")
    lora_for_embedded(file, 1)
    call = ["draw", "x", "--steps", "1", "--lora", str(file), "-o", "out.png", "--quiet"]
    assert main(call) == 0
    kept = json.loads(read_text_chunks("out.png")["workflow"])["extra"]["inkstone"]["models"]
    digest = model_hash(file)
    assert kept["l.safetensors"] == {
        "directory": "loras",
        "hash": digest,
        "size": file.stat().st_size,
    }
    assert json.loads(read_text_chunks("out.png")["inkstone_models"])["l.safetensors"] == digest
    assert main(["check", "out.png", "--quiet"]) == 0
    lora_for_embedded(file, 2)
    capsys.readouterr()
    assert main(["check", "out.png", "--quiet"]) == 1
    assert "is another file" in capsys.readouterr().out


def test_jobs_of_a_queue_carry_it_too(place):
    lines = [{"id": "one", "prompt": "a red star", "seed": 5}, {"prompt": "a dot", "batch": 2}]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["batch", "jobs.jsonl", "--output", "out", "--steps", "1", "--quiet"]) == 0
    files = sorted(Path("out").glob("*.png"))
    assert len(files) == 3
    seeds = [inputs(json.loads(read_text_chunks(f)["prompt"]), "Denoise")[0]["seed"] for f in files]
    assert sorted(seeds) == [0, 1, 5]


def test_a_graph_that_cannot_be_made_costs_no_picture(place, monkeypatch, caplog):
    from inkstone.errors import InkstoneError
    from inkstone.headless.draw import png_metadata as module

    def refuse(*_: object, **__: object) -> None:
        raise InkstoneError("no such node")

    monkeypatch.setattr(module, "draw_graph", refuse)
    assert main(["draw", "x", "--steps", "1", "-o", "out.png"]) == 0
    assert list(read_text_chunks("out.png")) == ["inkstone"]
    assert "carries no graph: no such node" in caplog.text
