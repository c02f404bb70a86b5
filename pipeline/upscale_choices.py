"""Limits and usual values of enlarging a picture, without torch."""

from typing import Final

USUAL_FACTOR: Final = 2.0
MOST_FACTOR: Final = 16
USUAL_STRENGTH: Final = 0.1
