"""LoRA files of every trainer, and their side branches on a model."""
