"""The example graph that prepares the training of a LoRA; build.py writes it."""

from __future__ import annotations

from dataclasses import replace

from scripts.workflows.parts import (
    SMALL_RUN,
    SMALL_SIDE,
    Example,
    Graph,
    Wires,
    draw,
    ends,
    load_embedded,
    node,
    note,
    prompt,
    save,
)

PICTURES = "input/my pictures"  # below ComfyUI's folder
PROMPT = "a large red hexagon on a white background"  # a shape that the model has never seen
NOTE = note(
    f"Put pictures of one thing into `{PICTURES}` in ComfyUI's folder, each with its caption in a "
    "`.txt` file of the same name, and press *Run*: *Train LoRA* writes the settings and shows the "
    "command that trains; the picture is what the model draws before. For Qwen-Image connect its "
    "loaders instead of *Load All*.",
    f"把同一事物的图片放进 ComfyUI 文件夹下的 `{PICTURES}`，每张图片配一个同名 `.txt` 写说明，"
    "然后点 *Run*：*Train LoRA* 写出设置文件并显示训练用的命令；图片是训练前模型画出的样子。"
    "用 Qwen-Image 时，把 *Load All* 换成它的加载器。",
    files=False,
)


def training() -> dict[str, Example]:
    """Name -> (API graph, note in Markdown)."""
    model, encoder, vae = ends()
    graph: Graph = {
        "1": load_embedded(),
        "2": prompt(encoder, PROMPT, ""),
        **draw(2, Wires(model, vae, ["2", 0]), replace(SMALL_RUN, seed=7)),
        **save("5", ["4", 0], "before"),
        "6": node(
            "InkstoneTrainLora",
            model=model,
            text_encoder=encoder,
            vae=vae,
            name="my-lora",
            pictures=PICTURES,
            references="",
            steps=0,
            rank=16,
            lr=1e-4,
            resolution=SMALL_SIDE,
            sample_prompts=PROMPT,
        ),
    }
    return {"train_embedded": (graph, NOTE)}
