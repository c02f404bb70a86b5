"""ComfyUI as the host of the pack, and what stands in for it headless."""
