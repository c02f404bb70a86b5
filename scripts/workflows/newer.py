"""The example graphs of Qwen-Image-2.1; build.py writes them."""

from __future__ import annotations

import re

from inkstone.sampling.geometry import SIZES_21
from scripts.workflows.edits import EXACT, EXACT_ZH, ONE, THREE, edit_graph, source_pictures
from scripts.workflows.parts import Example, Graph, Run, Wires, draw, loaders, node, save
from scripts.workflows.parts import prompt as encoded

BASE, TURBO = "qwen_image_2.1_int8_convrot", "qwen_image_2.1_turbo_int8_convrot"
PARTS = {
    "vae": "qwen_image_2.1_vae_bf16.safetensors",
    "text_encoder": "qwen3vl_8b_int8_convrot.safetensors",
}
LICENCE = (
    "## Files\n\nQwen-Image-2.1 is for research and evaluation only (Qwen Research License). "
    "Less memory: GGUF files of model and text encoder in the same folders. {}\n\n"
    "Qwen-Image-2.1 仅限研究与评估（Qwen Research License）。显存不够：模型和文本编码器的 GGUF 文件"
    "放进同一文件夹即可。{}\n"
)
NAMED = re.sub(r"Picture (\d)", r"<image\1>", THREE)  # as the template of 2.1 names pictures
CUT_OUT = (
    "This is an RGBA image with transparency. A glass bottle of blue ink, studio light. The image "
    "has alpha channel and the background is transparent."
)
REMOVE = (
    "Remove the background. This is an RGBA image with transparency. The image has alpha channel "
    "and the background is transparent."
)


def _loaded(stem: str, variant: str) -> Graph:
    return loaders(f"{stem}.safetensors", variant=variant, **PARTS)


def _drawn(stem: str, variant: str, text: str, run: Run, size: str) -> Graph:
    """Text to image."""
    width, height = SIZES_21[size]
    return {
        **_loaded(stem, variant),
        "4": encoded(["2", 0], text, " "),
        "5": node("InkstoneEmptyLatent", batch_size=1, size=size, width=width, height=height),
        **draw(6, Wires(["1", 0], ["3", 0], ["4", 0], ["5", 0]), run),
        **save("9", ["8", 0], "picture"),
    }


def _edited(name: str, count: int, request: str) -> Graph:
    pictures = source_pictures(count)
    own = edit_graph(
        name, ("2.1", f"{BASE}.safetensors"), pictures, list(pictures), request, Run(40, 1.0)
    )
    graph = {**own, **_loaded(BASE, "2.1")}
    if count > 1:  # what three pictures take is worth a place
        graph["12"] = node("InkstoneReferenceCache", model=["1", 0], keep="auto")
        graph["9"]["inputs"]["model"] = ["12", 0]
    return graph


def family() -> dict[str, Example]:
    """Name -> (API graph, note in Markdown)."""
    small, large = "2.1, small 1:1 (1024x1024)", next(iter(SIZES_21))
    poster = (
        'A poster for a book fair with the words "INK AND PAPER" in large blue letters above an '
        "open book, flat colours, wide margins."
    )
    base, turbo = Run(40, 1.0), Run(8, 1.0)
    detail = (
        "Long, exact prompts work best: *Enhance Prompt* writes them. 2048x2048 takes about six"
    )
    detail += " times as long as 1024x1024."
    detail_zh = (
        "提示词越详细效果越好：*Enhance Prompt* 可代为扩写。2048x2048 的耗时约为 1024x1024 的六倍。"
    )
    steps = (
        "Turbo has 8 steps of its own and CFG 1; nothing in its file says so, so the loader does: "
    )
    steps += "*2.1-turbo*."
    alpha = "The words ask for transparency; the PNG has straight alpha."
    alpha_zh = "透明由提示词要求；PNG 带有直通（straight）透明通道。"
    more = (
        "Up to ten pictures: connect another one and a new input appears. *Reference Cache* keeps "
    )
    more += "what is the same in all steps: 2 GB for each megapixel of pictures. " + EXACT
    more_zh = "最多十张图：再连一张就会出现新的输入。"
    more_zh += "*Reference Cache* 保留各步骤相同的部分，每百万像素约 2 GB。" + EXACT_ZH
    return {
        "text_to_image_2_1": (
            _drawn(BASE, "2.1", poster, base, large),
            LICENCE.format(detail, detail_zh),
        ),
        "text_to_image_2_1_turbo": (
            _drawn(TURBO, "2.1-turbo", poster, turbo, small),
            LICENCE.format(
                steps, "Turbo 固定 8 步、CFG 1；文件本身不写明，由加载节点指定：*2.1-turbo*。"
            ),
        ),
        "transparent_2_1": (
            _drawn(BASE, "2.1", CUT_OUT, base, small),
            LICENCE.format(alpha, alpha_zh),
        ),
        "edit_2_1": (_edited("edit_2_1", 1, ONE), LICENCE.format(EXACT, EXACT_ZH)),
        "edit_2_1_three_pictures": (
            _edited("edit_2_1_three_pictures", 3, NAMED),
            LICENCE.format(more, more_zh),
        ),
        "remove_background_2_1": (
            _edited("remove_background_2_1", 1, REMOVE),
            LICENCE.format(alpha, alpha_zh),
        ),
    }
