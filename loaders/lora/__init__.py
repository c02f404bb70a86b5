"""LoRA files of every spelling, and their side branches on a model."""
