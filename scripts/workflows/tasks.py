"""The example graphs in which the edit model understands a picture: segmentation, depth, edges,
another view, restoration, super-resolution. build.py writes them.

Each is the edit of one picture by a request of our own wording.
"""

from __future__ import annotations

from dataclasses import dataclass

from scripts.workflows.edits import EDITS, EXACT, EXACT_ZH, edit_graph
from scripts.workflows.parts import EXAMPLE, Example, Graph, node, note

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
        "Show the same scene from another view: the camera moves 45 degrees to the right and looks "
        "at the same subject. Shapes, colours and light stay the same.",
        "Try *to the left*, *from above*, *from behind*, *a close-up*, *a wide shot*. A LoRA for "
        "camera angles goes between *Load Diffusion Model* and the sampler: *Load LoRA*; write its "
        "own words in the prompt.",
        "可试 *to the left*、*from above*、*from behind*、*a close-up*、*a wide shot*。"
        "镜头角度 LoRA 用“加载 LoRA”接在“加载扩散模型”与采样器之间，提示词按该 LoRA 的写法。",
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
        whole = EXACT if source == "4" else "The result has exactly the enlarged picture's size."
        whole_zh = EXACT_ZH if source == "4" else "结果尺寸与放大后的图片完全相同。"
        text = note(f"{task.english} {whole}", f"{task.chinese}{whole_zh}")
        examples[f"{SOURCE}_{name}"] = (graph, text)
    return examples
