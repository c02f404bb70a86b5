"""The host of the pack: ComfyUI, or its headless replacement."""
