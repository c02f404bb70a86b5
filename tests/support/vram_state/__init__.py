"""A pack of the tests: puts ComfyUI's memory manager into the state that --lowvram or --novram asks
for. A server without a GPU refuses these flags with --cpu; the state is read at every load.
"""

import logging
import os

import comfy.model_management as management

NODE_CLASS_MAPPINGS = {}
STATE = os.environ.get("INKSTONE_TEST_VRAM_STATE")
if STATE:
    management.vram_state = management.VRAMState[STATE]
    management.set_vram_to = management.VRAMState[STATE]
    logging.warning("memory state of the tests: %s", management.vram_state.name)
