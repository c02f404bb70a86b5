"""The example graphs with a control; build.py writes them.

The graph of the embedded model draws its own source picture and takes its edges, so it needs no
file. In the others the result has exactly the size of the picture behind the map: the picture is
the canvas, and at strength 1 nothing else of it is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import NamedTuple

Graph = dict[str, dict]
UNION = "Qwen-Image-InstantX-ControlNet-Union.safetensors"
INPAINTING = "Qwen-Image-InstantX-ControlNet-Inpainting.safetensors"
BASE, NEWER = "qwen_image_bf16.safetensors", "qwen_image_2512_bf16.safetensors"
DRAWN = "a red circle on the left and a blue triangle on the right on a white background"
ANEW = "a yellow circle and a yellow triangle on a purple background"

NOTE_EMBEDDED = """## No download needed

The small model that ships inside Inkstone draws a source picture, *Control Picture* makes a map of
its edges, and the small control that ships with it draws another picture with the same outlines.
The second prompt does not say where the shapes stand: the map does. Set *strength* of *Apply
ControlNet* to 0 to see what the words alone give, or *type* to soft_edge or lineart.
"""
NOTE = """## Files to download

GGUF, fp8 and int8 files take the same places.

{said}

The result has exactly the picture's size; pictures of about 1328x1328 suit the control best.
"""
MAPS = {  # type -> what the note says of it
    "canny": "Thin edges, as OpenCV's. Raise the thresholds where too many lines are found.",
    "soft_edge": "Outlines, strong ones bright. With a HED file in `models/annotators` *Control "
    "Picture* uses that network.",
    "lineart": "Lines of ink. The Union control was not trained on these by name; it takes them "
    "for edges.",
    "depth": "Near is white. Put Depth-Anything V2 into `models/annotators` and choose it as "
    "*model*: without a file the map is a guess from the layout.",
    "pose": "The skeleton comes from *keypoints*, OpenPose JSON: exchange the example for yours, "
    "or connect the output of an OpenPose or DWPose node. Of the picture only the size counts.",
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
    kind: str  # of the map; "" for one that gets the picture itself, to repaint it
    said: str  # for the note
    steps: int = 30
    strength: float = 1.0
    model: str = BASE
    variant: str = "qwen-image"
    repaint: bool = False  # beside the map
    begin: str = ""  # of its prompts


_PATCH = "qwen_image_{}_diffsynth_controlnet.safetensors"
_FUN = "Qwen-Image-2512-Fun-Controlnet-Union"
_PAINT = """Right-click *Load Image*, open the mask editor and paint what is drawn anew; the prompt
says what the whole picture shows. Outside the mask every value stays as it is."""
ROWS = {f"controlnet_union_{kind}": Row(UNION, kind, said) for kind, said in MAPS.items()} | {
    "controlnet_inpainting": Row(INPAINTING, "", _PAINT),
    **{
        f"controlnet_blockwise_{kind}": Row(_PATCH.format(kind), kind, MAPS[kind])
        for kind in ("canny", "depth")
    },
    "controlnet_blockwise_inpaint": Row(_PATCH.format("inpaint"), "", _PAINT, 40),
    "controlnet_in_context": Row(
        "qwen_image_union_diffsynth_lora.safetensors",
        "canny",
        "A LoRA that reads the map beside the picture. Its prompts begin with `Context_Control. `. "
        "It takes soft edge, depth, pose and line art too: set *type* of *Control Picture*.",
        40,
        begin="Context_Control. ",
    ),
    "controlnet_fun_union": Row(
        f"{_FUN}.safetensors",
        "canny",
        "For Qwen-Image-2512. The same file takes soft edge, depth and pose: set *type* of "
        "*Control Picture*. A *strength* of 0.7 to 0.95 suits it best.",
        40,
        0.8,
        NEWER,
    ),
    "controlnet_fun_union_inpaint": Row(
        f"{_FUN}.safetensors",
        "canny",
        "For Qwen-Image-2512: what is drawn anew follows the map, too. " + _PAINT,
        40,
        0.8,
        NEWER,
        repaint=True,
    ),
}


def embedded(
    edits: ModuleType, load_all: dict, canvas: Mapping, schedule: str
) -> dict[str, tuple[Graph, str]]:
    """The graph that needs no download. edits: the sibling file, with what all graphs share."""
    model, text, vae = (["1", slot] for slot in range(3))
    run = {"steps": 20, "schedule": schedule, "cfg": 2.0}
    wires = dict(model=model, vae=vae, latent=["3", 0])
    graph = {
        "1": load_all,
        "2": edits._prompt(text, DRAWN, "", "Source: prompt"),
        "3": edits.node("InkstoneEmptyLatent", batch_size=1, **canvas),
        **edits._draw(
            4, wires | {"positive": ["2", 0], "negative": ["2", 1]}, run | {"seed": 7}, "Source"
        ),
        "7": edits.node("PreviewImage", "Source", images=["6", 0]),
        "8": edits.node("InkstoneControlPicture", image=["6", 0], type="canny"),
        "9": edits.node("InkstoneLoadControlNet", control=load_all["inputs"]["folder"]),
        "10": edits._prompt(text, ANEW, "", "Prompt"),
        "11": apply(edits, ["10", 0], (["9", 0], vae), ["8", 0], 1.0),
        **edits._draw(
            12, wires | {"positive": ["11", 0], "negative": ["10", 1]}, run | {"seed": 3}, "Result"
        ),
        **edits._save("15", ["14", 0], "control"),
    }
    return {"controlnet_embedded": (graph, NOTE_EMBEDDED)}


def apply(
    edits: ModuleType,
    positive: list,
    ends: tuple[list, list],
    picture: list,
    strength: float,
    **more: list,
) -> dict:
    """The node; ends: control and VAE; more: links of mask and source."""
    control, vae = ends
    return edits.node(
        "InkstoneApplyControlNet",
        positive=positive,
        control=control,
        vae=vae,
        image=picture,
        strength=strength,
        **more,
    )


def published(edits: ModuleType, loaders: Callable, schedule: str) -> dict[str, tuple[Graph, str]]:
    """One graph for each row."""
    made = {}
    for name, row in ROWS.items():
        inpaints = row.repaint or not row.kind
        graph = (_inpainted if inpaints else _controlled)(edits, loaders, row)
        wires = dict(model=["1", 0], vae=["3", 0], positive=["9", 0], negative=["5", 1])
        run = {"steps": row.steps, "schedule": schedule, "cfg": 4.0, "seed": 42}
        graph |= edits._draw(10, wires | {"latent": ["8", 0]}, run)
        picture = ["12", 0]
        if inpaints:
            graph["13"] = edits.node("InkstoneStitch", image=["12", 0], stitch=["8", 1])
            picture = ["13", 0]
        graph |= edits._save("14", picture, name)
        made[name] = graph, NOTE.format(said=row.said)
    return made


def _start(edits: ModuleType, loaders: Callable, row: Row, prompt: str) -> Graph:
    """Loaders, the picture and the words: nodes 1 to 6."""
    return {
        **loaders(row.model, variant=row.variant),
        "4": edits.node("LoadImage", image=edits.EXAMPLE),
        "5": edits._prompt(["2", 0], prompt, " "),
        "6": edits.node("InkstoneLoadControlNet", control=row.control),
    }


def _controlled(edits: ModuleType, loaders: Callable, row: Row) -> Graph:
    """A map of the picture on a canvas of its size."""
    pose = {"keypoints": keypoints()} if row.kind == "pose" else {}
    return {
        **_start(edits, loaders, row, row.begin + PROMPTS.get(row.kind, PROMPT)),
        "7": edits.node("InkstoneControlPicture", image=["4", 0], type=row.kind, **pose),
        "8": edits.node("InkstoneImageToLatent", vae=["3", 0], image=["4", 0]),
        "9": apply(edits, ["5", 0], (["6", 0], ["3", 0]), ["7", 0], row.strength),
    }


def _inpainted(edits: ModuleType, loaders: Callable, row: Row) -> Graph:
    """The picture with a mask, itself or beside its map; what is kept is put back."""
    prompt = "A photograph of the scene with a small red hot-air balloon."
    graph = _start(edits, loaders, row, prompt)
    seen, more = ["4", 0], {"mask": ["4", 1]}
    if row.kind:
        graph["7"] = edits.node("InkstoneControlPicture", image=["4", 0], type=row.kind)
        seen, more = ["7", 0], {"source": ["4", 0], "mask": ["4", 1]}
    paint = edits.node("InkstoneInpaint", vae=["3", 0], image=["4", 0], mask=["4", 1])
    both = (["6", 0], ["3", 0])
    return graph | {"8": paint, "9": apply(edits, ["5", 0], both, seen, row.strength, **more)}
