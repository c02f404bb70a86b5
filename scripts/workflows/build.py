"""Writes every example graph, UI and API form, from one source: `python
scripts/workflows/build.py`.

A test fails when the files drift from what the node schemas give. Nothing of this machine goes into
them: file names stand in the graphs below, and combos are not read from a models folder.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
GRAPHS = HERE.parents[1] / "workflows"
NEGATIVE = " "
NOTE_WIDTH, LINE = 440, 62  # LINE: letters of a line of a note of that width

DOWNLOADS = """## Files to download

A whole folder of `Qwen/Qwen-Image` in `models/diffusers` works too: use the node *Inkstone Load
All* instead of the three loaders. The tokenizer is taken from ComfyUI's own files.
"""

EMBEDDED_NOTE = """## No download needed

This graph draws with the small model that ships inside Inkstone: coloured grounds, circles,
squares, triangles and stars, and words of up to six capitals or digits in double quotes. Try

- `a large red star on the left on a white background`
- `the word "HELLO" in yellow on a blue background`
- `a white sign that says "OPEN" in red above a green circle on a black background`

Sizes: 128x128, 160x96 or 96x160.
"""


LORA_NOTE = """## Files to download

Any other GGUF type, fp8 or int8 file takes the same places.

The LoRA runs beside the packed weights; *coverage* says how many modules it reached. 8 steps, CFG 1
and the fixed shift 3 belong together. *Model Info* prints what will be in memory.
"""


def package():
    """This tree as the package `inkstone`."""
    if "inkstone" not in sys.modules:
        root = HERE.parents[1]
        spec = importlib.util.spec_from_file_location(
            "inkstone", root / "__init__.py", submodule_search_locations=[str(root)]
        )
        sys.modules["inkstone"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["inkstone"])
    return sys.modules["inkstone"]


def _sibling(name: str):
    """A file beside this one, however this one was started."""
    spec = importlib.util.spec_from_file_location(f"workflows_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def text_to_image(
    loaders: dict[str, dict], ends: tuple, prompt: str, size: dict, run: dict
) -> dict:
    """The graph behind the loaders. `ends` are the links of model, text encoder and VAE."""
    model, text, vae = ends
    graph = {
        **loaders,
        "4": _node(
            "InkstoneEncodePrompt", text_encoder=text, prompt=prompt, negative=run["negative"]
        ),
        "5": _node("InkstoneEmptyLatent", batch_size=1, **size),
        "6": _node(
            "InkstoneSchedule",
            model=model,
            latent=["5", 0],
            steps=run["steps"],
            schedule=run["schedule"],
        ),
        "7": _node(
            "InkstoneDenoise",
            model=model,
            positive=["4", 0],
            sigmas=["6", 0],
            latent=["5", 0],
            seed=run["seed"],
            cfg=run["cfg"],
        ),
        "8": _node("InkstoneDecode", vae=vae, latent=["7", 0]),
        "9": _node("SaveImage", images=["8", 0], filename_prefix="inkstone/picture"),
    }
    if run["cfg"] > 1:
        graph["7"]["inputs"]["negative"] = ["4", 1]
    return graph


def three_loaders(
    model: str, vae: str = "qwen_image_vae.safetensors", variant: str = "auto"
) -> dict[str, dict]:
    """Loaders of ComfyUI's single files."""
    return {
        "1": _node("InkstoneLoadDiffusionModel", model=model, dtype="auto", variant=variant),
        "2": _node(
            "InkstoneLoadTextEncoder", text_encoder="qwen_2.5_vl_7b.safetensors", dtype="auto"
        ),
        "3": _node("InkstoneLoadVAE", vae=vae, dtype="auto"),
    }


def packed_loaders() -> dict[str, dict]:
    """GGUF files and a Lightning LoRA beside them."""
    return {
        "1": _node("InkstoneLoadDiffusionModel", model="qwen-image-Q4_K_M.gguf", dtype="auto"),
        "2": _node(
            "InkstoneLoadTextEncoder",
            text_encoder="Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf",
            dtype="auto",
        ),
        "3": _node("InkstoneLoadVAE", vae="qwen_image_vae.safetensors", dtype="auto"),
        "10": _node(
            "InkstoneLoadLora",
            lora="Qwen-Image-Lightning-8steps-V1.1.safetensors",
            strength=1.0,
            blocks="",
        ),
        "11": _node("InkstoneLoraStack", model=["1", 0], **{"loras.lora_0": ["10", 0]}),
        "12": _node("InkstoneModelInfo", model=["11", 0], latent=["5", 0], steps=8),
    }


def graphs() -> dict[str, tuple[dict, str]]:
    """Name -> (API graph, note in Markdown)."""
    nodes = sys.modules["inkstone.nodes.sample"]
    own, _, lightning, _ = nodes.SCHEDULES
    prompt = (
        'A coffee shop entrance with a chalkboard sign reading "Inkstone Coffee", '
        "warm morning light, Ultra HD, 4K, cinematic composition."
    )
    full = {"size": next(iter(nodes.sizes())), "width": 1328, "height": 1328}
    small = {"size": nodes.SMALL, "width": 128, "height": 128}
    all_in_one = {
        "1": _node(
            "InkstoneLoadAll", folder=sys.modules["inkstone.nodes.load"].EMBEDDED, dtype="auto"
        )
    }
    split = (["1", 0], ["2", 0], ["3", 0])
    edits, controls = _sibling("edits"), _sibling("controls")
    return {
        "text_to_image_embedded": (
            text_to_image(
                all_in_one,
                (["1", 0], ["1", 1], ["1", 2]),
                'a white sign that says "INK" in blue above a red star on a yellow background',
                small,
                dict(steps=20, schedule=own, seed=7, cfg=2.0, negative=""),
            ),
            EMBEDDED_NOTE,
        ),
        "text_to_image_qwen_image": (
            text_to_image(
                three_loaders("qwen_image_bf16.safetensors"),
                split,
                prompt,
                full,
                dict(steps=50, schedule=own, seed=42, cfg=4.0, negative=NEGATIVE),
            ),
            DOWNLOADS + "\n50 steps, CFG 4: the settings of the model card.",
        ),
        "text_to_image_gguf_lightning_lora": (
            text_to_image(
                packed_loaders(),
                (["11", 0], ["2", 0], ["3", 0]),
                prompt,
                full,
                dict(steps=8, schedule=lightning, seed=42, cfg=1.0, negative=NEGATIVE),
            ),
            LORA_NOTE,
        ),
        "text_to_image_lightning_8_steps": (
            text_to_image(
                three_loaders("qwen_image_lightning_8steps_bf16.safetensors"),
                split,
                prompt,
                full,
                dict(steps=8, schedule=lightning, seed=42, cfg=1.0, negative=NEGATIVE),
            ),
            DOWNLOADS + "\nThe model is a merged Lightning one for 8 steps, as "
            "`lightx2v/Qwen-Image-Lightning` has them. 8 steps, CFG 1 and the fixed shift 3 "
            "belong together.",
        ),
        **edits.embedded(all_in_one["1"], small, own),
        **edits.qwen_image(three_loaders, own),
        **edits.edits(three_loaders, own),
        **edits.layered(three_loaders, own),
        **controls.embedded(edits, all_in_one["1"], small, own),
        **controls.published(edits, three_loaders, own),
    }


def render_all() -> dict[str, str]:
    """File name below workflows/ -> content."""
    package()
    import inkstone.nodes.load  # noqa: F401
    import inkstone.nodes.sample  # noqa: F401
    from inkstone.headless.core_nodes.registry import node_classes
    from inkstone.headless.graph.api_graph import to_api
    from inkstone.headless.workflow.to_ui import Layout, Note, full_graph, ui_from_api

    out = {}
    classes, models = node_classes(), _sibling("models")
    for name, (graph, note) in graphs().items():
        said = _unwrapped(models.note_with_files(note, graph))
        layout = Layout(notes=(Note(said, "Read me", _note_size(said)),), pack="inkstone")
        out[f"{name}.json"] = _text(models.mark(ui_from_api(graph, classes, layout)))
        out[f"api/{name}.json"] = _text(to_api(full_graph(graph, classes)))
    return out


def _note_size(markdown: str) -> tuple[int, int]:
    """Large enough to read the note without scrolling; the letters' size is the page's."""
    lines = [line for line in markdown.split("\n") if line]
    rows = sum(math.ceil(len(re.sub(r"\]\(.*?\)", "]", line)) / LINE) for line in lines)
    return NOTE_WIDTH, 20 * math.ceil((40 + 18 * rows + 10 * len(lines)) / 20)


def _unwrapped(markdown: str) -> str:
    """Each paragraph and list item on one line, so that the source's line width is not in files."""
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|#-])", " ", markdown)


def _text(value: dict) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (GRAPHS / "api").mkdir(exist_ok=True)
    for file, text in render_all().items():
        (GRAPHS / file).write_text(text, encoding="utf-8")
