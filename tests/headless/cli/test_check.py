"""`inkstone check`: what is missing and where to get it, wrong files, other files, --pin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from inkstone.errors import CallError
from inkstone.files.hashes import file_hash
from inkstone.headless.cli.main import main
from inkstone.headless.workflow.load import find_graph
from inkstone.nodes.load import EMBEDDED

from ...support.ui_graphs import feature_graphs

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "embedded" / "model"
GRAPH = find_graph(Path("text_to_image_qwen_image"))
PLACES = {
    "transformer": ("diffusion_models", "qwen_image_fp8_e4m3fn.safetensors"),
    "text_encoder": ("text_encoders", "qwen_2.5_vl_7b_fp8_scaled.safetensors"),
    "vae": ("vae", "qwen_image_vae.safetensors"),
}


def weights(part: str) -> Path:
    return sorted((MODEL / part).glob("*.safetensors"))[0]


@pytest.fixture
def models(tmp_path) -> Path:
    """A models folder with the embedded model's parts under the names of the real ones."""
    for part, (folder, name) in PLACES.items():
        place = tmp_path / "models" / folder
        place.mkdir(parents=True)
        shutil.copy(weights(part), place / name)
    return tmp_path / "models"


def check(graph: Path, *words: str) -> tuple[int, dict]:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(["check", str(graph), "--json", "--quiet", *map(str, words)])
    return status, json.loads(out.getvalue())


def graph_with(tmp_path: Path, **models: dict) -> Path:
    """The graph with properties.models on its loaders, by class."""
    ui = json.loads(GRAPH.read_text("utf-8"))
    for node in ui["nodes"]:
        node["properties"].pop("models", None)
        if node["type"] in models:
            node["properties"]["models"] = [models[node["type"]]]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(ui))
    return path


def test_graph_of_the_embedded_model_runs():
    status, facts = check(find_graph(Path("text_to_image_embedded")), "--memory")
    assert (status, facts["runs"], facts["faults"], facts["missing"]) == (0, True, [], [])
    assert len(facts["memory"]) == 1 and facts["memory"][0].startswith("128x128, 20 steps: ")


def test_memory_of_answers(tmp_path):
    """A prompt that is enhanced counts in the plan of its drawing, as `draw --enhance --plan` has
    it; a question about pictures, and a prompt that only is shown, have a line each."""
    (line,) = check(find_graph(Path("enhance_embedded")), "--memory")[1]["memory"]
    assert ", with a prompt that is enhanced: " in line and "output head and its forms" in line
    *_, line = check(find_graph(Path("find_embedded")), "--memory")[1]["memory"]
    assert line.startswith("node 7 (Inkstone Find in Picture): plan: vision tower"), line

    Image.new("RGB", (40, 90)).save(tmp_path / "own.png")
    encoder = {"text_encoder": ["1", 1]}
    answer = {"max_tokens": 9, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    words = {"prompt": "a red circle", "enhanced": "", "instructions": ""}
    dice = {"temperature": 0.0, "seed": 0}
    asked = {"caption": "free question", "question": "What is it?", "images.picture_1": ["2", 0]}
    kinds = {
        "1": ("LoadAll", {"folder": EMBEDDED, "dtype": "auto", "variant": "auto"}),
        "3": ("AskPicture", {**encoder, **asked, **answer, **dice}),
        "4": ("EnhancePrompt", {**encoder, **words, **dice}),
        "5": ("EnhancePrompt", {**encoder, **words, **dice, "enhanced": "a red circle"}),
    }
    graph = {
        n: {"class_type": f"Inkstone{k}", "inputs": inputs} for n, (k, inputs) in kinds.items()
    }
    graph["2"] = {"class_type": "LoadImage", "inputs": {"image": "own.png"}}
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))
    status, facts = check(path, "--memory", "--input", str(tmp_path))
    assert status == 0 and len(facts["memory"]) == 3, facts
    whole, question, written = facts["memory"]
    assert whole.startswith("the model's own size: ")
    assert question.startswith("node 3 (") and "vision tower" in question
    assert written.startswith("node 4 (") and "vision tower" not in written


def test_memory_of_enlarged_pictures_is_that_of_their_tiles(tmp_path):
    own, tiles = check(find_graph(Path("upscale_embedded")), "--memory")[1]["memory"]
    assert own.startswith("the model's own size, 20 steps: ")
    assert tiles.startswith("9 tiles of an enlarged 256x256: plan for 9 tiles of 128x128, 2 steps")
    graph = json.loads((ROOT / "workflows/api/upscale_embedded.json").read_text("utf-8"))
    graph["9"]["inputs"] |= {"image": ["11", 0], "factor": 3.0, "tile": 64, "strength": 0.5}
    graph["11"] = {"class_type": "LoadImage", "inputs": {"image": "own.png"}}
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph), "utf-8")
    Image.new("RGB", (61, 43)).save(tmp_path / "own.png")
    status, facts = check(path, "--memory", "--input", str(tmp_path))
    assert status == 0, facts
    assert facts["memory"][-1].startswith(
        "20 tiles of an enlarged 183x129 (of own.png): plan for 20 tiles of 64x64, 20 steps"
    )


def test_memory_of_canvases_that_come_from_pictures(tmp_path):
    from inkstone.headless.graph.api_graph import parse_graph
    from inkstone.headless.workflow.memory_estimate import plan_requests
    from inkstone.host.headless import HeadlessHost, using
    from inkstone.loaders.models.load import load_all

    model = load_all(None).model
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side
    Image.new("RGB", (90, 50)).save(tmp_path / "turned.jpg", exif=turned)

    def last_request(name: str, **more) -> tuple[str, object]:
        graph = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
        for values in (node["inputs"] for node in graph.values()):
            linked = {k for k, v in values.items() if isinstance(v, list)}
            values |= {k: v for k, v in more.items() if k in values.keys() - linked}
        with using(HeadlessHost(input=tmp_path)):
            return plan_requests(parse_graph(graph), model)[-1]

    label, request = last_request("image_to_image_qwen_image", image="turned.jpg")
    assert label.startswith("64x96, ") and label.endswith("(of turned.jpg)"), label
    assert request.size == (64, 96)
    label, request = last_request("image_to_image_qwen_image", image="gone.jpg")
    assert "gone.jpg is not in the input folder" in label and request.size is None
    label, request = last_request("edit_2511_three_pictures")
    assert request.pictures == 3 and "3 reference pictures" in label
    label, request = last_request("layered")
    assert request.layers == 4 and "4 layers" in label
    label, request = last_request("edit_embedded")
    assert label.startswith("128x128, ") and request.size == (128, 128), "of the drawn source"
    preset = "16:9 (1664x928)"
    label, request = last_request(
        "text_to_image_qwen_image", size=preset, width=64, height=64, batch_size=2
    )
    assert request.size == (1664, 928) and request.batch == 2 and "batch of 2" in label


def test_missing_files_with_where_to_get_them(tmp_path):
    url = "https://huggingface.co/x/resolve/main/qwen_image_vae.safetensors"
    entry = {"name": "qwen_image_vae.safetensors", "url": url, "directory": "vae"}
    entry["size"] = 25 * 10**7
    path = graph_with(tmp_path, InkstoneLoadVAE=entry)
    ui = json.loads(path.read_text())
    note = next(n for n in ui["nodes"] if n["type"] == "MarkdownNote")
    link = "https://example.org/a/qwen_image_fp8_e4m3fn.safetensors"
    note["widgets_values"][0] = f"[model]({link}?download=true)"
    path.write_text(json.dumps(ui))
    status, facts = check(path, "--models", tmp_path)
    missing = {entry["name"]: entry for entry in facts["missing"]}
    assert status == 1 and len(missing) == 3
    assert url in missing["qwen_image_vae.safetensors"]["said"]
    assert "0.25 GB" in missing["qwen_image_vae.safetensors"]["said"]
    assert missing["qwen_image_fp8_e4m3fn.safetensors"]["url"].startswith(link)
    assert not facts["faults"], "a missing file is reported once"


def test_files_that_are_here(models):
    status, facts = check(GRAPH, "--models", models)
    assert (status, facts["faults"], facts["missing"]) == (0, [], [])
    assert len(facts["models"]) == 3


def test_file_of_the_wrong_kind(models):
    shutil.copy(weights("vae"), models.joinpath(*PLACES["transformer"]))
    status, facts = check(GRAPH, "--models", models)
    assert status == 1
    assert any("expected a diffusion model" in f and "VAE" in f for f in facts["faults"])


def test_damaged_file(models):
    place = models.joinpath(*PLACES["vae"])
    place.write_bytes(place.read_bytes()[:5000])
    status, facts = check(GRAPH, "--models", models)
    assert status == 1 and any("qwen_image_vae" in fault for fault in facts["faults"])


@pytest.mark.parametrize("key", ["hash", "size"])
def test_another_file_of_the_same_name(models, tmp_path, key):
    entry = {"name": PLACES["vae"][1], "hash_type": "SHA256", "directory": "vae"}
    right = file_hash(models.joinpath(*PLACES["vae"])).partition(":")[2].upper()
    path = graph_with(tmp_path, InkstoneLoadVAE=entry | {"hash": right})
    assert check(path, "--models", models)[0] == 0
    wrong = {"hash": "0" * 64} if key == "hash" else {"size": 7}
    status, facts = check(graph_with(tmp_path, InkstoneLoadVAE=entry | wrong), "--models", models)
    assert status == 1 and "another file" in facts["faults"][0]


def test_pinned_graph_knows_its_files(models, tmp_path):
    out = tmp_path / "pinned.json"
    assert check(GRAPH, "--models", models, "--pin", "-o", out)[0] == 0
    pinned = json.loads(out.read_text("utf-8"))
    place = models.joinpath(*PLACES["vae"])
    entry = pinned["extra"]["inkstone"]["models"][place.name]
    assert (entry["hash"], entry["size"]) == (file_hash(place), place.stat().st_size)
    (loader,) = (n for n in pinned["nodes"] if n["type"] == "InkstoneLoadVAE")
    assert loader["properties"]["models"][0]["name"] == place.name
    assert check(out, "--models", models)[0] == 0
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(data)
    status, facts = check(out, "--models", models)
    assert status == 1 and "another file: hash" in facts["faults"][0]


def test_pin_without_a_place_is_a_wrong_call(capsys):
    assert main(["check", str(GRAPH), "--pin"]) == 2
    assert "-o OUT.json" in capsys.readouterr().err


def test_bad_values_links_and_pictures(tmp_path):
    ui = json.loads(find_graph(Path("text_to_image_embedded")).read_text("utf-8"))
    sampler = next(n for n in ui["nodes"] if n["type"] == "InkstoneDenoise")
    sampler["widgets_values"][3] = -3  # steps
    saved = next(n for n in ui["nodes"] if n["type"] == "SaveImage")
    saved["inputs"][0]["link"] = None
    (tmp_path / "g.json").write_text(json.dumps(ui))
    status, facts = check(tmp_path / "g.json")
    assert status == 1 and any("'images'" in fault for fault in facts["faults"])


def test_unknown_nodes(tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(feature_graphs()["choice: one"]))
    status, facts = check(tmp_path / "g.json")
    assert status == 1 and "ProbeChoice" in facts["faults"][0]


def test_words_for_people(capsys, tmp_path):
    assert main(["check", str(GRAPH), "--models", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "will not run here" in text and text.count("missing: ") == 3


def test_shipped_graphs_by_older_paths(tmp_path):
    """`workflows/text_to_image_embedded.json` was a file: calls that name it still mean it."""
    wanted = find_graph(Path("text_to_image_embedded"))
    for path in ("workflows/text_to_image_embedded.json", ROOT / "workflows" / wanted.name):
        assert find_graph(Path(path)) == wanted
    with pytest.raises(CallError, match="no such graph file"):
        find_graph(tmp_path / "text_to_image_embedded.json")
