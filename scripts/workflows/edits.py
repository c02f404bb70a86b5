"""The example graphs that start from a picture; build.py writes them.

Graphs of the embedded model draw their own source picture, so they run everywhere and need no file.
The others load `example.png`, which lies in the input folder of every ComfyUI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Graph = dict[str, dict]
Link = list
EXAMPLE = "example.png"
SIGN = 'a white sign that says "INK" in blue above a {} on a yellow background'
EDITED = 'the word "INK" in blue above a red star on a white background'
OLD, NEW = (SIGN.format(what) for what in ("red star", "green circle"))

NOTE_IMAGE = """## No download needed

The small model that ships inside Inkstone draws a source picture and starts from it: *strength* in
the second *Schedule* says how much is drawn anew. To start from a picture of yours, put *Load
Image* in the place of the source: any size works, and the result has exactly that size.
"""
NOTE_INPAINT = """## No download needed

The small model that ships inside Inkstone draws a source picture and then a part of it anew: the
mask (lower half, from core nodes). Outside the mask every value stays as it is. With *Load Image*
in the place of the source, paint the mask in its mask editor and connect *MASK*.
"""
NOTE_EDIT = """## No download needed

The small model that ships inside Inkstone draws a source picture and edits it. It was taught
requests such as *make the star green*, *make the background blue*, *make the word "OPEN"*, *remove
the star*, *add a red circle on the left*. The same graph with the three loaders of an edit model
edits any picture: put *Load Image* in the place of the source.
"""
FILES = """## Files to download

GGUF, fp8 and int8 files take the same places{tower}.
"""
TOWER = ", a GGUF text encoder needs its mmproj file beside it"


def node(kind: str, title: str = "", **inputs) -> dict:
    """One entry of an API graph; a title where two nodes of a class stand in one graph."""
    made = {"class_type": kind, "inputs": inputs}
    return made | ({"_meta": {"title": title}} if title else {})


def _draw(start: int, wires: Mapping[str, Link], run: Mapping, title: str = "") -> Graph:
    """Schedule, denoise, decode. wires: model, vae, positive, negative, latent."""
    schedule, denoise, decode = map(str, range(start, start + 3))
    said = [f"{title}: {what}" if title else "" for what in ("schedule", "denoise", "decode")]
    graph = {
        schedule: node(
            "InkstoneSchedule",
            said[0],
            model=wires["model"],
            latent=wires["latent"],
            steps=run["steps"],
            schedule=run["schedule"],
            strength=run.get("strength", 1.0),
        ),
        denoise: node(
            "InkstoneDenoise",
            said[1],
            model=wires["model"],
            positive=wires["positive"],
            sigmas=[schedule, 0],
            latent=wires["latent"],
            seed=run["seed"],
            cfg=run["cfg"],
        ),
        decode: node("InkstoneDecode", said[2], vae=wires["vae"], latent=[denoise, 0]),
    }
    if run["cfg"] > 1:
        graph[denoise]["inputs"]["negative"] = wires["negative"]
    return graph


def _prompt(text: Link, prompt: str, negative: str, title: str = "") -> dict:
    return node("InkstoneEncodePrompt", title, text_encoder=text, prompt=prompt, negative=negative)


def _save(key: str, image: Link, name: str) -> Graph:
    return {key: node("SaveImage", images=image, filename_prefix=f"inkstone/{name}")}


def _lower_half(width: int, height: int) -> Graph:
    """A mask of the lower half, of core nodes; its output is node 12."""
    return {
        "10": node("SolidMask", "Mask: keep", value=0.0, width=width, height=height),
        "11": node("SolidMask", "Mask: draw anew", value=1.0, width=width, height=height // 2),
        "12": node(
            "MaskComposite",
            destination=["10", 0],
            source=["11", 0],
            x=0,
            y=height // 2,
            operation="add",
        ),
    }


def embedded(load_all: dict, canvas: Mapping, schedule: str) -> dict[str, tuple[Graph, str]]:
    """Graphs that need no download. Nodes 1 to 6 draw the source."""
    model, text, vae = (["1", slot] for slot in range(3))
    run = {"steps": 20, "schedule": schedule, "cfg": 2.0}
    source = {
        "1": load_all,
        "2": _prompt(text, OLD, "", "Source: prompt"),
        "3": node("InkstoneEmptyLatent", batch_size=1, **canvas),
        **_draw(
            4,
            dict(model=model, vae=vae, positive=["2", 0], negative=["2", 1], latent=["3", 0]),
            run | {"seed": 7},
            "Source",
        ),
        "7": node("PreviewImage", "Source", images=["6", 0]),
    }
    wires = dict(model=model, vae=vae, positive=["8", 0], negative=["8", 1])
    changed = {
        **source,
        "8": _prompt(text, NEW, "", "Prompt"),
        "9": node("InkstoneImageToLatent", vae=vae, image=["6", 0]),
        **_draw(10, wires | {"latent": ["9", 0]}, run | {"seed": 3, "strength": 0.85}, "Result"),
        **_save("13", ["12", 0], "image_to_image"),
    }
    inpainted = {
        **source,
        "8": _prompt(text, NEW, "", "Prompt"),
        **_lower_half(canvas["width"], canvas["height"]),
        "9": node("InkstoneInpaint", vae=vae, image=["6", 0], mask=["12", 0], feather=4),
        **_draw(13, wires | {"latent": ["9", 0]}, run | {"seed": 3}, "Result"),
        "16": node("InkstoneStitch", image=["15", 0], stitch=["9", 1]),
        **_save("17", ["16", 0], "inpaint"),
    }
    edited = {
        **source,
        "2": _prompt(text, EDITED, "", "Source: prompt"),
        "8": node(
            "InkstoneEncodeEdit",
            text_encoder=text,
            model=model,
            vae=vae,
            prompt="make the star green",
            negative="",
            **{"images.picture_1": ["6", 0]},
        ),
        **_draw(
            9, wires | {"latent": ["8", 2]}, run | {"seed": 3, "steps": 8, "cfg": 1.0}, "Result"
        ),
        **_save("12", ["11", 0], "edit"),
    }
    return {
        "edit_embedded": (edited, NOTE_EDIT),
        "image_to_image_embedded": (changed, NOTE_IMAGE),
        "inpaint_embedded": (inpainted, NOTE_INPAINT),
    }


def qwen_image(loaders: Callable, schedule: str) -> dict[str, tuple[Graph, str]]:
    """Image-to-image, inpaint and outpaint with the text-to-image model."""
    note = FILES.format(tower="")
    run = {"steps": 50, "schedule": schedule, "cfg": 4.0, "seed": 42}

    def start(prompt: str) -> Graph:
        return {
            **loaders("qwen_image_bf16.safetensors", variant="qwen-image"),
            "4": node("LoadImage", image=EXAMPLE),
            "5": _prompt(["2", 0], prompt, " "),
        }

    wires = dict(model=["1", 0], vae=["3", 0], positive=["5", 0], negative=["5", 1])
    image = {
        **start("An oil painting of the same scene, thick brush strokes, warm light."),
        "6": node("InkstoneImageToLatent", vae=["3", 0], image=["4", 0]),
        **_draw(7, wires | {"latent": ["6", 0]}, run | {"strength": 0.6}),
        **_save("10", ["9", 0], "image_to_image"),
    }
    inpaint = {
        **start("A photograph of the scene with a small red hot-air balloon."),
        "6": node("InkstoneInpaint", vae=["3", 0], image=["4", 0], mask=["4", 1]),
        **_draw(7, wires | {"latent": ["6", 0]}, run | {"strength": 0.9}),
        "10": node("InkstoneStitch", image=["9", 0], stitch=["6", 1]),
        **_save("11", ["10", 0], "inpaint"),
    }
    outpaint = {
        **start("A wide photograph of the same scene, natural light."),
        "6": node("InkstonePadForOutpaint", image=["4", 0], right=256, fill="mirror", feather=24),
        "7": node(
            "InkstoneInpaint", vae=["3", 0], image=["6", 0], mask=["6", 1], feather=0, crop="off"
        ),
        **_draw(8, wires | {"latent": ["7", 0]}, run | {"strength": 0.95}),
        "11": node("InkstoneStitch", image=["10", 0], stitch=["7", 1]),
        **_save("12", ["11", 0], "outpaint"),
    }
    painted = "\nRight-click *Load Image*, open the mask editor and paint what shall change; the "
    painted += "prompt says what the whole picture shows. Outside the mask every value stays."
    return {
        "image_to_image_qwen_image": (image, note + "\nThe result has the picture's exact size."),
        "inpaint_qwen_image": (inpaint, note + painted),
        "outpaint_qwen_image": (
            outpaint,
            note + "\nThe prompt says what the whole picture shows, the new part too.",
        ),
    }


EDITS = {  # name -> variant, file, pictures
    "edit_2509": ("edit-2509", "qwen_image_edit_2509_bf16.safetensors", 1),
    "edit_2509_three_pictures": ("edit-2509", "qwen_image_edit_2509_bf16.safetensors", 3),
    "edit_2511": ("edit-2511", "qwen_image_edit_2511_bf16.safetensors", 1),
    "edit_2511_three_pictures": ("edit-2511", "qwen_image_edit_2511_bf16.safetensors", 3),
}
ONE = 'Write "OPEN" in red on a wooden sign in the middle; everything else stays as it is.'
THREE = "The person of Picture 1 wears the jacket of Picture 2 and stands in the room of Picture 3."


def edits(loaders: Callable, schedule: str) -> dict[str, tuple[Graph, str]]:
    """Edits of one picture and of three."""
    made = {}
    for name, (variant, file, count) in EDITS.items():
        pictures = {str(4 + n): node("LoadImage", image=EXAMPLE) for n in range(count)}
        if count > 1:
            for n, entry in enumerate(pictures.values(), 1):
                entry["_meta"] = {"title": f"Picture {n}"}
        inputs = {f"images.picture_{n}": [key, 0] for n, key in enumerate(pictures, 1)}
        wires = dict(model=["1", 0], vae=["3", 0], positive=["7", 0], negative=["7", 1])
        graph = {
            **loaders(file, variant=variant),
            **pictures,
            "7": node(
                "InkstoneEncodeEdit",
                text_encoder=["2", 0],
                model=["1", 0],
                vae=["3", 0],
                prompt=ONE if count == 1 else THREE,
                negative=" ",
                **inputs,
            ),
            **_draw(
                8,
                wires | {"latent": ["7", 2]},
                {"steps": 40, "schedule": schedule, "cfg": 4.0, "seed": 42},
            ),
            **_save("11", ["10", 0], name),
        }
        note = FILES.format(tower=TOWER)
        told = f"\nMost files do not say which variant they are, so the loader does: *{variant}*. "
        made[name] = graph, note + told + "The result has the exact size of Picture 1."
    return made


def layered(loaders: Callable, schedule: str) -> dict[str, tuple[Graph, str]]:
    """A picture taken apart."""
    vae = "qwen_image_layered_vae.safetensors"
    wires = dict(model=["1", 0], vae=["3", 0], positive=["5", 0], negative=["5", 1])
    graph = {
        **loaders("qwen_image_layered_bf16.safetensors", vae),
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
        **_draw(
            6,
            wires | {"latent": ["5", 2]},
            {"steps": 50, "schedule": schedule, "cfg": 4.0, "seed": 42},
        ),
        **_save("9", ["8", 0], "layer"),
        "10": node("InkstoneSplitLayers", layers=["8", 0]),
        "11": node("PreviewImage", images=["10", 0]),
    }
    note = FILES.format(tower="")
    told = "\nEvery layer is saved as a PNG with alpha, of the picture's exact size."
    return {"layered": (graph, note + told)}
