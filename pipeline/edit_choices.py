"""Choices of edits and inpainting for node schemas and the command line. No torch here."""

from __future__ import annotations

AUTO, OWN, MODEL = "auto", "the picture's own", "the model's"
WORK_SIZES = (AUTO, OWN, MODEL)
CROPS = ("auto", "on", "off")
LAYER_AREAS = {"640x640": 640 * 640, "1024x1024": 1024 * 1024}  # pixels, of the layered model
