"""Writes every example graph, UI and API form: `python scripts/workflows/build.py`.

A test fails when the files drift from the node schemas. Nothing of this machine goes into them:
file names are constants of the graphs, and combos are not read from a models folder.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import to_api
from inkstone.headless.workflow.layout import Layout, Note
from inkstone.headless.workflow.to_ui import full_graph, ui_from_api
from inkstone.nodes.canvas import sizes
from inkstone.nodes.lora import row
from scripts.package import ROOT
from scripts.workflows import controls, edits, models, newer, regions, tasks, training, upscales
from scripts.workflows.parts import (
    FILES,
    LIGHTNING,
    MODEL,
    SMALL_CANVAS,
    SMALL_RUN,
    WRITER,
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
    note,
    prompt,
    save,
)
from scripts.workflows.titles import TITLES

GRAPHS = ROOT / "workflows"
NEGATIVE = " "
LIGHTNING_LORA = "Qwen-Image-Lightning-8steps-V1.0.safetensors"

EMBEDDED_NOTE = note(
    "Draws coloured grounds, circles, squares, triangles, stars, words of up to six capitals in "
    "double quotes. Try `a large red star on the left on a white background`. Sizes: 128x128, "
    "160x96 or 96x160.",
    "可画彩色背景、圆、方、三角、星形，以及双引号内最多六个大写字母。"
    "尺寸：128x128、160x96 或 96x160。",
    files=False,
)
ENHANCE_NOTE = note(
    "*Enhance Prompt* writes out what the prompt leaves open, another seed another way; text in "
    "quotes stays. Try *large circle on cyan*. The text encoder of Qwen-Image takes prompts "
    "of any kind.",
    "*Enhance Prompt* 补全提示词未写明的内容，换种子则写法不同；引号内的文字保持原样。"
    "可试 *large circle on cyan*。换成 Qwen-Image 的文本编码器，可用于任何提示词。",
    files=False,
)
FULL_NOTE = note(
    "A whole folder of `Qwen/Qwen-Image` in `models/diffusers` works too: use *Load All*. "
    "50 steps, CFG 4: the settings of the model card.",
    "整个 `Qwen/Qwen-Image` 文件夹放在 `models/diffusers` 也可以：用 *Load All*。"
    "50 步、CFG 4 是官方设置。",
)
CACHE = node("InkstoneStepCache", model=["1", 0], method="teacache", threshold=0.0)
CACHE_NOTE = note(
    "*Step Cache* draws in about half the time: steps that change little take what earlier steps "
    "computed. It fits any model here and its 20 to 50 steps, not Lightning or Turbo.",
    "*Step Cache* 约省一半时间：变化很小的步骤沿用之前的计算结果。"
    "适用于这里的任何模型及其 20 至 50 步，"
    "不适用于 Lightning 或 Turbo。",
    files=False,
)
VARIETY_NOTE = note(
    "Four seeds of one prompt. Bypass *Variety* (Ctrl+B) to see how alike they are without it. "
    "More noise, or in more of the steps: they differ more, and keep less of the prompt.",
    "同一提示词的四个种子。用 Ctrl+B 绕过 *Variety*，可以看到没有它时有多相似。"
    "噪声越强、步骤越多，差别越大，也越不遵循提示词。",
)
REWRITTEN_NOTE = note(
    "*Enhance Prompt* writes one loose prompt out in two ways, by its seed; `inkstone draw "
    "--variety rewrite` does so for each picture. *Variety* adds noise on the words in the first "
    "steps; this small model draws what its words say, so only the words set its pictures apart.",
    "*Enhance Prompt* 按种子把一个宽松的提示词写成两种；"
    "`inkstone draw --variety rewrite` 为每张图片这样做。"
    "*Variety* 在前几步给文字加噪声；这个小模型只画文字所说的，所以只有文字能让图片不同。",
    files=False,
)
TOGETHER = (
    "8 steps, CFG 1 and the fixed shift 3 belong together; *coverage* says what the LoRA reached."
)
TOGETHER_ZH = "8 步、CFG 1、固定 shift 3 要一起用；*coverage* 显示 LoRA 作用到了哪些层。"


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
        **draw(6, Wires(model, vae, ["4", 0], ["5", 0]), run),
        **save("9", ["8", 0], "picture"),
    }


def enhanced(ends: tuple[Link, Link, Link]) -> Graph:
    """A loose prompt, written out by the text encoder before it is encoded."""
    enhance = node("InkstoneEnhancePrompt", text_encoder=ends[1], prompt='sign "INK", star', seed=1)
    start: Graph = {"1": load_embedded(), "2": enhance}
    graph = text_to_image(start, ends, ("", ""), SMALL_CANVAS, replace(SMALL_RUN, seed=7))
    graph["4"]["inputs"]["prompt"] = ["2", 0]
    return graph


def with_lora(start: Graph) -> Graph:
    """Loaders and a Lightning LoRA on their model."""
    return {**start, "11": node("InkstoneLoraLoader", model=["1", 0], **row(1, LIGHTNING_LORA))}


def varied(start: Graph, text: Graph) -> Graph:
    """A graph of four pictures whose model goes through Variety, with its usual amounts."""
    sampler = next(n for n in text.values() if n["class_type"] == "InkstoneDenoise")
    variety = node("InkstoneVariety", model=sampler["inputs"]["model"])
    sampler["inputs"]["model"] = ["10", 0]
    text["5"]["inputs"]["batch_size"] = 4
    return {**start, "10": variety, **text}


def rewritten(ends: tuple[Link, Link, Link]) -> Graph:
    """Two pictures of one loose prompt: each seed writes it out another way."""
    model, encoder, vae = ends
    graph: Graph = {"1": load_embedded(), "2": node("InkstoneVariety", model=model)}
    graph["3"] = node("InkstoneEmptyLatent", batch_size=1, **SMALL_CANVAS)
    for seed, start in ((1, 10), (2, 20)):
        enhance, encode, image = str(start), str(start + 1), str(start + 3)
        graph[enhance] = node(
            "InkstoneEnhancePrompt",
            f"{seed}: another prompt",
            text_encoder=encoder,
            prompt="star on cyan",
            seed=seed,
        )
        graph[encode] = prompt(encoder, "", "", f"{seed}: prompt")
        graph[encode]["inputs"]["prompt"] = [enhance, 0]
        wires = Wires(["2", 0], vae, [encode, 0], ["3", 0])
        graph |= draw(start + 1, wires, replace(SMALL_RUN, seed=seed), f"{seed}")
        graph |= save(str(start + 4), [image, 0], f"picture {seed}")
    return graph


def packed_loaders() -> dict[str, Node]:
    """GGUF files."""
    return {
        "1": node("InkstoneLoadDiffusionModel", model="qwen-image-Q4_K_M.gguf", dtype="auto"),
        "2": node("InkstoneLoadTextEncoder", text_encoder=WRITER, dtype="auto"),
        "3": node("InkstoneLoadVAE", vae="qwen_image_vae.safetensors", dtype="auto"),
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
        "enhance_embedded": (enhanced(whole), ENHANCE_NOTE),
        "step_cache_embedded": (
            text_to_image(
                {"1": load_embedded(), "10": CACHE},
                (["10", 0], ["1", 1], ["1", 2]),
                (
                    'a purple sign that says "FAST" in yellow below a green circle on a white '
                    "background",
                    "",
                ),
                SMALL_CANVAS,
                replace(SMALL_RUN, seed=11),
            ),
            CACHE_NOTE,
        ),
        **regions.embedded(),
        "variety_embedded": (rewritten(whole), REWRITTEN_NOTE),
        "text_to_image_qwen_image": (
            text_to_image(loaders(MODEL), split, (text, NEGATIVE), full, Run(steps=50, cfg=4.0)),
            FULL_NOTE,
        ),
        "variety_qwen_image": (
            varied(
                loaders(MODEL, variant="qwen-image"),
                text_to_image({}, split, (text, NEGATIVE), full, Run(steps=50, cfg=4.0)),
            ),
            VARIETY_NOTE,
        ),
        "text_to_image_gguf_lightning_lora": (
            text_to_image(
                with_lora(packed_loaders()), behind_lora, (text, NEGATIVE), full, lightning
            ),
            f"{FILES}\n\nAny other GGUF type takes the same places. {TOGETHER}\n\n"
            f"其他 GGUF 类型放在同一位置。{TOGETHER_ZH}\n",
        ),
        "text_to_image_lightning_8_steps": (
            text_to_image(
                with_lora(loaders(MODEL)), behind_lora, (text, NEGATIVE), full, lightning
            ),
            note(TOGETHER, TOGETHER_ZH),
        ),
        **regions.qwen_image(),
        **edits.embedded(),
        **edits.qwen_image(),
        **edits.edits(),
        **tasks.tasks(),
        **upscales.upscales(),
        **training.training(),
        **edits.layered(),
        **newer.family(),
        **controls.embedded(),
        **controls.published(),
    }


def render_all() -> dict[str, str]:
    """File name below workflows/ -> content."""
    files = {}
    classes = node_classes()
    for name, (graph, text) in graphs().items():
        notes = (Note(unwrapped(models.note_with_files(text, graph)), "Read me"),)
        layout = Layout(notes=notes, pack="inkstone", name=name)
        files[f"{TITLES[name]}.json"] = _text(models.mark(ui_from_api(graph, classes, layout)))
        files[f"api/{name}.json"] = _text(to_api(full_graph(graph, classes)))
    return files


def unwrapped(markdown: str) -> str:
    """Each paragraph and list item on one line, so that the source's line width is not in files."""
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|#-])", " ", markdown)


def _text(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (GRAPHS / "api").mkdir(exist_ok=True)
    for old in GRAPHS.glob("*.json"):
        old.unlink()
    for file, text in render_all().items():
        (GRAPHS / file).write_text(text, encoding="utf-8")
