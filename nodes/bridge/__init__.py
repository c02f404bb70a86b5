"""Our networks as ComfyUI's own MODEL, CLIP and VAE."""
