"""Draws the thumbnails that the template browser shows: `python scripts/workflows/cards.py`.

Graphs of the embedded model show what they draw, before and after where they start from a picture.
The 20B weights are not at hand here, so the others are cards: a small scheme of input and output,
maps by our own preprocessors, and captions. All name their settings, read from the graph. The
browser's label covers the upper left corner.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.headless.cli.main import main
from inkstone.headless.workflow.run import run_file
from inkstone.host.headless import HeadlessHost
from scripts.package import ROOT
from scripts.workflows.controls import keypoints
from scripts.workflows.titles import TITLES

GRAPHS = ROOT / "workflows"
SIDE, EDGE, TOP, WORDS = 384, 24, 64, 272  # the card; where the scheme and the words begin
GROUND, INK, PALE = (32, 34, 40), (230, 230, 230), (120, 126, 140)
Colour = tuple[int, int, int]
BOX = (150, 150)  # one picture of a scheme


def scene(sky: Colour = (96, 140, 200), sun: Colour = (250, 210, 80)) -> Image.Image:
    """A landscape as the example picture."""
    image = Image.new("RGB", BOX, sky)
    draw = ImageDraw.Draw(image)
    draw.ellipse((96, 18, 132, 54), fill=sun)
    draw.polygon(((0, 150), (0, 96), (52, 60), (104, 110), (150, 84), (150, 150)), (70, 130, 84))
    return image


def words_box(text: str = "Aa") -> Image.Image:
    """A prompt."""
    image = Image.new("RGB", BOX, (48, 51, 60))
    draw = ImageDraw.Draw(image)
    draw.text((18, 14), text, font=ImageFont.load_default(size=40), fill=INK)
    for n, width in enumerate((114, 92, 104)):
        draw.rectangle((18, 76 + 22 * n, 18 + width, 84 + 22 * n), fill=PALE)
    return image


def painted(image: Image.Image, done: bool) -> Image.Image:
    """A scene with a mask, or with a balloon where the mask was."""
    draw = ImageDraw.Draw(image)
    if done:
        draw.ellipse((26, 14, 66, 58), fill=(214, 70, 60))
        draw.rectangle((42, 62, 50, 70), fill=(120, 80, 50))
    else:
        draw.ellipse((18, 8, 74, 76), fill=(245, 245, 245), outline=PALE, width=3)
    return image


def boxed() -> Image.Image:
    """A scene with a box around its sun."""
    image = scene()
    ImageDraw.Draw(image).rectangle((90, 12, 138, 60), outline=(230, 60, 60), width=3)
    return image


def layout() -> Image.Image:
    """Boxes with words in them: where a scene has its sun and its hills."""
    image = Image.new("RGB", BOX, (48, 51, 60))
    draw = ImageDraw.Draw(image)
    for box, colour in (((86, 12, 142, 60), (250, 210, 80)), ((8, 72, 142, 142), (70, 130, 84))):
        draw.rectangle(box, outline=colour, width=3)
        left, top, right, _ = box
        for n in range(2):
            draw.rectangle(
                (left + 9, top + 12 + 15 * n, right - 9 - 12 * n, top + 18 + 15 * n), fill=PALE
            )
    return image


def moonlit() -> Image.Image:
    """A scene with another thing in the place of its sun."""
    image = scene(sun=scene().getpixel((0, 0)))
    draw = ImageDraw.Draw(image)
    draw.ellipse((96, 14, 132, 54), fill=(214, 70, 60))
    draw.rectangle((110, 57, 118, 64), fill=(120, 80, 50))
    return image


def wider(done: bool) -> Image.Image:
    """A scene with room at its right, empty or drawn."""
    whole = Image.new("RGB", BOX, (48, 51, 60))
    narrow = scene().crop((0, 0, 96, 150))
    if done:
        return scene()
    whole.paste(narrow)
    ImageDraw.Draw(whole).rectangle((97, 1, 148, 148), outline=PALE, width=2)
    return whole


def sheets() -> Image.Image:
    """Layers, one behind the other."""
    image = Image.new("RGB", BOX, GROUND)
    draw = ImageDraw.Draw(image)
    for n, fill in enumerate(((96, 140, 200), (70, 130, 84), (250, 210, 80))):
        x, y = 8 + 26 * n, 8 + 26 * n
        draw.rectangle((x, y, x + 80, y + 80), fill=fill, outline=INK, width=2)
    return image


def segments() -> Image.Image:
    """A scene with its sun marked."""
    return scene((0, 0, 0), (255, 0, 0)).point(lambda v: 255 if v > 200 else 0)


def cut_out() -> Image.Image:
    """The hills of a scene on the squares that stand for transparency."""
    image = Image.new("RGB", BOX, (236, 236, 236))
    draw = ImageDraw.Draw(image)
    for y in range(0, BOX[1], 15):
        for x in range(y % 30, BOX[0], 30):
            draw.rectangle((x, y, x + 14, y + 14), fill=(200, 200, 200))
    draw.polygon(((0, 150), (0, 96), (52, 60), (104, 110), (150, 84), (150, 150)), (70, 130, 84))
    return image


def turned() -> Image.Image:
    """A scene from further to the right."""
    return scene().transform(BOX, Image.Transform.AFFINE, (0.7, 0.1, 20, 0, 0.9, 8))


def worn() -> Image.Image:
    """A scene with scratches, without colours."""
    image = scene().convert("L").convert("RGB")
    draw = ImageDraw.Draw(image)
    for x, lean in ((20, 14), (64, -20), (110, 8)):
        draw.line((x, 0, x + lean, 150), fill=INK, width=2)
    return image


def coarse() -> Image.Image:
    """A scene of few pixels."""
    return scene().resize((19, 19), Image.Resampling.BOX).resize(BOX, Image.Resampling.NEAREST)


def three() -> Image.Image:
    """Three pictures at once."""
    image = Image.new("RGB", BOX, GROUND)
    skies = ((96, 140, 200), (200, 120, 90), (110, 90, 160))
    for sky, place in zip(skies, ((0, 0), (78, 0), (39, 78))):
        image.paste(scene(sky).resize((72, 72), Image.Resampling.LANCZOS), place)
    return image


def four() -> Image.Image:
    """Four different pictures."""
    image = Image.new("RGB", BOX, GROUND)
    for n, one in enumerate((scene(), _evening(), _night(), turned())):
        image.paste(one.resize((72, 72), Image.Resampling.LANCZOS), (n % 2 * 78, n // 2 * 78))
    return image


def falling(colour: Colour) -> Image.Image:
    """A loss that falls."""
    image = Image.new("RGB", BOX, (48, 51, 60))
    draw = ImageDraw.Draw(image)
    heights = [128 - 100 * 0.93**n + 9 * (-1) ** n * 0.97**n for n in range(36)]
    draw.line([(14, 12), (14, 136), (138, 136)], fill=PALE, width=2)
    draw.line([(16 + 3.4 * n, h) for n, h in enumerate(heights)], fill=colour, width=3)
    return image


def mapped(kind: str) -> Image.Image:
    """A control map, made by the pack's own preprocessor."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.png", Path(folder) / "out.png"
        scene().resize((210, 210), Image.Resampling.LANCZOS).save(source)
        more = []
        if kind == "pose":
            more = ["--keypoints", str(Path(folder) / "pose.json")]
            Path(more[1]).write_text(keypoints(), "utf-8")
        assert main(["preprocess", kind, str(source), str(out), *more, "--quiet"]) == 0
        return Image.open(out).convert("RGB").resize(BOX, Image.Resampling.LANCZOS)


def card(before: Image.Image, after: Image.Image, words: str, settings: str) -> Image.Image:
    """before -> after, with a caption in the largest letters that fit, and the settings."""
    image = Image.new("RGB", (SIDE, SIDE), GROUND)
    draw = ImageDraw.Draw(image)
    image.paste(before, (EDGE, TOP + 20))
    image.paste(after, (SIDE - EDGE - BOX[0], TOP + 20))
    middle = TOP + 20 + BOX[1] // 2
    draw.polygon(((182, middle - 12), (182, middle + 12), (203, middle)), fill=INK)
    size = 30
    while draw.multiline_textbbox((0, 0), words, _font(size), spacing=8)[2] > SIDE - 2 * EDGE:
        size -= 1
    draw.multiline_text((EDGE, WORDS), words, fill=INK, font=_font(size), spacing=8)
    draw.text((EDGE, SIDE - 32), settings, fill=PALE, font=_font(17))
    return image


_SAMPLERS = ("InkstoneDenoise", "InkstoneUpscalePicture")


def settings(name: str) -> str:
    """The last sampler's settings of a graph, in one line."""
    graph = json.loads((GRAPHS / "api" / f"{name}.json").read_text("utf-8"))
    samplers = [n["inputs"] for n in graph.values() if n["class_type"] in _SAMPLERS]
    last = samplers[-1]
    words = [f"{last['steps']} steps", f"CFG {last['cfg']:g}"]
    words += [f"strength {last['strength']:g}"] if last["strength"] < 1 else []
    sizes = [n["inputs"]["size"] for n in graph.values() if "size" in n["inputs"]]
    return ", ".join([*words, *(size.split(" ")[-1].strip("()") for size in sizes)])


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _mask() -> tuple[Image.Image, Image.Image]:
    return painted(scene(), False), painted(scene(), True)


def _controlled(kind: str) -> tuple[Image.Image, Image.Image]:
    return mapped(kind), _evening() if kind != "pose" else scene()


def _joined(after: Callable[[], Image.Image]) -> tuple[Image.Image, Image.Image]:
    return three(), after()


def _night() -> Image.Image:
    return scene((40, 48, 92), (236, 236, 214))


def _evening() -> Image.Image:
    return scene((214, 130, 90), (250, 240, 200))


CARDS: dict[str, tuple[Callable[[], tuple[Image.Image, Image.Image]], str]] = {
    "text_to_image_qwen_image": (lambda: (words_box(), scene()), "Qwen-Image fp8\ntext to image"),
    "variety_qwen_image": (
        lambda: (words_box(), four()),
        "Qwen-Image fp8\nfour seeds, with Variety",
    ),
    "text_to_image_gguf_lightning_lora": (
        lambda: (words_box(), _evening()),
        "Qwen-Image GGUF\nand a Lightning LoRA",
    ),
    "text_to_image_lightning_8_steps": (
        lambda: (words_box(), _night()),
        "Qwen-Image fp8\nand a Lightning LoRA",
    ),
    "regions_qwen_image": (lambda: (layout(), scene()), "Qwen-Image fp8\nregional prompts"),
    "image_to_image_qwen_image": (lambda: (scene(), _evening()), "Qwen-Image\nimage to image"),
    "inpaint_qwen_image": (_mask, "Qwen-Image inpaint\nthe rest stays bit for bit"),
    "find_and_inpaint_qwen_image": (
        lambda: (boxed(), moonlit()),
        "Qwen-Image inpaint\nwhat Find in Picture found",
    ),
    "outpaint_qwen_image": (lambda: (wider(False), wider(True)), "Qwen-Image\noutpaint"),
    "edit_2509": (lambda: (scene(), painted(scene(), True)), "Qwen-Image-Edit-2509\none picture"),
    "edit_2511": (lambda: (scene(), _evening()), "Qwen-Image-Edit-2511\none picture"),
    **{
        f"edit_{n}_three_pictures": (
            functools.partial(_joined, after),
            f"Qwen-Image-Edit-{n}\nthree pictures",
        )
        for n, after in ((2509, _night), (2511, _evening))
    },
    "edit_2511_segmentation": (lambda: (scene(), segments()), "Qwen-Image-Edit-2511\nsegmentation"),
    "edit_2511_depth": (lambda: (scene(), mapped("depth")), "Qwen-Image-Edit-2511\ndepth"),
    "edit_2511_edges": (lambda: (scene(), mapped("canny")), "Qwen-Image-Edit-2511\nedges"),
    "edit_2511_novel_view": (lambda: (scene(), turned()), "Qwen-Image-Edit-2511\nanother view"),
    "edit_2511_restoration": (lambda: (worn(), scene()), "Qwen-Image-Edit-2511\nrestoration"),
    "edit_2511_super_resolution": (
        lambda: (coarse(), scene()),
        "Qwen-Image-Edit-2511\nsuper-resolution",
    ),
    "upscale_qwen_image": (lambda: (coarse(), scene()), "Qwen-Image\nupscale, any factor"),
    "train_embedded": (
        lambda: (four(), falling((250, 210, 80))),
        "Embedded model\ntrain a LoRA: the command",
    ),
    "text_to_image_2_1": (lambda: (words_box(), scene()), "Qwen-Image-2.1\ntext to image"),
    "text_to_image_2_1_turbo": (lambda: (words_box(), _evening()), "Qwen-Image-2.1-Turbo\n8 steps"),
    "transparent_2_1": (
        lambda: (words_box(), cut_out()),
        "Qwen-Image-2.1\na picture with transparency",
    ),
    "edit_2_1": (lambda: (scene(), _evening()), "Qwen-Image-2.1\nedit of one picture"),
    "edit_2_1_three_pictures": (
        functools.partial(_joined, _night),
        "Qwen-Image-2.1\nthree pictures",
    ),
    "remove_background_2_1": (
        lambda: (scene(), cut_out()),
        "Qwen-Image-2.1\nremove the background",
    ),
    "layered": (lambda: (scene(), sheets()), "Qwen-Image-Layered\na picture into layers"),
    **{
        f"controlnet_union_{kind}": (
            functools.partial(_controlled, kind),
            f"InstantX Union\n{kind.replace('_', ' ')}",
        )
        for kind in ("canny", "soft_edge", "lineart", "depth", "pose")
    },
    "controlnet_inpainting": (_mask, "InstantX Inpainting\nthe rest stays bit for bit"),
    **{
        f"controlnet_blockwise_{kind}": (
            functools.partial(_controlled, kind),
            f"DiffSynth blockwise\n{kind}",
        )
        for kind in ("canny", "depth")
    },
    "controlnet_blockwise_inpaint": (_mask, "DiffSynth blockwise\ninpaint"),
    "controlnet_in_context": (lambda: (mapped("canny"), _evening()), "In-context LoRA\ncanny"),
    "controlnet_fun_union": (lambda: (mapped("canny"), _evening()), "Fun Union, 2512\ncanny"),
    "controlnet_fun_union_inpaint": (
        lambda: (mapped("canny"), painted(scene(), True)),
        "Fun Union, 2512\ncanny and inpaint",
    ),
}


EMBEDDED = {
    "variety_embedded": "Embedded model\none prompt, written out twice",
    "edit_embedded": "Embedded model\nmake the star green",
    "image_to_image_embedded": "Embedded model\nimage to image",
    "inpaint_embedded": "Embedded model\ninpaint the left half",
    "upscale_embedded": "Embedded model\nupscale, any factor",
    "find_embedded": "Embedded model\nfind, then inpaint",
    "controlnet_embedded": "Embedded model\nControlNet: the same edges",
}


def drawn(name: str) -> list[Image.Image]:
    """The picture that a graph of the embedded model saves, behind the one that it starts from."""
    with tempfile.TemporaryDirectory() as folder:
        host = HeadlessHost(output=Path(folder), temp=Path(folder) / "temp")
        graph = GRAPHS / "api" / f"{name}.json"
        files = run_file(graph, [], host, lambda value, total: None)["files"]
        saved = [f for f in files if Path(f).parent.name == "inkstone"]
        source = [f for f in sorted((Path(folder) / "temp").glob("*.png")) if "pre" not in f.name]
        return [Image.open(f).convert("RGB") for f in (*source[:1], *saved)]


def thumbnail(name: str) -> Image.Image:
    """The picture of a graph."""
    if name in CARDS:
        scheme, words = CARDS[name]
        return card(*scheme(), words, settings(name))
    images = drawn(name)
    side = BOX if len(images) > 1 else (SIDE, SIDE)
    images = [image.resize(side, Image.Resampling.LANCZOS) for image in images]
    return card(*images, EMBEDDED[name], settings(name)) if len(images) > 1 else images[0]


if __name__ == "__main__":
    for name, title in TITLES.items():
        thumbnail(name).save(GRAPHS / f"{title}.jpg", quality=88)
