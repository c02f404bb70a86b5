"""The example graphs with a control; build.py writes them.

The graph of the embedded model draws its own source picture and takes its edges, so it needs no
file. In the others the result has exactly the size of the picture behind the map: the picture is
the canvas, and at strength 1 nothing else of it is left.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import NamedTuple

import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.nodes.load import EMBEDDED
from scripts.workflows.edits import PAINT, PAINT_ZH
from scripts.workflows.parts import (
    EXAMPLE,
    MODEL,
    NEWER_MODEL,
    SMALL_RUN,
    Example,
    Graph,
    Link,
    Node,
    Run,
    Wires,
    draw,
    drawn_source,
    ends,
    loaders,
    node,
    note,
    prompt,
    save,
)

UNION = "Qwen-Image-InstantX-ControlNet-Union.safetensors"
INPAINTING = "Qwen-Image-InstantX-ControlNet-Inpainting.safetensors"
SOURCE = "a red circle on the left and a blue triangle on the right on a white background"
RECOLOURED = "a yellow circle and a yellow triangle on a purple background"

NOTE_EMBEDDED = note(
    "The second prompt does not say where the shapes are: the map of edges does. With *strength* 0 "
    "of *Apply ControlNet* the prompt is alone.",
    "第二个提示词没有说明形状的位置，由边缘图决定。"
    "把 *Apply ControlNet* 的 *strength* 设为 0 可对比。",
    files=False,
)
SIZE = "Pictures of about 1328x1328 suit the control best; the result has exactly their size."
SIZE_ZH = "图片约 1328x1328 时效果最好；结果尺寸与图片完全相同。"
MAPS = {  # type -> its sentence in the note, in both languages
    "canny": ("Too many lines: raise the thresholds.", "线条太多时调高阈值。"),
    "soft_edge": (
        "With a HED file in `models/annotators` *Control Picture* uses that network.",
        "`models/annotators` 里有 HED 文件时可选用该网络。",
    ),
    "lineart": (
        "Union was not trained on line art by name; it takes it for edges.",
        "Union 没有专门训练过线稿，按边缘处理。",
    ),
    "depth": (
        "Near is white. Choose Depth-Anything V2 from `models/annotators` as *model*: without a "
        "file the map is a guess.",
        "近处为白。*model* 请选 `models/annotators` 里的 Depth-Anything V2；没有文件时只是估计。",
    ),
    "pose": (
        "The skeleton comes from *keypoints* (OpenPose JSON) or from an OpenPose or DWPose node.",
        "骨架来自 *keypoints*（OpenPose JSON），也可连接 OpenPose 或 DWPose 节点。",
    ),
}
PROMPTS = {
    "pose": "A full-length photograph of a dancer in a red coat on a rainy street at night, "
    "reflections, cinematic light."
}
PROMPT = "A watercolour of the same scene in warm evening light, soft paper texture."
_BODY = (  # a standing person with one hand up, parts of the sides
    (0.50, 0.16),
    (0.50, 0.28),
    (0.40, 0.28),
    (0.36, 0.43),
    (0.34, 0.56),
    (0.60, 0.28),
    (0.68, 0.20),
    (0.70, 0.07),
    (0.44, 0.56),
    (0.43, 0.74),
    (0.42, 0.92),
    (0.56, 0.56),
    (0.58, 0.74),
    (0.60, 0.92),
    (0.48, 0.14),
    (0.52, 0.14),
    (0.45, 0.16),
    (0.55, 0.16),
)


def keypoints() -> str:
    """The example pose as OpenPose JSON."""
    points = [n for x, y in _BODY for n in (x, y, 1.0)]
    people = [{"pose_keypoints_2d": points}]
    return json.dumps({"people": people, "canvas_width": 1, "canvas_height": 1})


class Row(NamedTuple):
    """One graph of a published control."""

    control: str  # its file
    kind: str  # of the map; "" for one that gets the picture itself, to inpaint it
    note: tuple[str, str]  # English, Chinese
    steps: int = 30
    strength: float = 1.0
    model: str = MODEL
    variant: str = "qwen-image"
    inpaint: bool = False  # in addition to the map
    begin: str = ""  # of its prompts


_PATCH = "qwen_image_{}_diffsynth_controlnet.safetensors"
_FUN = "Qwen-Image-2512-Fun-Controlnet-Union"
_PAINT = (PAINT, PAINT_ZH)
ROWS = {f"controlnet_union_{kind}": Row(UNION, kind, note) for kind, note in MAPS.items()} | {
    "controlnet_inpainting": Row(INPAINTING, "", _PAINT),
    **{
        f"controlnet_blockwise_{kind}": Row(_PATCH.format(kind), kind, MAPS[kind])
        for kind in ("canny", "depth")
    },
    "controlnet_blockwise_inpaint": Row(_PATCH.format("inpaint"), "", _PAINT, 40),
    "controlnet_in_context": Row(
        "qwen_image_union_diffsynth_lora.safetensors",
        "canny",
        (
            "A LoRA that reads the map along with the picture. Its prompts begin with "
            "`Context_Control. `; it takes all types of *Control Picture*.",
            "这是与图片一起读取控制图的 LoRA；提示词以 `Context_Control. ` 开头，支持所有类型。",
        ),
        40,
        begin="Context_Control. ",
    ),
    "controlnet_fun_union": Row(
        f"{_FUN}.safetensors",
        "canny",
        (
            "Takes soft edge, depth and pose too: set *type*. Strength 0.7 to 0.95 suits it.",
            "也支持软边缘、深度和姿态：改 *type*。*strength* 取 0.7 到 0.95。",
        ),
        40,
        0.8,
        NEWER_MODEL,
    ),
    "controlnet_fun_union_inpaint": Row(
        f"{_FUN}.safetensors",
        "canny",
        (f"What is inpainted follows the map, too. {PAINT}", f"重绘的部分也遵循控制图。{PAINT_ZH}"),
        40,
        0.8,
        NEWER_MODEL,
        inpaint=True,
    ),
}


def embedded() -> dict[str, Example]:
    """The graph that needs no download."""
    model, text, vae = ends()
    wires = Wires(model, vae, ["11", 0])
    graph = {
        **drawn_source(SOURCE),
        "8": node("InkstoneControlPicture", image=["4", 0], type="canny"),
        "9": node("InkstoneLoadControlNet", control=EMBEDDED),
        "10": prompt(text, RECOLOURED, "", "Prompt"),
        "11": apply(["10", 0], (["9", 0], vae), ["8", 0], 1.0),
        **draw(12, wires, replace(SMALL_RUN, seed=3), "Result"),
        **save("15", ["14", 0], "control"),
    }
    return {"controlnet_embedded": (graph, NOTE_EMBEDDED)}


def apply(
    positive: Link, ends: tuple[Link, Link], picture: Link, strength: float, **links: Link
) -> Node:
    """Applies a control. ends: control and VAE; links: mask and source."""
    control, vae = ends
    return node(
        "InkstoneApplyControlNet",
        positive=positive,
        control=control,
        vae=vae,
        image=picture,
        strength=strength,
        **links,
    )


def published() -> dict[str, Example]:
    """One graph for each row."""
    wires = Wires(["1", 0], ["3", 0], ["9", 0], ["8", 0])
    examples = {}
    for name, row in ROWS.items():
        inpaints = row.inpaint or not row.kind
        graph = (_inpainted if inpaints else _controlled)(row)
        graph |= draw(10, wires, Run(steps=row.steps, cfg=4.0))
        picture: Link = ["12", 0]
        if inpaints:
            graph["13"] = node("InkstoneStitch", image=["12", 0], stitch=["8", 1])
            picture = ["13", 0]
        graph |= save("14", picture, name)
        english, chinese = row.note
        examples[name] = graph, note(f"{english} {SIZE}", chinese + SIZE_ZH)
    return examples


def _start(row: Row, text: str) -> Graph:
    """Loaders, the picture and the prompt: nodes 1 to 6."""
    return {
        **loaders(row.model, variant=row.variant),
        "4": node("LoadImage", image=EXAMPLE),
        "5": prompt(["2", 0], text, " "),
        "6": node("InkstoneLoadControlNet", control=row.control),
    }


def _controlled(row: Row) -> Graph:
    """A map of the picture on a canvas of its size."""
    pose = {"keypoints": keypoints()} if row.kind == "pose" else {}
    return {
        **_start(row, row.begin + PROMPTS.get(row.kind, PROMPT)),
        "7": node("InkstoneControlPicture", image=["4", 0], type=row.kind, **pose),
        "8": node("InkstoneImageToLatent", vae=["3", 0], image=["4", 0], size_only=True),
        "9": apply(["5", 0], (["6", 0], ["3", 0]), ["7", 0], row.strength),
    }


def _inpainted(row: Row) -> Graph:
    """The picture with a mask, itself or with its map; what is kept is put back."""
    graph = _start(row, "A photograph of the scene with a small red hot-air balloon.")
    picture: Link = ["4", 0]
    links: dict[str, Link] = {"mask": ["4", 1]}
    if row.kind:
        graph["7"] = node("InkstoneControlPicture", image=["4", 0], type=row.kind)
        picture, links = ["7", 0], {"source": ["4", 0], "mask": ["4", 1]}
    paint = node("InkstoneInpaint", vae=["3", 0], image=["4", 0], mask=["4", 1])
    control = apply(["5", 0], (["6", 0], ["3", 0]), picture, row.strength, **links)
    return graph | {"8": paint, "9": control}
