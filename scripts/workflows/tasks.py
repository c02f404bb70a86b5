"""The example graphs in which the edit model understands a picture: segmentation, depth, edges,
another view, restoration, super-resolution. build.py writes them.

Each is the edit of one picture by a request of our own wording.
"""

from __future__ import annotations

from dataclasses import dataclass

from inkstone.nodes.lora import row
from scripts.workflows.edits import EDITS, EXACT, EXACT_ZH, edit_graph
from scripts.workflows.parts import EXAMPLE, Example, Graph, node, note

ANGLES = "qwen-image-edit-2511-multiple-angles-lora.safetensors"
SOURCE = "edit_2511"  # the graph whose model and settings they share


@dataclass(frozen=True)
class Task:
    """A request and what its note says."""

    request: str
    english: str
    chinese: str


TASKS = {
    "segmentation": Task(
        "Turn the picture into a segmentation map: the main subject is filled with flat red, "
        "everything else with flat black, with sharp outlines and no shading.",
        "Name in the prompt what is to be red. The result is a picture; *Convert Image to Mask* "
        "makes a mask of its red channel. For boxes and masks without drawing use *Find in "
        "Picture*.",
        "在提示词中写明哪些东西涂成红色。结果是图片；"
        "用 *Convert Image to Mask* 取红色通道即得遮罩。"
        "不绘图而直接得到边框和遮罩：用“在图片中查找”。",
    ),
    "depth": Task(
        "Turn the picture into its depth map in grey: what is near is bright, what is far is dark, "
        "with smooth surfaces and no texture.",
        "The map can be the control picture of *Apply ControlNet* with a depth ControlNet.",
        "结果可作为深度 ControlNet 的控制图，连接到“应用 ControlNet”。",
    ),
    "edges": Task(
        "Turn the picture into its edge map: thin white lines along all outlines on a black "
        "ground, no colours and no shading.",
        "The map can be the control picture of *Apply ControlNet*. *Control Picture* makes canny "
        "edges without a model.",
        "结果可作为控制图连接到“应用 ControlNet”。“控制图”节点不用模型即可得到 Canny 边缘。",
    ),
    "novel_view": Task(
        "",  # the node Camera Angle writes it
        "*Camera Angle* writes the prompt in the words of the LoRA; choose the view there.",
        "在“镜头角度”中选择视角，它按该 LoRA 的用语写出提示词。",
    ),
    "restoration": Task(
        "Restore the photograph: remove noise, scratches, stains, blur and compression artifacts. "
        "What it shows, faces, text and composition stay the same.",
        "Add *and give it natural colours* for a black-and-white photograph.",
        "黑白照片可加上 *and give it natural colours*。",
    ),
    "super_resolution": Task(
        "Make the picture sharp and rich in fine detail at this size. What it shows, faces, text, "
        "colours and composition stay the same.",
        "The picture is enlarged first (*Upscale Image By*, here twice), then the model adds the "
        "detail.",
        "先放大图片（*Upscale Image By*，此处两倍），再由模型补充细节。",
    ),
}


def tasks() -> dict[str, Example]:
    """A graph for each task."""
    variant, file, _ = EDITS[SOURCE]
    examples: dict[str, Example] = {}
    for name, task in TASKS.items():
        pictures: Graph = {"4": node("LoadImage", image=EXAMPLE)}
        source = "4"
        if name == "super_resolution":
            pictures["5"] = node(
                "ImageScaleBy", image=["4", 0], upscale_method="lanczos", scale_by=2.0
            )
            source = "5"
        graph = edit_graph(f"{SOURCE}_{name}", (variant, file), pictures, [source], task.request)
        if name == "novel_view":
            graph["12"] = node("InkstoneCameraAngle")
            graph["13"] = node("InkstoneLoraLoader", model=["1", 0], **row(1, ANGLES))
            graph["7"]["inputs"] |= {"prompt": ["12", 0], "model": ["13", 0]}
            graph["9"]["inputs"]["model"] = ["13", 0]
        whole = EXACT if source == "4" else "The result has exactly the enlarged picture's size."
        whole_zh = EXACT_ZH if source == "4" else "结果尺寸与放大后的图片完全相同。"
        text = note(f"{task.english} {whole}", f"{task.chinese}{whole_zh}")
        examples[f"{SOURCE}_{name}"] = (graph, text)
    return examples
