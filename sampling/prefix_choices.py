"""Where keys and values that serve all steps are kept, as people choose it; without torch."""

import logging
from collections.abc import Mapping
from typing import Final, Literal

log = logging.getLogger(__name__)

Keep = Literal["auto", "device", "host", "off"]
AUTO: Final = "auto"
KEEPS: tuple[Keep, ...] = (AUTO, "device", "host", "off")
CORE_PLACES: Final[Mapping[str, Keep]] = {
    "auto": AUTO,
    "gpu": "device",
    "cpu": "host",
    "off": "off",
}
"""Places of ComfyUI's Qwen Image 2.1 Cache -> ours."""


def core_keep(device: str, dtype: str) -> Keep:
    """Our place for the settings of ComfyUI's Qwen Image 2.1 Cache. Nothing is rounded: one line
    where the node asks for that.
    """
    if dtype != "default":
        log.info(
            "Qwen Image 2.1 Cache asks for %s: keys and values are kept exactly, as computed", dtype
        )
    return CORE_PLACES.get(device, AUTO)
