"""The example graphs that enlarge a picture; build.py writes them."""

from __future__ import annotations

from scripts.workflows.edits import OLD
from scripts.workflows.parts import (
    EXAMPLE,
    MODEL,
    Example,
    Graph,
    Link,
    Node,
    Run,
    drawn_source,
    ends,
    loaders,
    node,
    note,
    prompt,
    save,
)

NOTE_EMBEDDED = note(
    "*Source* draws the picture to enlarge. The tiles are merged in every step, so there are no "
    "seams, and any *factor* gives its exact size. For a picture of yours connect *Load Image*.",
    "“Source”画出要放大的图。各块在每一步合并，没有接缝；任何 *factor* 都得到精确的尺寸。"
    "用自己的图：改接 *Load Image*。",
    files=False,
)
NOTE = note(
    "Describe what is everywhere in the picture, not one thing: this prompt draws every tile. "
    "*strength* 0.1 sharpens, 0.2 to 0.3 invents detail. Memory is that of one tile. With a "
    "Lightning LoRA (*Load LoRA*) it takes a few steps.",
    "请描述图中处处都有的内容，而不是某一件东西：每一块都按此提示词重绘。"
    "*strength* 0.1 使画面清晰，0.2 至 0.3 补充细节。内存只相当于一块。"
    "加上 Lightning LoRA（*Load LoRA*）只需几步。",
)
DETAIL = "A sharp, detailed photograph with fine texture and natural light."


def upscales() -> dict[str, Example]:
    """Name -> (API graph, note in Markdown)."""
    model, text, vae = ends()
    small: Graph = {
        **drawn_source(OLD),
        "8": prompt(text, OLD, "", "Prompt"),
        "9": _upscale((model, vae), ["4", 0], ["8", 0], Run(40, 2.0, seed=1, strength=0.05)),
        **save("10", ["9", 0], "upscale"),
    }
    large: Graph = {
        **loaders(MODEL, variant="qwen-image"),
        "4": node("LoadImage", image=EXAMPLE),
        "5": prompt(["2", 0], DETAIL, " "),
        "6": _upscale((["1", 0], ["3", 0]), ["4", 0], ["5", 0], Run(50, 4.0, seed=1, strength=0.1)),
        **save("7", ["6", 0], "upscale"),
    }
    return {"upscale_embedded": (small, NOTE_EMBEDDED), "upscale_qwen_image": (large, NOTE)}


def _upscale(models: tuple[Link, Link], image: Link, positive: Link, run: Run) -> Node:
    """Twice as large. models: links of model and VAE."""
    return node(
        "InkstoneUpscalePicture",
        model=models[0],
        vae=models[1],
        image=image,
        positive=positive,
        factor=2.0,
        strength=run.strength,
        seed=run.seed,
        cfg=run.cfg,
        steps=run.steps,
        schedule=run.schedule,
        tile=0,
    )
