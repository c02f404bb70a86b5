"""Writes every example graph, UI and API form: `python scripts/workflows/build.py`.

A test fails when the files drift from the node schemas. Nothing of this machine goes into them:
file names are constants of the graphs, and combos are not read from a models folder.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import to_api
from inkstone.headless.workflow.to_ui import Layout, Note, full_graph, ui_from_api
from inkstone.nodes.canvas import sizes
from inkstone.nodes.lora import row
from scripts.package import ROOT
from scripts.workflows import controls, edits, models
from scripts.workflows.parts import (
    LIGHTNING,
    SMALL_CANVAS,
    SMALL_RUN,
    Example,
    Graph,
    Link,
    Node,
    Run,
    Wires,
    draw,
    load_embedded,
    loaders,
    node,
    prompt,
    save,
)

GRAPHS = ROOT / "workflows"
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

The LoRA runs on top of the packed weights; *coverage* says how many modules it reached. 8 steps,
CFG 1 and the fixed shift 3 belong together. *Model Info* prints what will be in memory.
"""


def text_to_image(
    start: Graph,
    ends: tuple[Link, Link, Link],
    text: tuple[str, str],
    canvas: Mapping[str, object],
    run: Run,
) -> Graph:
    """The graph behind the loaders. ends: links of model, text encoder and VAE; text: the prompt
    and its negative.
    """
    model, encoder, vae = ends
    return {
        **start,
        "4": prompt(encoder, *text),
        "5": node("InkstoneEmptyLatent", batch_size=1, **canvas),
        **draw(6, Wires(model, vae, ["4", 0], ["4", 1], ["5", 0]), run),
        **save("9", ["8", 0], "picture"),
    }


def packed_loaders() -> dict[str, Node]:
    """GGUF files and a Lightning LoRA on them."""
    return {
        "1": node("InkstoneLoadDiffusionModel", model="qwen-image-Q4_K_M.gguf", dtype="auto"),
        "2": node(
            "InkstoneLoadTextEncoder",
            text_encoder="Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf",
            dtype="auto",
        ),
        "3": node("InkstoneLoadVAE", vae="qwen_image_vae.safetensors", dtype="auto"),
        "11": node(
            "InkstoneLoraLoader",
            model=["1", 0],
            **row(1, "Qwen-Image-Lightning-8steps-V1.1.safetensors"),
        ),
        "12": node("InkstoneModelInfo", model=["11", 0], latent=["5", 0], steps=8),
    }


def graphs() -> dict[str, Example]:
    """Name -> (API graph, note in Markdown)."""
    text = (
        'A coffee shop entrance with a chalkboard sign reading "Inkstone Coffee", '
        "warm morning light, Ultra HD, 4K, cinematic composition."
    )
    full = {"size": next(iter(sizes())), "width": 1328, "height": 1328}
    whole: tuple[Link, Link, Link] = (["1", 0], ["1", 1], ["1", 2])
    split: tuple[Link, Link, Link] = (["1", 0], ["2", 0], ["3", 0])
    behind_lora: tuple[Link, Link, Link] = (["11", 0], ["2", 0], ["3", 0])
    lightning = Run(steps=8, cfg=1.0, schedule=LIGHTNING)
    sign = 'a white sign that says "INK" in blue above a red star on a yellow background'
    return {
        "text_to_image_embedded": (
            text_to_image(
                {"1": load_embedded()}, whole, (sign, ""), SMALL_CANVAS, replace(SMALL_RUN, seed=7)
            ),
            EMBEDDED_NOTE,
        ),
        "text_to_image_qwen_image": (
            text_to_image(
                loaders("qwen_image_bf16.safetensors"),
                split,
                (text, NEGATIVE),
                full,
                Run(steps=50, cfg=4.0),
            ),
            DOWNLOADS + "\n50 steps, CFG 4: the settings of the model card.",
        ),
        "text_to_image_gguf_lightning_lora": (
            text_to_image(packed_loaders(), behind_lora, (text, NEGATIVE), full, lightning),
            LORA_NOTE,
        ),
        "text_to_image_lightning_8_steps": (
            text_to_image(
                loaders("qwen_image_lightning_8steps_bf16.safetensors"),
                split,
                (text, NEGATIVE),
                full,
                lightning,
            ),
            DOWNLOADS + "\nThe model is a merged Lightning one for 8 steps, as "
            "`lightx2v/Qwen-Image-Lightning` has them. 8 steps, CFG 1 and the fixed shift 3 "
            "belong together.",
        ),
        **edits.embedded(),
        **edits.qwen_image(),
        **edits.edits(),
        **edits.layered(),
        **controls.embedded(),
        **controls.published(),
    }


def render_all() -> dict[str, str]:
    """File name below workflows/ -> content."""
    files = {}
    classes = node_classes()
    for name, (graph, note) in graphs().items():
        text = unwrapped(models.note_with_files(note, graph))
        layout = Layout(notes=(Note(text, "Read me", _note_size(text)),), pack="inkstone")
        files[f"{name}.json"] = _text(models.mark(ui_from_api(graph, classes, layout)))
        files[f"api/{name}.json"] = _text(to_api(full_graph(graph, classes)))
    return files


def _note_size(markdown: str) -> tuple[int, int]:
    """Large enough to read the note without scrolling; the letters' size is the page's."""
    lines = [line for line in markdown.split("\n") if line]
    rows = sum(math.ceil(len(re.sub(r"\]\(.*?\)", "]", line)) / LINE) for line in lines)
    return NOTE_WIDTH, 20 * math.ceil((40 + 18 * rows + 10 * len(lines)) / 20)


def unwrapped(markdown: str) -> str:
    """Each paragraph and list item on one line, so that the source's line width is not in files."""
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|#-])", " ", markdown)


def _text(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (GRAPHS / "api").mkdir(exist_ok=True)
    for file, text in render_all().items():
        (GRAPHS / file).write_text(text, encoding="utf-8")
