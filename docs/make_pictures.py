"""Draws the README's picture: `python docs/make_pictures.py` (scripts/workflows/cards.py draws the
thumbnails of the example graphs)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.headless.cli.main import main as inkstone
from scripts.package import ROOT

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


def drawn(prompt: str, size: tuple[int, int], seed: int) -> Image.Image:
    """One picture of the embedded model, as `inkstone draw` makes it."""
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
        assert inkstone(call) == 0
        return Image.open(out).convert("RGB").copy()


def main() -> None:
    """Writes docs/embedded.png."""
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


if __name__ == "__main__":
    main()
