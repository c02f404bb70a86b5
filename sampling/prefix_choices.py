"""Where keys and values that serve all steps are kept, as people choose it; without torch."""

from typing import Literal

Keep = Literal["auto", "device", "host", "off"]
AUTO: Keep = "auto"
KEEPS: tuple[Keep, ...] = (AUTO, "device", "host", "off")
