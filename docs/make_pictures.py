"""Draws the README's picture and the thumbnails of the example graphs: `python
docs/make_pictures.py`.

The thumbnails of graphs that need the 20B weights are plain cards: nothing was drawn with those
here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent

PICTURES = (
    ('a white sign that says "INK" in blue above a red star on a yellow background', (128, 128), 7),
    ('the word "STONE" in yellow on a blue background', (160, 96), 3),
    ("a large pink circle on a purple background", (128, 128), 1),
    ('the word "HELLO" in red above a green square on a white background', (128, 128), 2),
    (
        "a black triangle on the left and a white star on the right on an orange background",
        (160, 96),
        4,
    ),
    ('the word "2026" in cyan below a yellow circle on a black background', (128, 128), 5),
)
CARDS = {
    "text_to_image_qwen_image": "Qwen-Image\ntext to image\n50 steps, CFG 4",
    "text_to_image_gguf_lightning_lora": "Qwen-Image GGUF\n+ Lightning LoRA\n8 steps, CFG 1",
    "text_to_image_lightning_8_steps": "Qwen-Image Lightning\ntext to image\n8 steps, CFG 1",
    "image_to_image_qwen_image": "Qwen-Image\nimage to image\nstrength 0.6",
    "inpaint_qwen_image": "Qwen-Image\ninpaint\nand put back",
    "outpaint_qwen_image": "Qwen-Image\noutpaint\nand put back",
    "edit_2509": "Qwen-Image-Edit-2509\none picture",
    "edit_2509_three_pictures": "Qwen-Image-Edit-2509\nPicture 1, 2, 3",
    "edit_2511": "Qwen-Image-Edit-2511\none picture",
    "edit_2511_three_pictures": "Qwen-Image-Edit-2511\nPicture 1, 2, 3",
    "layered": "Qwen-Image-Layered\na picture\ninto layers",
}
STARTED = ("edit_embedded", "image_to_image_embedded", "inpaint_embedded")  # graphs whose own result is their card


def package() -> None:
    """This tree as the package `inkstone`."""
    if "inkstone" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "inkstone", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        sys.modules["inkstone"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["inkstone"])


def drawn(prompt: str, size: tuple[int, int], seed: int) -> Image.Image:
    """One picture of the embedded model, as `inkstone draw` makes it."""
    import tempfile

    from inkstone.headless.cli import main

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "p.png"
        width, height = size
        call = [
            "draw",
            prompt,
            "-o",
            str(out),
            "--size",
            f"{width}x{height}",
            "--seed",
            str(seed),
            "--quiet",
        ]
        assert main(call) == 0
        return Image.open(out).convert("RGB").copy()


def started(name: str) -> Image.Image:
    """What an example graph saves."""
    import tempfile

    from inkstone.headless.run import run_file
    from inkstone.nodes.host import HeadlessHost

    with tempfile.TemporaryDirectory() as folder:
        host = HeadlessHost(output=Path(folder), temp=Path(folder) / "temp")
        graph = ROOT / "workflows" / "api" / f"{name}.json"
        files = run_file(graph, [], host, lambda value, total: None)["files"]
        (file,) = (f for f in files if Path(f).parent.name == "inkstone")
        return Image.open(file).convert("RGB").copy()


def card(text: str) -> Image.Image:
    """Words on a plain ground."""
    image = Image.new("RGB", (384, 384), (32, 34, 40))
    draw = ImageDraw.Draw(image)
    draw.multiline_text(
        (36, 120), text, font=ImageFont.load_default(size=34), fill=(230, 230, 230), spacing=18
    )
    return image


def main() -> None:
    """Writes docs/embedded.png and workflows/*.jpg."""
    package()
    made = [drawn(*p) for p in PICTURES]
    gap, height = 12, 192
    big = [m.resize((m.width * 3 // 2, m.height * 3 // 2), Image.Resampling.LANCZOS) for m in made]
    rows = (big[:3], big[3:])
    width = max(sum(b.width + gap for b in row) for row in rows) + gap
    sheet = Image.new("RGB", (width, 2 * (height + gap) + gap), (255, 255, 255))
    for r, row in enumerate(rows):
        x = (width - sum(b.width + gap for b in row) + gap) // 2
        for b in row:
            sheet.paste(b, (x, gap + r * (height + gap) + (height - b.height) // 2))
            x += b.width + gap
    sheet.save(ROOT / "docs" / "embedded.png", optimize=True)
    made[0].resize((384, 384), Image.Resampling.LANCZOS).save(
        ROOT / "workflows" / "text_to_image_embedded.jpg", quality=88
    )
    for name in STARTED:
        picture = started(name).resize((384, 384), Image.Resampling.LANCZOS)
        picture.save(ROOT / "workflows" / f"{name}.jpg", quality=88)
    for name, text in CARDS.items():
        card(text).save(ROOT / "workflows" / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
