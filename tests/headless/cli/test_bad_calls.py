"""Bad calls, graphs, prompts, output folders: the thing and the remedy in words, no file left."""

import json
import os
import shutil
from pathlib import Path

import pytest

from inkstone.headless.cli.main import main
from inkstone.loaders.models.load import EMBEDDED_FOLDER

from ...conftest import ROOT
from ...loaders.test_bad_input import NAN, QUICK, SLOTS, Q, edit, fill

DRAW = ("draw", "a red circle", "-o", "x.png")
BAD_CALLS = {
    "size 0": ((*DRAW, "--size", "0x64"), ("Canvas width 0 is out of range", "1328x1328")),
    "size 17x23": ((*DRAW, "--size", "17x23"), ("multiple of 16", "size that works is 16x16")),
    "one number": ((*DRAW, "--size", "64"), ("is not WIDTHxHEIGHT", "Write for example")),
    "negative steps": ((*DRAW, "--steps", "-3"), ("--steps", "'-3'", "from 1 to 1000")),
    "steps 0": ((*DRAW, "--steps", "0"), ("--steps", "'0'", "from 1 to 1000")),
    "batch 0": ((*DRAW, "--batch", "0"), ("--batch", "'0'", "from 1 to 256")),
    "seed -1": ((*DRAW, "--seed", "-1"), ("--seed", "'-1'", "from 0 to 18446744073709551615")),
    "seed 2^64": ((*DRAW, "--seed", str(2**64)), ("--seed", "from 0 to 18446744073709551615")),
    "cfg nan": ((*DRAW, "--cfg", "nan"), ("--cfg", "'nan'", "from 0 to 100")),
    "dtype": ((*DRAW, "--dtype", "fp4"), ("--dtype", "'fp4'", "float32")),
    "device": ((*DRAW, "--device", "cuda:99"), ("--device cuda:99", "Use --device cpu")),
    "memory": ((*DRAW, "--memory", "much"), ("--memory", "'much'", "12GB")),
    "missing LoRA": ((*DRAW, "--lora", "no.safetensors:0.5"), ("--lora no.safet", "F:STRENGTH")),
    "LoRA strength": ((*DRAW, "--lora", "x.safetensors:nan"), ("--lora", "'nan'", "-100 to 100")),
    "missing model": ((*DRAW, "--model", "no.safetensors"), ("--model no.safetens", "Check the")),
    "single file": (
        (*DRAW, "--model", SLOTS["model"]),
        ("so --text-encoder and --vae must be given", "whole model folder"),
    ),
    "output is a folder": ((*DRAW[:3], "."), ("is a folder", "name a file in it")),
    "output is a JPEG": ((*DRAW[:3], "x.jpg"), ("saved as PNG", "Name it x.png")),
    "latent is a folder": ((*DRAW, "--save-latent", "."), ("is a folder", "name a file in it")),
    "misspelt option": (
        ("train-lora", "x", "-o", "y.safetensors", "--sample", "a b"),
        ("no option --sample; did you mean --sample-prompts or --sample-every?", "lora --help"),
    ),
    "misspelt command": (
        ("train_lora", "x"),
        ("no command 'train_lora'; did you mean train-lora?",),
    ),
    "option before the command": (("--steps", "4", "draw", "x"), ("The command comes first",)),
    "name of another program": (
        (*DRAW, "--width", "64"),
        ("no option --width; did you mean --size",),
    ),
    "kohya's name": (("train-lora", "x", "-o", "y", "--learning-rate", "1"), ("mean --lr?",)),
    "no near name": (("serve", "--lora", "x"), ("there is no option --lora. `inkstone serve",)),
    "long dash": (("draw", "x", "\u2014steps", "4"), ("begins with a long dash", "two hyphens")),
    "after two hyphens": (("train-lora", "--", "x", "-o", "y"), ("-o stands after --", "before")),
    "no value": (("draw", "x", "--steps"), ("expected one argument. `inkstone draw --help`",)),
    "an option where an argument is missing": (
        ("quantize", "--tpye", "Q8_0"),
        ("no option --tpye; did you mean --type? `inkstone quantize --help`",),
    ),
    "arguments are missing": (("quantize",), ("are required: IN, OUT, --type. `inkstone quant",)),
    "no option but an argument": (
        ("draw", "--prompt", "a red circle"),
        ("there is no option --prompt: give PROMPT as it is, without it.",),
    ),
    "set of a graph": (
        ("run", str(ROOT / "workflows" / "text_to_image_embedded.json"), "--set", "foo"),
        ("run: --set foo: expected NODE.INPUT=VALUE, such as --set 3.seed=7.",),
    ),
    "no such option": ((*DRAW, "--xyzzy=3"), ("no option --xyzzy. `inkstone draw --help`",)),
    "prompt without quotes": (("draw", "a", "cat"), ("'cat' is one argument too many", "quotes")),
    "missing graph": (("run", "no.json"), ("no.json: no such graph file", "Check the path")),
    "graph is a folder": (("run", "."), ("no such graph file", "Check the path")),
    "missing file": (("inspect", "no.safetensors"), ("no.safetensors: no such file", "Check the")),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_bad_call(what, fails):
    arguments, words = BAD_CALLS[what]
    fails(arguments, words, status=2)


GRAPH = json.loads((ROOT / "workflows" / "api" / "text_to_image_embedded.json").read_text())
LOAD, CANVAS, DRAWING = "1", "5", "7"
OWN = "custom (width and height below)"


def graph(node: str, remove: str = "", kind: str = "", **inputs: object) -> str:
    """The shipped graph as a text, with one node changed."""
    changed = json.loads(json.dumps(GRAPH))
    changed[node]["inputs"] |= inputs
    changed[node]["inputs"].pop(remove, None)
    changed[node]["class_type"] = kind or changed[node]["class_type"]
    return json.dumps(changed)


BAD_GRAPHS = {
    "unknown key": (graph(DRAWING, sede=3), ("'seed' (the nearest input)", "'sede'", "node 7")),
    "unknown class": (
        graph(DRAWING, kind="InkstoneDenoize"),
        ("nearest: InkstoneDenoise", "'InkstoneDenoize'", "node 7"),
    ),
    "a width that a preset overrides": (
        graph(CANVAS, width=512),
        ("size '128x128 (embedded model)'", "width 512", "Choose size 'custom"),
    ),
    "CFG 101": (graph(DRAWING, cfg=101), ("'cfg'", "0.0..100.0", "got 101")),
    "seed": (graph(DRAWING, seed=2**64), ("'seed'", "0..18446744073709551615", f"got {2**64}")),
    "batch 0": (graph(CANVAS, batch_size=0), ("'batch_size'", "1..256", "got 0")),
    "size 17x23": (
        graph(CANVAS, size=OWN, width=17, height=23),
        ("'width'", "a multiple of 16", "got 17", "'height'", "got 23"),
    ),
    "size 0": (graph(CANVAS, size=OWN, width=0), ("'width'", "16..16384", "got 0")),
    "unknown size": (graph(CANVAS, size="1:1"), ("'size'", 'such as "the model\'s own"', "'1:1'")),
    "steps 1001": (graph(DRAWING, steps=1001), ("'steps'", "0..1000", "got 1001")),
    "negative steps": (graph(DRAWING, steps=-4), ("'steps'", "0..1000", "got -4")),
    "no wire": (graph(DRAWING, remove="model"), ("'model'", "INKSTONE_MODEL", "got nothing")),
    "wrong wire": (graph(DRAWING, model=[LOAD, 2]), ("INKSTONE_MODEL", "INKSTONE_VAE from node 1")),
    "missing model": (graph(LOAD, folder="qwen"), ("model file is not here", "qwen", "diffusers")),
    "no JSON": ("{", ("graph.json is not JSON", "Export (API)")),
    "empty UI graph": ('{"nodes": [], "links": []}', ("an empty graph", "Export (API)")),
    "empty graph": ("{}", ("an empty object", "Export (API)")),
}


@pytest.mark.parametrize("what", BAD_GRAPHS)
def test_bad_graph(what, fails, tmp_path):
    text, words = BAD_GRAPHS[what]
    (tmp_path / "graph.json").write_text(text)
    fails(("run", tmp_path / "graph.json", "--output", "out"), words)


def test_damaged_model_in_a_graph(fails, tmp_path):
    model = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "models" / "diffusers" / "model")
    edit("model", fill(Q, NAN))(model / SLOTS["model"].relative_to(EMBEDDED_FOLDER))
    (tmp_path / "graph.json").write_text(graph(LOAD, folder="model"))
    words = (
        "Node 7 (Inkstone Sampler, InkstoneDenoise) failed. ",
        f"tensor {Q}: ",
        "download it again",
    )
    call = ("run", tmp_path / "graph.json", "--output", "out", "--models", tmp_path / "models")
    assert "step 1/" not in fails(call, words)


def read_only(tmp_path: Path) -> Path:
    """A folder that refuses files, also those of the superuser."""
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        return Path("/proc")
    (tmp_path / "locked").mkdir(mode=0o555)
    return tmp_path / "locked"


@pytest.mark.skipif(os.name == "nt", reason="folders are not read-only there")
def test_output_folder_that_refuses(fails, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    locked, inside = read_only(tmp_path), tmp_path / "file" / "out"
    refused = (f"Cannot write into the folder {locked}", "Make it writable or choose another")
    fails((*DRAW[:3], locked / "x.png"), refused)
    fails((*DRAW, "--save-latent", locked / "x.safetensors"), refused)
    fails(("run", tmp_path / "graph.json", "--output", locked), refused)
    fails((*DRAW[:3], inside / "x.png"), (f"Cannot make the folder {inside}", "another"), status=2)
    fails(("run", tmp_path / "graph.json", "--output", inside), (str(inside), "choose another"))


def test_prompt_that_is_too_long_is_cut_and_it_is_said(place, caplog):
    assert main(["draw", "a red circle " * 60, "-o", "x.png", *QUICK]) == 0
    lines = [r.getMessage() for r in caplog.records if "shorten it" in r.getMessage()]
    assert len(lines) == 1 and "this model takes 96: the last " in lines[0], caplog.text
    assert [p.name for p in place.iterdir()] == ["x.png"]


def test_prompt_that_is_no_text(fails):
    words = ("a\\udcff", "cannot be tokenised", "Remove the broken characters")
    fails(("draw", "a\udcff", *DRAW[2:], *QUICK), words)
