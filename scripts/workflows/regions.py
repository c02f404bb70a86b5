"""The example graphs with regional prompts."""

from __future__ import annotations

from dataclasses import replace

import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.nodes.canvas import sizes
from inkstone.nodes.regions import row
from scripts.workflows.parts import (
    MODEL,
    SMALL_CANVAS,
    SMALL_RUN,
    Example,
    Graph,
    Link,
    Run,
    Wires,
    draw,
    ends,
    load_embedded,
    loaders,
    node,
    note,
    prompt,
    save,
)

SMALL_NOTE = note(
    "*Regional Prompts* gives parts of the picture prompts of their own: a box in percent or "
    "pixels, or a mask. Say the background in each. Regions may overlap; free parts follow the "
    "prompt above.",
    "*Regional Prompts* 让图片的各个部分有自己的提示词：用百分比或像素写方框，或连接遮罩。"
    "每个区域都要写明背景。区域可以重叠；其余部分遵循上方的提示词。",
    files=False,
)
NOTE = note(
    "*composed* works with any Qwen-Image model: raise *base* where borders show. With "
    "DiffSynth-Studio's `Qwen-Image-EliGen-V2` behind *Load LoRA* choose *eligen*; its prompt "
    "names all regions.",
    "*composed* 适用于任何 Qwen-Image 模型：出现边界时调高 *base*。"
    "若在 *Load LoRA* 中加载 DiffSynth-Studio 的 `Qwen-Image-EliGen-V2`，"
    "请选择 *eligen*，其提示词应当提到所有区域。",
)


def _drawn(
    start: Graph,
    links: tuple[Link, Link, Link],
    text: tuple[str, str],
    regions: dict[str, object],
    canvas: dict[str, object],
    run: Run,
) -> Graph:
    """links: of model, text encoder and VAE; text: the prompt and its negative."""
    model, encoder, vae = links
    return {
        **start,
        "4": prompt(encoder, *text),
        "5": node("InkstoneRegionalPrompts", positive=["4", 0], text_encoder=encoder, **regions),
        "6": node("InkstoneEmptyLatent", batch_size=1, **canvas),
        **draw(6, Wires(model, vae, ["5", 0], ["6", 0]), run),
        **save("9", ["8", 0], "regions"),
    }


def embedded() -> dict[str, Example]:
    """Two things that the embedded model can draw, side by side."""
    rows = row(1, "a red star on a white background", "0,0,50%,100%")
    rows |= row(2, 'the word "INK" in blue on a white background', "50%,0,50%,100%")
    text = "a white background", ""
    start: Graph = {"1": load_embedded()}
    graph = _drawn(start, ends(), text, rows, dict(SMALL_CANVAS), replace(SMALL_RUN, seed=3))
    return {"regions_embedded": (graph, SMALL_NOTE)}


def qwen_image() -> dict[str, Example]:
    """A layout in three parts."""
    rows = row(
        1, 'A chalkboard with "Today: green tea" in white chalk, in a cafe', "3%,15%,30%,60%"
    )
    rows |= row(2, "A barista with a straw hat behind the counter of a cafe", "36%,10%,30%,75%")
    rows |= row(3, 'A neon sign that reads "OPEN" on a brick wall of a cafe', "70%,10%,28%,35%")
    text = (
        "The inside of a cozy cafe in warm morning light: a chalkboard on the left, a barista in "
        "the middle, a neon sign on the right. Ultra HD, 4K, cinematic composition."
    )
    canvas = {"size": list(sizes())[1], "width": 1664, "height": 928}
    split: tuple[Link, Link, Link] = (["1", 0], ["2", 0], ["3", 0])
    run = Run(steps=50, cfg=4.0)
    graph = _drawn(
        dict(loaders(MODEL, variant="qwen-image")), split, (text, " "), rows, canvas, run
    )
    return {"regions_qwen_image": (graph, NOTE)}
