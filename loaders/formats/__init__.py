"""Containers: safetensors, GGUF, Hugging Face folders."""
