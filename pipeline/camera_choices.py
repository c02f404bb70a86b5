"""The camera positions of the LoRA fal/Qwen-Image-Edit-2511-Multiple-Angles-LoRA: 96 prompts.

Its words are fixed by its training: `<sks>`, then one of each table, in this order.
"""

from __future__ import annotations

AROUND = (  # every 45 degrees, to the right
    "front view",
    "front-right quarter view",
    "right side view",
    "back-right quarter view",
    "back view",
    "back-left quarter view",
    "left side view",
    "front-left quarter view",
)
HEIGHTS = ("low-angle shot", "eye-level shot", "elevated shot", "high-angle shot")  # -30 to 60
DISTANCES = ("close-up", "medium shot", "wide shot")
EYE_LEVEL, MEDIUM = HEIGHTS[1], DISTANCES[1]


def camera_prompt(around: str, height: str, distance: str) -> str:
    """The prompt for a camera position."""
    return f"<sks> {around} {height} {distance}"
