"""The example graphs that start from a picture; build.py writes them.

Graphs of the embedded model draw their own source picture, so they run everywhere and need no file.
The others load `example.png`, which lies in the input folder of every ComfyUI.
"""

from __future__ import annotations

from dataclasses import replace

from scripts.workflows.parts import (
    EXAMPLE,
    MODEL,
    SMALL_RUN,
    SMALL_SIDE,
    WRITER,
    Example,
    Graph,
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

SIGN = 'a white sign that says "INK" in blue above a {} on a yellow background'
EDITED = 'the word "INK" in blue above a red star on a white background'
OLD, NEW = (SIGN.format(what) for what in ("red star", "green circle"))
SHAPES = "a {} on the left and a blue triangle on the right on a white background"

NOTE_IMAGE = note(
    "*Source* draws the picture to start from; *strength* is the denoising strength. For a picture "
    "of yours connect *Load Image*: any size works, and the result has exactly that size.",
    "“Source”画出起始图；*strength* 是重绘幅度。用自己的图：改接 *Load Image*，任何尺寸都可以，"
    "结果尺寸与原图完全相同。",
    files=False,
)
NOTE_INPAINT = note(
    "The left half of the picture is inpainted; outside the mask every value stays. For a picture "
    "of yours connect *Load Image* with the mask of its mask editor.",
    "重绘图片的左半部分，遮罩以外逐像素不变。用自己的图：改接 *Load Image*，在遮罩编辑器里涂抹。",
    files=False,
)
NOTE_EDIT = note(
    'Try *make the background blue*, *make the word "OPEN"*, *remove the star*, *add a red circle '
    "on the left*. With the loaders of an edit model the same graph edits any picture.",
    "可试 *make the background blue*、*remove the star* 等指令。换成编辑模型的加载节点，"
    "同一工作流可编辑任何图片。",
    files=False,
)
NOTE_FIND = note(
    "*Find in Picture* makes the mask of what you name: try *blue triangle*. The text encoder that "
    "encodes the prompt finds it; with that of Qwen-Image the same graph works on any picture.",
    "*Find in Picture* 按名称找出物体并生成遮罩，可试 *blue triangle*。"
    "由编码提示词的文本编码器找出；换成 Qwen-Image 的文本编码器，同一工作流适用于任何图片。",
    files=False,
)
PAINT = (
    "Paint the area to change in the mask editor of *Load Image*; the prompt describes the whole "
    "picture. Outside the mask every value stays."
)
PAINT_ZH = "在 *Load Image* 的遮罩编辑器里涂抹要改的区域；提示词描述整幅图。遮罩以外逐像素不变。"
NAMED = (
    "Name in *Find in Picture* what to replace; the prompt describes the whole picture with the "
    "new thing. *Find in Picture* shows what it found; *grow* of *Inpaint* leaves room around it. "
    "The text encoder writes where it is, so its file needs the output head, which GGUF files of "
    "Qwen2.5-VL-7B-Instruct have; put their mmproj file into the same folder."
)
NAMED_ZH = (
    "在“在图片中查找”里写明要替换什么；提示词描述换好之后的整幅图。该节点会显示找到的范围，"
    "“局部重绘”的 *grow* 在四周留出余地。位置由文本编码器写出，因此文件须含输出层："
    "Qwen2.5-VL-7B-Instruct 的 GGUF 文件都有；其 mmproj 文件要放进同一文件夹。"
)
EXACT = "The result has exactly the picture's size."
EXACT_ZH = "结果尺寸与原图完全相同。"


def _left_half(width: int, height: int) -> Graph:
    """A mask of the left half, of core nodes; its output is node 11."""
    return {
        "10": node("SolidMask", "Mask: all", value=1.0, width=width, height=height),
        "11": node(
            "MaskComposite",
            "Mask: left half",
            destination=["10", 0],
            source=["10", 0],
            x=width // 2,
            y=0,
            operation="subtract",
        ),
    }


def embedded() -> dict[str, Example]:
    """Graphs that need no download. Nodes 1 to 5 draw the source."""
    return {
        "edit_embedded": (_edited(), NOTE_EDIT),
        "image_to_image_embedded": (_changed(), NOTE_IMAGE),
        "inpaint_embedded": (_inpainted(), NOTE_INPAINT),
        "find_embedded": (_found(), NOTE_FIND),
    }


def _changed() -> Graph:
    """Image-to-image."""
    model, text, vae = ends()
    wires = Wires(model, vae, ["8", 0], ["9", 0])
    return {
        **drawn_source(OLD),
        "8": prompt(text, NEW, "", "Prompt"),
        "9": node("InkstoneImageToLatent", vae=vae, image=["4", 0]),
        **draw(10, wires, replace(SMALL_RUN, seed=3, strength=0.85), "Result"),
        **save("13", ["12", 0], "image_to_image"),
    }


def _inpainted() -> Graph:
    """The left half drawn from another prompt."""
    model, text, vae = ends()
    wires = Wires(model, vae, ["8", 0], ["9", 0])
    return {
        **drawn_source(SHAPES.format("red circle")),
        "8": prompt(text, SHAPES.format("green star"), "", "Prompt"),
        **_left_half(SMALL_SIDE, SMALL_SIDE),
        "9": node("InkstoneInpaint", vae=vae, image=["4", 0], mask=["11", 0], feather=4),
        **draw(13, wires, replace(SMALL_RUN, seed=3), "Result"),
        "16": node("InkstoneStitch", image=["15", 0], stitch=["9", 1]),
        **save("17", ["16", 0], "inpaint"),
    }


def _found() -> Graph:
    """What was named is found in the source and drawn from another prompt."""
    model, text, vae = ends()
    wires = Wires(model, vae, ["8", 0], ["9", 0])
    return {
        **drawn_source(SHAPES.format("red circle")),
        "7": node(
            "InkstoneFindInPicture",
            text_encoder=text,
            image=["4", 0],
            what="red circle",
            shape="box",
        ),
        "8": prompt(text, SHAPES.format("green star"), "", "Prompt"),
        "9": node("InkstoneInpaint", vae=vae, image=["4", 0], mask=["7", 0], grow=8, feather=4),
        **draw(13, wires, replace(SMALL_RUN, seed=3), "Result"),
        "16": node("InkstoneStitch", image=["15", 0], stitch=["9", 1]),
        **save("17", ["16", 0], "found"),
    }


def _edited() -> Graph:
    """An edit by a request."""
    model, text, vae = ends()
    wires = Wires(model, vae, ["8", 0], ["8", 2])
    return {
        **drawn_source(EDITED),
        "8": node(
            "InkstoneEncodeEdit",
            text_encoder=text,
            model=model,
            vae=vae,
            prompt="make the star green",
            negative="",
            **{"images.picture_1": ["4", 0]},
        ),
        **draw(9, wires, replace(SMALL_RUN, seed=3, steps=8, cfg=1.0), "Result"),
        **save("12", ["11", 0], "edit"),
    }


_BASE = Wires(["1", 0], ["3", 0], ["5", 0], ["6", 0])


def qwen_image() -> dict[str, Example]:
    """Image-to-image, inpaint and outpaint with the text-to-image model."""
    run = Run(steps=50, cfg=4.0)
    image = {
        **_start("An oil painting of the same scene, thick brush strokes, warm light."),
        "6": node("InkstoneImageToLatent", vae=["3", 0], image=["4", 0]),
        **draw(7, _BASE, replace(run, strength=0.6)),
        **save("10", ["9", 0], "image_to_image"),
    }
    inpaint = {
        **_start("A photograph of the scene with a small red hot-air balloon."),
        "6": node("InkstoneInpaint", vae=["3", 0], image=["4", 0], mask=["4", 1]),
        **draw(7, _BASE, replace(run, strength=0.9)),
        "10": node("InkstoneStitch", image=["9", 0], stitch=["6", 1]),
        **save("11", ["10", 0], "inpaint"),
    }
    named = {
        **_start("A photograph of a marble statue in the middle of the same scene, soft light."),
        "6": node(
            "InkstoneFindInPicture", text_encoder=["2", 0], image=["4", 0], what="the main subject"
        ),
        "7": node("InkstoneInpaint", vae=["3", 0], image=["4", 0], mask=["6", 0], grow=16),
        **draw(8, replace(_BASE, latent=["7", 0]), replace(run, strength=0.95)),
        "11": node("InkstoneStitch", image=["10", 0], stitch=["7", 1]),
        **save("12", ["11", 0], "find_and_inpaint"),
    }
    named["2"]["inputs"]["text_encoder"] = WRITER
    outpaint = {
        **_start("A wide photograph of the same scene, natural light."),
        "6": node("InkstonePadForOutpaint", image=["4", 0], right=256, fill="mirror", feather=24),
        "7": node(
            "InkstoneInpaint", vae=["3", 0], image=["6", 0], mask=["6", 1], feather=0, crop="off"
        ),
        **draw(8, replace(_BASE, latent=["7", 0]), replace(run, strength=0.95)),
        "11": node("InkstoneStitch", image=["10", 0], stitch=["7", 1]),
        **save("12", ["11", 0], "outpaint"),
    }
    whole = "The prompt describes the whole picture, the new part too."
    return {
        "image_to_image_qwen_image": (image, note(EXACT, EXACT_ZH)),
        "inpaint_qwen_image": (inpaint, note(PAINT, PAINT_ZH)),
        "find_and_inpaint_qwen_image": (named, note(NAMED, NAMED_ZH)),
        "outpaint_qwen_image": (outpaint, note(whole, "提示词描述整幅图，包括新的部分。")),
    }


def _start(text: str) -> Graph:
    """Loaders, the picture and the prompt: nodes 1 to 5."""
    return {
        **loaders(MODEL, variant="qwen-image"),
        "4": node("LoadImage", image=EXAMPLE),
        "5": prompt(["2", 0], text, " "),
    }


CARD = Run(steps=40, cfg=4.0)  # of Edit-2509 and 2511
EDITS = {  # name -> variant, file, pictures
    "edit_2509": ("edit-2509", "qwen_image_edit_2509_fp8_e4m3fn.safetensors", 1),
    "edit_2509_three_pictures": ("edit-2509", "qwen_image_edit_2509_fp8_e4m3fn.safetensors", 3),
    "edit_2511": ("edit-2511", "qwen_image_edit_2511_fp8mixed.safetensors", 1),
    "edit_2511_three_pictures": ("edit-2511", "qwen_image_edit_2511_fp8mixed.safetensors", 3),
}
ONE = 'Write "OPEN" in red on a wooden sign in the middle; everything else stays as it is.'
THREE = "The person of Picture 1 wears the jacket of Picture 2 and stands in the room of Picture 3."


def edit_graph(
    name: str,
    model: tuple[str, str],
    pictures: Graph,
    used: list[str],
    request: str,
    run: Run = CARD,
) -> Graph:
    """An edit. model: variant and file; pictures: nodes below 7; used: those that are edited."""
    variant, file = model
    wires = Wires(["1", 0], ["3", 0], ["7", 0], ["7", 2])
    inputs = {f"images.picture_{n}": [key, 0] for n, key in enumerate(used, 1)}
    return {
        **loaders(file, variant=variant),
        **pictures,
        "7": node(
            "InkstoneEncodeEdit",
            text_encoder=["2", 0],
            model=["1", 0],
            vae=["3", 0],
            prompt=request,
            negative=" ",
            **inputs,
        ),
        **draw(8, wires, run),
        **save("11", ["10", 0], name),
    }


def source_pictures(count: int) -> Graph:
    """Nodes 4 and up: the pictures that an edit starts from, numbered where there are several."""
    titles = [f"Picture {n}" for n in range(1, count + 1)] if count > 1 else [""]
    return {str(4 + n): node("LoadImage", t, image=EXAMPLE) for n, t in enumerate(titles)}


def edits() -> dict[str, Example]:
    """Edits of one picture and of three."""
    examples = {}
    for name, (variant, file, count) in EDITS.items():
        pictures = source_pictures(count)
        request = ONE if count == 1 else THREE
        graph = edit_graph(name, (variant, file), pictures, list(pictures), request)
        examples[name] = (
            graph,
            note(
                "A GGUF text encoder needs its mmproj file next to it. Most model files do not "
                f"name their variant, so the loader does: *{variant}*. The result has exactly "
                "the size of Picture 1.",
                "GGUF 文本编码器需要同目录的 mmproj 文件。多数模型文件不写明版本，由加载节点指定："
                f"*{variant}*。{EXACT_ZH}",
            ),
        )
    return examples


def layered() -> dict[str, Example]:
    """A picture split into layers."""
    graph = {
        **loaders("qwen_image_layered_bf16.safetensors", "qwen_image_layered_vae.safetensors"),
        "4": node("LoadImage", image=EXAMPLE),
        "5": node(
            "InkstoneEncodeLayers",
            text_encoder=["2", 0],
            vae=["3", 0],
            image=["4", 0],
            prompt="What the picture shows, in one or two sentences.",
            negative=" ",
            layers=4,
        ),
        **draw(6, replace(_BASE, latent=["5", 2]), Run(steps=50, cfg=4.0)),
        **save("9", ["8", 0], "layer"),
        "10": node("InkstoneSplitLayers", layers=["8", 0]),
        "11": node("PreviewImage", images=["10", 0]),
    }
    english = "Every layer is saved as a PNG with alpha, of the picture's exact size."
    return {"layered": (graph, note(english, "每个图层存为带透明通道的 PNG，尺寸与原图相同。"))}
