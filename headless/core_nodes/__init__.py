"""Stand-ins for ComfyUI's own nodes."""
